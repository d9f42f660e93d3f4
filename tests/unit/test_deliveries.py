"""Who was told what: tries, pauses, rounds, and what is kept."""

import pytest

from looop import store
from looop.notifications import deliveries
from looop.clock import Stamp
from looop.notifications.deliveries import DESKTOP, TRIES, Delivery, Record, later
from looop.errors import UsageError
from looop.paths import Paths

NOW = Stamp(1_700_000_000.0, "b" * 32, 5000.0)
HOOK = "hook: mail"


def noted(paths: Paths, record: Record) -> Record:
    with deliveries.locked(paths):
        deliveries.save(paths, record)
    return record


def test_a_record_is_read_as_it_was_written(paths: Paths) -> None:
    record = Record(
        "w1-1", deliveries.ESCALATED, NOW, 2, "text", "key", {"id": "w1-1"}, later(NOW, 60),
        {HOOK: Delivery(3, 0.0, later(NOW, 30), "exited 1"), DESKTOP: Delivery(1, NOW.wall, None, "", 7, ":1.5")},
        [{"kind": "raised", "round": 0, "channel": DESKTOP, "ts": NOW.wall}],
    )  # fmt: skip
    assert deliveries.read(paths, noted(paths, record).subject) == record


@pytest.mark.parametrize(
    "subject",
    ["../x", "a/b", ".hidden", "", "x" * 200, "a-../../b", "x" * 64 + "/../y", "x" * 127 + "/y"],
    ids=lambda subject: f"{subject[:4]}-{len(subject)}",
)
def test_no_subject_leaves_the_folder(paths: Paths, subject: str) -> None:
    with pytest.raises(UsageError):
        deliveries.read(paths, subject)


def test_an_ask_of_the_longest_worker_name_has_a_record(paths: Paths) -> None:
    assert noted(paths, Record("w" * 64 + "-12", deliveries.RAISED, NOW)).subject in deliveries.subjects(paths)


def test_pauses_grow_and_end_within_hours() -> None:
    pauses = [deliveries.pause(tries, 30) for tries in range(1, TRIES)]
    assert pauses == [30, 90, 270, 810, 2430, 7200, 7200] and sum(pauses) < 6 * 3600


@pytest.mark.parametrize(
    ("every", "steps"),
    [(3600, [3600, 7200, 14400, 28800, 57600, 86400, 86400]), (7 * 86400, [7 * 86400] * 3)],
)
def test_escalations_double_up_to_a_day(every: float, steps: list[float]) -> None:
    assert [deliveries.escalation(every, n) for n in range(len(steps))] == steps


def test_a_failing_channel_waits_while_the_others_are_done(paths: Paths) -> None:
    record = noted(paths, Record("w1-1", deliveries.RAISED, NOW))
    names = [HOOK, "hook: other"]
    assert record.due(names, NOW) == names
    with deliveries.changing(paths, "w1-1") as mine:
        assert mine
        for name in names:
            deliveries.begin_try(mine.delivery(name), NOW, 30)
    assert deliveries.note(paths, record, HOOK, "exited 1", NOW, 30) == "exited 1"
    assert deliveries.note(paths, record, "hook: other", "", NOW, 30) == ""
    after = deliveries.read(paths, "w1-1")
    assert after and after.due(names, NOW) == [] and after.wake(names, NOW) == 30
    assert after.due(names, later(NOW, 30)) == [HOOK]
    assert [told["channel"] for told in after.told] == ["hook: other"]


def test_a_failure_is_news_once_and_again_when_given_up(paths: Paths) -> None:
    record = noted(paths, Record("w1-1", deliveries.RAISED, NOW))
    news = []
    for _ in range(TRIES):
        with deliveries.changing(paths, "w1-1") as mine:
            assert mine
            deliveries.begin_try(mine.delivery(HOOK), NOW, 30)
        news.append(deliveries.note(paths, record, HOOK, "exited 1", NOW, 30))
    assert news == ["exited 1", *[""] * (TRIES - 2), f"given up after {TRIES} tries: exited 1"]
    after = deliveries.read(paths, record.subject)
    assert after and after.wake([HOOK], NOW) is None
    assert deliveries.failing(paths)[HOOK]["error"] == "exited 1"


def test_a_channel_that_works_again_fails_no_more(paths: Paths) -> None:
    record = noted(paths, Record("w1-1", deliveries.RAISED, NOW))
    deliveries.note(paths, record, HOOK, "exited 1", NOW, 30)
    deliveries.note(paths, record, HOOK, "", NOW, 30)
    assert deliveries.failing(paths) == {}
    assert deliveries.streak(paths, HOOK, "exited 1", NOW) and not deliveries.streak(paths, HOOK, "exited 1", NOW)
    assert deliveries.streak(paths, HOOK, "exited 2", NOW)


@pytest.mark.parametrize(
    "news",
    [
        Record("w1-1", deliveries.ESCALATED, NOW, round=1),
        Record("w1-1", deliveries.EXPIRED, later(NOW, 5)),
        Record("w1-1", deliveries.RAISED, NOW, key="another failure"),
    ],
    ids=["escalated", "expired", "failed again"],
)
def test_a_try_that_ends_after_there_are_news_does_not_count_for_them(paths: Paths, news: Record) -> None:
    tried = noted(paths, Record("w1-1", deliveries.RAISED, NOW))
    noted(paths, news)
    deliveries.note(paths, tried, HOOK, "", NOW, 30)
    after = deliveries.read(paths, "w1-1")
    assert after and not after.channels


def test_a_file_whose_name_is_no_subject_is_left_alone(paths: Paths) -> None:
    record = noted(paths, Record("w1-1", deliveries.RAISED, NOW))
    store.write(paths.notifications / "my notes.json", "{}")
    assert deliveries.subjects(paths) == [record.subject]


def test_a_new_round_is_for_everybody_and_replaces_what_is_on_the_screen() -> None:
    record = Record("w1-1", deliveries.RAISED, NOW)
    record.channels = {HOOK: Delivery(1, NOW.wall), DESKTOP: Delivery(1, NOW.wall, popup=7, owner=":1.5")}
    record.again(deliveries.ESCALATED)
    assert record.due([HOOK, DESKTOP], NOW) == [HOOK, DESKTOP] and record.channels[DESKTOP].popup == 7


@pytest.mark.parametrize(
    ("delivery", "owner", "wanted"),
    [
        (Delivery(), ":1.5", True),
        (Delivery(), "", True),  # the bus may start one
        (Delivery(error="no desktop"), ":1.5", True),
        (Delivery(1, due=later(NOW, 60), error="x", owner=":1.5"), ":1.5", False),
        (Delivery(1, due=later(NOW, 60), error="x", owner=""), ":1.5", True),
        (Delivery(TRIES, error="x", owner=":1.5"), ":1.5", False),
        (Delivery(TRIES, error="x", owner=":1.5"), ":1.9", True),
        (Delivery(1, NOW.wall, popup=7, owner=":1.5"), ":1.5", False),
        (Delivery(1, NOW.wall, popup=7, owner=":1.5"), ":1.9", True),
        (Delivery(1, NOW.wall, popup=7, owner=":1.5"), "", False),
        (Delivery(1, NOW.wall, popup=0, owner=":1.5"), ":1.9", False),  # dismissed
    ],
)
def test_a_desktop_is_shown_what_it_has_not(delivery: Delivery, owner: str, wanted: bool) -> None:
    assert delivery.wanted_by(owner, NOW) is wanted


def test_a_desktop_that_is_not_there_wakes_nobody() -> None:
    record = Record("w1-1", deliveries.RAISED, NOW, channels={DESKTOP: Delivery(error="no desktop")})
    assert record.wake([DESKTOP], NOW) is None
    record.escalate = later(NOW, 60)
    assert record.wake([DESKTOP], NOW) == 60


def test_what_is_over_is_archived_and_forgotten_in_time(paths: Paths) -> None:
    record = noted(paths, Record("w1-1", deliveries.RAISED, NOW))
    record.over = "answered"
    noted(paths, record)
    assert deliveries.subjects(paths) == []
    archived = deliveries.told_folder(paths) / "w1-1.json"
    written = archived.stat().st_mtime
    deliveries.prune(paths, 60, written + 59)
    assert archived.exists()
    deliveries.prune(paths, 60, written + 61)
    assert archived.exists(), "looked for now and then only"
    deliveries.prune(paths, 60, written + 66)
    assert not archived.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": 1}', '{"kind": "raised", "since": {}}'])
def test_a_record_that_cannot_be_read_is_set_aside(paths: Paths, content: str) -> None:
    store.write(paths.notifications / "w1-1.json", content)
    with deliveries.changing(paths, "w1-1") as record:
        assert record is None
    assert (paths.notifications / "w1-1.json.broken").exists()


def test_a_clock_that_was_set_moves_no_pause() -> None:
    at = later(NOW, 60)
    assert deliveries.left(at, Stamp(NOW.wall + 86400, NOW.boot, NOW.mono + 10)) == 50
    assert deliveries.left(at, Stamp(NOW.wall + 10, "c" * 32, 3.0)) == 50
