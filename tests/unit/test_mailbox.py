"""A question is asked once, answered once, and its answer reaches whoever asked or nobody."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from looop import mailbox, store, tells
from looop.clock import Stamp, boot_id
from looop.ctl import main
from looop.errors import Refused, StateError, Unavailable, UsageError
from looop.mailbox import Answer, Ask
from looop.paths import Paths
from looop.systemd import journal
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit
from looop.watch import Watcher

NOW = 1000.0
TREE = Path(__file__).parents[2]


def holder(worker: str, invocation: str = "1" * 32) -> Holder:
    return Holder(worker_unit(worker), "user", invocation, boot_id())


def stamp(wall: float = NOW) -> Stamp:
    return Stamp(wall, boot_id(), wall)


def live(who: Holder) -> bool:
    return True


def dead(who: Holder) -> bool:
    return False


def delivered(paths: Paths, ask_id: str, text: str = "yes", now: float = NOW) -> None:
    """Answered, and read by whoever asked."""
    asked = mailbox.answer(paths, ask_id, text, now)
    assert asked.answer
    mailbox.deliver(paths, asked, asked.answer, now)


def back_date(paths: Paths, ask_id: str, when: float) -> None:
    os.utime(paths.asks_done / f"{ask_id}.json", (when, when))


def unknown(who: Holder) -> bool:
    raise Unavailable("cannot reach systemd: no bus")


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    seen: list[str] = []
    monkeypatch.setattr(mailbox, "_tell", lambda event, ask, said: seen.append(f"{event} {ask.id}"))
    monkeypatch.setattr(tells, "_emit", lambda event, message: seen.append(f"{event} {message.id}"))
    yield seen


def ask(paths: Paths, worker: str = "w", prompt: str = "Deploy?", now: float = NOW, who: Holder | None = None) -> Ask:
    return mailbox.raise_ask(paths, worker, prompt, now, holder=who)


# -- asks


def test_an_ask_is_recorded_with_who_asked(paths: Paths, events: list[str]) -> None:
    made = mailbox.raise_ask(
        paths, "w", "Deploy?\nreally?", NOW, reference="http://x", options=("yes, now", "no"), holder=holder("w")
    )
    assert json.loads((paths.asks / "w-1.json").read_text()) == {
        "v": 1, "id": "w-1", "worker": "w", "prompt": "Deploy?\nreally?", "reference": "http://x",
        "options": ["yes, now", "no"], "ts": NOW, **holder("w").to_json(),
    }  # fmt: skip
    assert mailbox.pending(paths) == [made] and made.options == ("yes, now", "no")
    assert events == ["ask_raised w-1"]


def test_numbers_count_up_and_are_never_used_again(paths: Paths) -> None:
    assert [ask(paths, prompt=str(n)).id for n in range(3)] == ["w-1", "w-2", "w-3"]
    assert mailbox.withdraw(paths, "w-3", NOW) is None
    assert ask(paths).id == "w-4"
    mailbox.answer(paths, "w-4", "yes", NOW)
    (paths.asks / "w-4.json").unlink()
    assert ask(paths).id == "w-5"
    delivered(paths, "w-5")
    assert ask(paths).id == "w-6"
    for ask_id in ("w-3", "w-5"):
        back_date(paths, ask_id, NOW)
    assert mailbox.prune(paths, 10, NOW + 11) == ["w-4", "w-3", "w-5"]
    assert ask(paths).id == "w-7"
    assert ask(paths, "w-6").id == "w-6-1"
    assert ask(paths).id == "w-8"


def test_older_asks_come_first_and_2_before_10(paths: Paths) -> None:
    for n in range(11):
        ask(paths, prompt=str(n))
    ask(paths, "early", now=NOW - 1)
    assert [a.id for a in mailbox.pending(paths)] == ["early-1"] + [f"w-{n}" for n in range(1, 12)]


def test_a_killed_ask_is_taken_up_again_by_the_same_question(paths: Paths) -> None:
    first = ask(paths, who=holder("w"))
    assert ask(paths, who=holder("w"), now=NOW + 60) == first
    assert ask(paths, who=holder("w"), prompt="Other?").id == "w-2"
    mailbox.answer(paths, "w-1", "yes", NOW)
    again = ask(paths, who=holder("w"))
    assert again.id == "w-1" and again.answer == Answer("yes", NOW)  # but nobody was there to read it
    mailbox.deliver(paths, first, Answer("yes", NOW), NOW)
    assert ask(paths, who=holder("w")).id == "w-3"


def test_the_next_generation_asks_anew(paths: Paths) -> None:
    ask(paths, who=holder("w"))
    mailbox.answer(paths, "w-1", "yes", NOW)
    again = ask(paths, who=holder("w", "2" * 32))
    assert again.id == "w-2" and mailbox.read_answer(paths, again.id) is None


@pytest.mark.parametrize("prompt", ["", " \n", "a\0b", "\udcff"])
def test_a_prompt_without_text_is_refused(paths: Paths, prompt: str) -> None:
    with pytest.raises(UsageError):
        ask(paths, prompt=prompt)
    assert mailbox.pending(paths) == []


@pytest.mark.parametrize("ask_id", [
    "", "w", "w-", "-1", "w-x", "../x-1", "w-1/..", "w-²", ".w-1", "w\n-1", "x" * 300 + "-1",
    "w-" + "1" * 5000,
])  # fmt: skip
def test_a_bad_ask_id_is_refused(paths: Paths, ask_id: str) -> None:
    with pytest.raises(UsageError):
        mailbox.answer(paths, ask_id, "yes", NOW)
    with pytest.raises(UsageError):
        mailbox.find(paths, ask_id)


def test_the_longest_worker_name_can_ask(paths: Paths) -> None:
    worker = "x" * 64
    made = ask(paths, worker)
    mailbox.answer(paths, made.id, "yes", NOW)
    assert mailbox.read_answer(paths, made.id) == Answer("yes", NOW)


def test_an_unreadable_ask_is_shown_and_hides_nothing(paths: Paths) -> None:
    ask(paths)
    ask(paths, "x")
    (paths.asks / "w-1.json").write_text("{")
    (paths.asks / "y-1.json").mkdir()
    (paths.asks / "z-1.json").symlink_to(paths.asks / "x-1.json")
    found = {a.id: bool(a.broken) for a in mailbox.pending(paths)}
    assert found == {"w-1": True, "x-1": False, "y-1": True, "z-1": True}
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert "w-1" not in {a.id for a in mailbox.pending(paths)}


def test_what_is_not_an_ask_is_left_alone(paths: Paths) -> None:
    (paths.asks / "notes.json").write_text("{}")
    (paths.asks / ".hidden-1.json").write_text("{}")
    assert mailbox.pending(paths) == []


def test_an_old_record_is_read(paths: Paths) -> None:
    (paths.asks / "w-1.json").write_text('{"id":"w-1","worker":"w","prompt":"?","ts":12,"detach":true,"v":2}')
    assert mailbox.pending(paths) == [Ask("w-1", "w", "?", ts=12.0)]


# -- answers


def test_the_first_answer_wins_unless_forced(paths: Paths, events: list[str]) -> None:
    ask(paths)
    mailbox.answer(paths, "w-1", "yes", NOW)
    with pytest.raises(Refused, match="already answered.*--force"):
        mailbox.answer(paths, "w-1", "no", NOW)
    assert mailbox.read_answer(paths, "w-1") == Answer("yes", NOW)
    mailbox.answer(paths, "w-1", "no", NOW, force=True)
    assert mailbox.read_answer(paths, "w-1") == Answer("no", NOW)
    assert mailbox.pending(paths) == []
    assert events.count("ask_answered w-1") == 2


def test_only_what_was_asked_can_be_answered(paths: Paths) -> None:
    with pytest.raises(Refused, match="no such ask"):
        mailbox.answer(paths, "w-1", "yes", NOW, force=True)
    assert store.names(paths.answers, ".json") == []


def test_a_corrupt_answer_keeps_the_ask_open_and_force_mends_it(paths: Paths) -> None:
    ask(paths)
    (paths.answers / "w-1.json").write_text('{"answer": 7}')
    assert [a.id for a in mailbox.pending(paths)] == ["w-1"]
    with pytest.raises(StateError, match="--force w-1"):
        mailbox.read_answer(paths, "w-1")
    assert mailbox.prune(paths, 0, NOW) == []
    mailbox.answer(paths, "w-1", "yes", NOW, force=True)
    assert mailbox.pending(paths) == []


def test_an_answer_written_by_hand_counts_from_when_it_was_written(paths: Paths) -> None:
    ask(paths, who=holder("w"))
    (paths.answers / "w-1.json").write_text('{"answer": "yes"}')
    os.utime(paths.answers / "w-1.json", (NOW, NOW))
    assert mailbox.read_answer(paths, "w-1") == Answer("yes", NOW)
    assert mailbox.prune(paths, 10, NOW + 5) == [], "its asker may still come for it"
    assert mailbox.prune(paths, 10, NOW + 11) == ["w-1"]


def test_a_record_cannot_say_what_is_not_so(paths: Paths) -> None:
    ask(paths)
    (paths.asks / "w-1.json").write_text('{"worker": "\\u001b[2J", "prompt": "Deploy?"}')
    found = mailbox.find(paths, "w-1")
    assert found and found.worker == "w"
    (paths.asks / "w-1.json").write_text('{"worker": "w", "prompt": "Deploy?", "end": "\\u001b[2J"}')
    found = mailbox.find(paths, "w-1")
    assert found and "end: expected" in found.broken and found.broken.isprintable()


def test_an_ask_is_answered_or_withdrawn_never_both(paths: Paths) -> None:
    ask(paths)
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert mailbox.withdraw(paths, "w-1", NOW) == Answer("yes", NOW)
    ask(paths, prompt="Again?")
    assert mailbox.withdraw(paths, "w-2", NOW) is None
    with pytest.raises(Refused):
        mailbox.answer(paths, "w-2", "yes", NOW)


@pytest.mark.parametrize("step", range(4))
def test_interrupted_archiving_never_opens_an_answered_ask_again(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    first = ask(paths)
    ask(paths, prompt="Open?")
    mailbox.answer(paths, "w-1", "yes", NOW)
    done: list[str] = []

    def stop_before_step(path: Path, *rest: object) -> bool:
        if len(done) == step:
            raise StateError("cannot go on: interrupted")
        done.append(str(path))
        originals[path.suffix if rest else "remove"](path, *rest)
        return True

    originals: dict[str, Callable[..., object]] = {"remove": store.remove, ".json": store.write_json}
    with monkeypatch.context() as patch:
        for name in ("remove", "write_json"):
            patch.setattr(store, name, stop_before_step)
        if step < 3:
            with pytest.raises(StateError):
                mailbox.deliver(paths, first, Answer("yes", NOW), NOW)
        else:
            mailbox.deliver(paths, first, Answer("yes", NOW), NOW)
    assert len(done) == step and [a.id for a in mailbox.pending(paths)] == ["w-2"]
    found = mailbox.find(paths, "w-1")
    assert found and found.answer == Answer("yes", NOW) and found.end == ("delivered" if step else "")
    mailbox.prune(paths, 10, NOW + 11)
    assert [a.id for a in mailbox.open_asks(paths)] == ["w-2"] and store.names(paths.answers, ".json") == []
    found = mailbox.find(paths, "w-1")
    assert found and found.end == ("delivered" if step else "answered")


# -- delivery and the archive


def test_what_is_delivered_leaves_both_folders_for_one_record(paths: Paths, events: list[str]) -> None:
    asked = mailbox.raise_ask(paths, "w", "Deploy?", NOW, reference="r", options=("a", "b"), holder=holder("w"))
    delivered(paths, "w-1", now=NOW + 5)
    assert not store.names(paths.asks, ".json") and not store.names(paths.answers, ".json")
    assert json.loads((paths.asks_done / "w-1.json").read_text()) == {
        **asked.to_json(), "answer": "yes", "answered": NOW + 5, "by": "human", "end": "delivered", "ended": NOW + 5,
    }  # fmt: skip
    assert mailbox.open_asks(paths) == []
    found = mailbox.find(paths, "w-1")
    assert found and mailbox.state(found, unknown) == "delivered" and found.answer == Answer("yes", NOW + 5)
    assert events[-1] == "ask_delivered w-1"
    mailbox.deliver(paths, asked, Answer("yes", NOW), NOW)
    assert events.count("ask_delivered w-1") == 1


def test_too_late_an_answer_is_told_what_was_said(paths: Paths) -> None:
    ask(paths)
    ask(paths, prompt="Again?")
    delivered(paths, "w-1")
    for force in (False, True):
        with pytest.raises(Refused, match="already answered: 'yes', and w has read it"):
            mailbox.answer(paths, "w-1", "no", NOW, force)
    mailbox.withdraw(paths, "w-2", NOW)
    with pytest.raises(Refused, match="it was withdrawn"):
        mailbox.answer(paths, "w-2", "no", NOW, True)


def test_what_is_archived_is_what_was_read(paths: Paths) -> None:
    asked = ask(paths)
    mailbox.answer(paths, "w-1", "yes", NOW)
    mailbox.answer(paths, "w-1", "no", NOW, force=True)  # after the asker had printed "yes"
    mailbox.deliver(paths, asked, Answer("yes", NOW), NOW)
    found = mailbox.find(paths, "w-1")
    assert found and found.answer == Answer("yes", NOW)


def test_an_answer_nobody_comes_for_is_archived_after_its_time(paths: Paths) -> None:
    ask(paths, who=holder("w"))
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert mailbox.prune(paths, 10, NOW + 5) == []
    assert [a.id for a in mailbox.open_asks(paths)] == ["w-1"] and mailbox.pending(paths) == []
    assert mailbox.prune(paths, 10, NOW + 11) == ["w-1"]
    found = mailbox.find(paths, "w-1")
    assert found and (found.end, found.ended) == ("answered", NOW + 11)
    mailbox.deliver(paths, found, Answer("yes", NOW), NOW + 12)  # a slow asker, after all
    found = mailbox.find(paths, "w-1")
    assert found and found.end == "delivered"


def test_the_archive_is_pruned_by_its_own_age(paths: Paths) -> None:
    for n in range(1, 4):
        ask(paths)
        delivered(paths, f"w-{n}")
        back_date(paths, f"w-{n}", NOW + n)
    (paths.asks_done / "notes.json").write_text("{}")
    os.utime(paths.asks_done / "notes.json", (0, 0))
    assert mailbox.prune(paths, 10, NOW + 12.5) == ["w-1", "w-2"]
    assert mailbox.prune(paths, 10, NOW + 13.4) == []  # not every beat looks through the archive
    assert mailbox.prune(paths, 10, NOW + 14) == ["w-3"]
    assert store.names(paths.asks_done, ".json") == ["notes"]
    assert ask(paths).id == "w-4"


def test_the_layouts_before_are_taken_over(paths: Paths) -> None:
    old = {"id": "u-1", "worker": "u", "prompt": "?", "ts": NOW}  # upstream's: no holder, stays a pair
    (paths.asks / "u-1.json").write_text(json.dumps(old))
    (paths.answers / "u-1.json").write_text(json.dumps({"answer": "yes", "ts": NOW}))
    ours = {**old, "id": "w-1", "worker": "w", **holder("w").to_json()}
    (paths.asks / "w-1.json").write_text(json.dumps({**ours, "delivered": True}))
    (paths.answers / "w-1.json").write_text(json.dumps({"answer": "yes", "ts": NOW}))
    (paths.asks / "w-2.json").write_text(json.dumps({**ours, "id": "w-2"}))
    (paths.answers / "w-2.json").write_text(json.dumps({"answer": "no", "ts": NOW}))
    assert [(a.id, mailbox.state(a, live)) for a in mailbox.open_asks(paths)] == [
        ("u-1", "answered"), ("w-2", "answered"),
    ]  # fmt: skip
    assert mailbox.pending(paths) == [] and ask(paths).id == "w-3"
    assert mailbox.prune(paths, 86400, NOW + 60) == ["w-1"]
    assert mailbox.prune(paths, 86400, NOW + 3700) == ["u-1"]
    ends = {a.id: a.end for a in mailbox.history(paths, 0)}
    assert ends == {"u-1": "answered", "w-1": "delivered", "w-2": "", "w-3": ""}


def test_closing_ends_an_ask_without_an_answer(paths: Paths, events: list[str]) -> None:
    ask(paths)
    mailbox.close(paths, "w-1", "closed", NOW)
    assert mailbox.open_asks(paths) == [] and events[-1] == "ask_withdrawn w-1"
    found = mailbox.find(paths, "w-1")
    assert found and mailbox.state(found, live) == "closed"
    for ask_id, why in (("w-1", "closed already"), ("w-2", "no such ask")):
        with pytest.raises(Refused, match=why):
            mailbox.close(paths, ask_id, "closed", NOW)


def test_a_broken_ask_is_put_aside_not_lost(paths: Paths) -> None:
    asked = ask(paths)
    (paths.asks / "w-1.json").write_text('{"half')
    mailbox.answer(paths, "w-1", "yes", NOW)
    mailbox.deliver(paths, asked, Answer("yes", NOW), NOW)
    found = mailbox.find(paths, "w-1")
    assert found and found.prompt == "Deploy?" and found.end == "delivered"
    assert (paths.asks / "w-1.json.broken").read_text() == '{"half' and mailbox.open_asks(paths) == []


def test_history_is_the_latest_newest_last(paths: Paths) -> None:
    for n in range(1, 13):
        ask(paths, now=NOW + n)
        if n < 11:
            delivered(paths, f"w-{n}")
            back_date(paths, f"w-{n}", NOW + n)
    (paths.asks_done / "w-10.json").write_text("{")
    assert [a.id for a in mailbox.history(paths, 3)] == ["w-9", "w-11", "w-12"]
    found = mailbox.history(paths, 0)
    assert [a.id for a in found] == ["w-10", *(f"w-{n}" for n in range(1, 10)), "w-11", "w-12"] and found[0].broken


def opened(call: Callable[[], object]) -> int:
    """How many files the call opens or examines, and how many names it lists."""
    count = 0
    originals = {name: getattr(os, name) for name in ("open", "lstat", "stat")}

    def counted(name: str) -> Callable[..., object]:
        def wrapper(*args: object, **options: object) -> object:
            nonlocal count
            count += 1
            return originals[name](*args, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in originals:
            patch.setattr(os, name, counted(name))
        listed = os.scandir

        def scandir(path: object) -> object:
            nonlocal count
            entries = list(listed(path))  # type: ignore[call-overload]
            count += len(entries)
            return entries

        patch.setattr(os, "scandir", scandir)
        call()
    return count


def test_ten_thousand_answered_asks_cost_nothing_to_those_that_are_open(paths: Paths) -> None:
    def work() -> None:
        for n in range(3):
            ask(paths, prompt=f"{n}?", who=holder("w"))
        assert len(mailbox.open_asks(paths)) == 3
        mailbox.waiting(paths, live, NOW)
        mailbox.prune(paths, 86400, NOW)
        for a in mailbox.open_asks(paths):
            delivered(paths, a.id)

    ask(paths)
    delivered(paths, "w-1")
    mailbox.prune(paths, 86400, NOW)
    few = opened(work)
    record = (paths.asks_done / "w-1.json").read_bytes()
    for n in range(100, 10_100):
        (paths.asks_done / f"w-{n}.json").write_bytes(record)
    store.retire_numbers(paths.asks / ".numbers.json", ["w-10099"])
    many = opened(work)
    assert many <= few + 2, (few, many)
    assert ask(paths).id == "w-10103"


# -- expiry


def expiring(paths: Paths, seconds: float = 60.0, who: Holder | None = None) -> Ask:
    return mailbox.raise_ask(
        paths, "w", "Deploy?", NOW, holder=who, expires_in=seconds, default="no", asked=stamp(), escalate_after=30.0
    )


def test_an_ask_says_when_it_expires_and_as_what(paths: Paths) -> None:
    made = expiring(paths)
    record = json.loads((paths.asks / "w-1.json").read_text())
    assert (record["expires"], record["default"], record["escalate_after"]) == (NOW + 60, "no", 30.0)
    assert mailbox.find(paths, "w-1") == made
    row = mailbox.row(made, live, NOW)
    assert (row["expires"], row["default"], row["escalate_after"]) == (NOW + 60, "no", 30.0)
    with pytest.raises(UsageError, match="default"):
        mailbox.raise_ask(paths, "w", "?", NOW, expires_in=1.0)


def test_at_its_time_the_default_is_the_answer(paths: Paths, events: list[str]) -> None:
    expiring(paths)
    assert mailbox.expire(paths, "w-1", stamp(NOW + 59)) is None
    done = mailbox.expire(paths, "w-1", stamp(NOW + 60))
    assert done and done.answer == Answer("no", NOW + 60, "default") == mailbox.read_answer(paths, "w-1")
    assert events[-1] == "ask_expired w-1"
    assert mailbox.expire(paths, "w-1", stamp(NOW + 61)) is None
    with pytest.raises(Refused, match="already answered: 'no', its default"):
        mailbox.answer(paths, "w-1", "yes", NOW)
    mailbox.deliver(paths, done, done.answer, NOW)
    found = mailbox.find(paths, "w-1")
    assert found and found.answer == done.answer


def test_an_answer_in_time_is_kept(paths: Paths) -> None:
    expiring(paths)
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert mailbox.expire(paths, "w-1", stamp(NOW + 60)) is None
    ask(paths, "x")
    assert mailbox.expire(paths, "x-1", stamp(NOW + 1e9)) is None
    expiring(paths)
    (paths.answers / "w-2.json").write_text("{")  # somebody has answered, we cannot tell what
    assert mailbox.expire(paths, "w-2", stamp(NOW + 60)) is None


def test_a_clock_that_is_set_does_not_decide_for_the_human(paths: Paths) -> None:
    expiring(paths)
    assert mailbox.expire(paths, "w-1", Stamp(NOW + 1e6, boot_id(), NOW + 10)) is None
    rebooted = Stamp(NOW + 61, "f" * 32, 3.0)
    assert mailbox.expire(paths, "w-1", rebooted) is not None
    expiring(paths)
    assert mailbox.expire(paths, "w-2", Stamp(NOW - 1e6, boot_id(), NOW + 61)) is not None


def test_the_beat_expires_for_the_living_only(paths: Paths) -> None:
    expiring(paths, who=holder("w"))
    ask(paths, "x", who=holder("x"))
    for judge in (dead, unknown):
        assert mailbox.expire_due(paths, judge, stamp(NOW + 61)) == []
    assert mailbox.expire_due(paths, live, stamp(NOW + 59)) == []
    assert [a.id for a in mailbox.expire_due(paths, live, stamp(NOW + 61))] == ["w-1"]
    assert [a.id for a in mailbox.pending(paths)] == ["x-1"]


# -- who waits


def test_state(paths: Paths) -> None:
    asked = ask(paths, who=holder("w"))
    assert [mailbox.state(asked, j) for j in (live, dead, unknown)] == ["pending", "stranded", "unknown"]
    by_hand = ask(paths, prompt="By hand?")
    assert mailbox.state(by_hand, live) == "unknown"
    answered = mailbox.answer(paths, asked.id, "yes", NOW)
    assert [mailbox.state(answered, j) for j in (live, dead, unknown)] == ["answered", "stranded", "answered"]
    assert mailbox.state(mailbox.answer(paths, by_hand.id, "yes", NOW), live) == "answered"
    (paths.asks / "w-1.json").write_text("{")
    assert [mailbox.state(a, live) for a in mailbox.open_asks(paths)] == ["broken", "answered"]


# -- numbers


@pytest.mark.parametrize("damage", ["{", '{"w": "7"}', "a folder", "gone"])
def test_a_damaged_ledger_is_said_once_and_made_anew(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    for n in (1, 2, 3):
        ask(paths)
        delivered(paths, f"w-{n}")
        tells.send(paths, "w", "1" * 32, "hello", stamp())
    with tells.told(paths, "w", holder("w"), NOW):
        pass
    ledgers = [paths.asks / ".numbers.json", paths.tells / ".numbers.json"]
    for ledger in ledgers:
        ledger.unlink()
        if damage == "a folder":
            ledger.mkdir()
            (ledger / "inside").touch()
        elif damage != "gone":
            ledger.write_text(damage)
    said: list[str] = []
    monkeypatch.setattr(journal, "emit", lambda event, text="", **fields: said.append(f"{event}: {text}"))
    for _ in range(2):
        mailbox.prune(paths, 10, NOW)
        tells.prune(paths, 10, NOW)
    named = [all(word in line for word in ("state_degraded", str(ledger))) for ledger, line in zip(ledgers, said)]
    assert named == ([] if damage == "gone" else [True, True]) and len(said) == len(named)
    assert ask(paths).id == "w-4" and tells.send(paths, "w", "1" * 32, "next", stamp()).id == "w-4"
    assert [json.loads(ledger.read_text()) for ledger in ledgers] == [{"w": 3}, {"w": 3}]


def test_a_number_on_disk_is_not_used_again_though_the_ledger_is_older(paths: Paths) -> None:
    ask(paths)
    delivered(paths, "w-1")
    before = (paths.asks / ".numbers.json").read_bytes()
    for n in (2, 3):
        ask(paths)
        delivered(paths, f"w-{n}")
    (paths.asks / ".numbers.json").write_bytes(before)
    assert ask(paths).id == "w-4"


def test_only_asks_of_the_present_generation_make_a_worker_wait(paths: Paths) -> None:
    now = holder("w", "2" * 32)
    ask(paths, who=holder("w", "1" * 32))
    assert mailbox.waiting(paths, lambda who: who == now, NOW + 9) == {}
    ask(paths, who=now, now=NOW + 2)
    ask(paths, who=now, now=NOW + 4, prompt="More?")
    ask(paths, "x", who=holder("terminal"))
    ask(paths, "y")
    assert mailbox.waiting(paths, lambda who: who == now, NOW + 9) == {"w": 7.0}
    with pytest.raises(Unavailable):
        mailbox.waiting(paths, unknown, NOW)
    mailbox.answer(paths, "w-2", "yes", NOW)
    assert mailbox.waiting(paths, lambda who: who == now, NOW + 9) == {"w": 5.0}


# -- tells


def test_a_message_reaches_its_generation_once(paths: Paths, events: list[str]) -> None:
    sent = [tells.send(paths, "w", holder("w").invocation, f"m{n}", stamp()) for n in range(11)]
    assert events[0] == "tell_queued w-1"
    with tells.told(paths, "w", holder("w"), NOW) as messages:
        assert messages == sent  # oldest first, w-2 before w-10
    with tells.told(paths, "w", holder("w"), NOW) as messages:
        assert messages == []
    assert tells.send(paths, "w", "1" * 32, "next", stamp()).id == "w-12"
    assert json.loads((paths.tells / "consumed/w-1.json").read_text())["consumed"] == {"reason": "read", "ts": NOW}


def test_a_reader_that_dies_while_printing_loses_nothing(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "hello", stamp())
    with pytest.raises(BrokenPipeError), tells.told(paths, "w", holder("w"), NOW):
        raise BrokenPipeError
    with tells.told(paths, "w", holder("w"), NOW) as messages:
        assert [m.text for m in messages] == ["hello"]


def test_messages_of_a_dead_generation_are_dropped_with_the_reason(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "old", stamp())
    tells.send(paths, "x", "1" * 32, "other", stamp())
    with tells.told(paths, "w", holder("w", "2" * 32), NOW) as messages:
        assert messages == []
    assert json.loads((paths.tells / "consumed/w-1.json").read_text())["consumed"]["reason"] == "stale"
    assert tells.drop_stale(paths, unknown, NOW) == []
    assert tells.drop_stale(paths, live, NOW) == []
    assert [m.id for m in tells.drop_stale(paths, dead, NOW)] == ["x-1"]


def test_a_message_needs_a_living_worker_and_a_text(paths: Paths) -> None:
    with pytest.raises(Refused, match="no worker of that id lives"):
        tells.send(paths, "w", None, "hello", stamp())
    for text in ("", " ", "\0", "\udcff"):
        with pytest.raises(UsageError):
            tells.send(paths, "w", "1" * 32, text, stamp())
    with pytest.raises(UsageError):
        tells.send(paths, "../w", "1" * 32, "hello", stamp())
    assert store.names(paths.tells, ".json") == []


def test_an_unreadable_message_stays_and_is_named(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "hello", stamp())
    (paths.tells / "w-2.json").write_text("[]")
    found, broken = tells.pending(paths, "w")
    assert [m.id for m in found] == ["w-1"] and "w-2.json" in broken[0]


def test_archived_messages_are_pruned_and_their_numbers_are_not_reused(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "hello", stamp())
    with tells.told(paths, "w", holder("w"), NOW):
        pass
    os.utime(paths.tells / "consumed/w-1.json", (NOW, NOW))
    assert tells.prune(paths, 10, NOW + 5) == []
    assert tells.prune(paths, 10, NOW + 11) == ["w-1"]
    assert tells.send(paths, "w", "1" * 32, "next", stamp()).id == "w-2"


# -- the verbs, without systemd


def asking(paths: Paths, *words: str) -> "subprocess.Popen[str]":
    """A blocked `looopctl ask`, once its question is there."""
    with Watcher(paths.asks) as watcher:
        process = subprocess.Popen(
            [sys.executable, "-m", "looop", "ask", *words], cwd=TREE, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "LOOOP_DATA_DIR": str(paths.data)},
        )  # fmt: skip
        while not mailbox.pending(paths):
            assert watcher.wait(20)
    return process


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_ask_prints_exactly_the_answer(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?", "--options", "yes,no", "--option", "a, b", "--ref", "r")
    assert mailbox.pending(paths)[0].options == ("a, b", "yes", "no")
    mailbox.answer(paths, "w-1", "ja, später\n  – bitte", NOW)
    code, out, _ = ended(process)
    assert (code, out) == (0, "ja, später\n  – bitte\n")
    found = mailbox.find(paths, "w-1")
    assert found and found.end == "delivered"


def test_half_a_surrogate_pair_in_a_record_hides_nothing(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?", "--timeout", "1e300")
    (paths.asks / "w-1.json").write_text('{"prompt": "\\ud800 Deploy?"}')
    (paths.answers / "w-1.json").write_text('{"answer": "\\ud800 yes"}')
    assert ended(process)[:2] == (0, "? yes\n")
    done = subprocess.run(
        [sys.executable, "-m", "looop", "asks", "-a", "--json"], cwd=TREE, capture_output=True, text=True,
        env={**os.environ, "LOOOP_DATA_DIR": str(paths.data)},
    )  # fmt: skip
    [row] = json.loads(done.stdout)
    assert (done.returncode, row["answer"]) == (0, "\ud800 yes"), done.stderr


def test_ask_json_says_who_answered(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?", "--json")
    mailbox.answer(paths, "w-1", "ja \"é\"", NOW)
    code, out, _ = ended(process)
    told = {"id": "w-1", "answer": "ja \"é\"", "by": "human", "state": "delivered", "tells": []}
    assert (code, json.loads(out)) == (0, told)


def test_a_second_process_finds_the_answer_in_the_archive(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    delivered(paths, "w-1", "ja")  # to another process that waited on the same ask
    assert ended(process)[:2] == (0, "ja\n")


@pytest.mark.parametrize("how", ["closed", "withdrawn"])
def test_ask_whose_question_was_ended_says_how(paths: Paths, how: str) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    mailbox.close(paths, "w-1", how, NOW)
    code, out, err = ended(process)
    assert (code, out) == (1, "") and f"w-1 was {how}" in err


def test_ask_goes_on_with_its_default(paths: Paths) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    process = asking(paths, "w", "--prompt", "Deploy?", "--expires", "200ms", "--default", "no", "--timeout", "60")
    code, out, err = ended(process)
    assert (code, out) == (0, "no\n") and "default" in err
    found = mailbox.find(paths, "w-1")
    assert found and found.end == "delivered" and found.answer and found.answer.by == "default"


def test_ask_waits_through_a_corrupt_answer(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    store.write(paths.answers / "w-1.json", "{")
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert "answer --force w-1" in next(line for line in lines if "still waiting" in line)
    mailbox.answer(paths, "w-1", "yes", NOW, force=True)
    assert ended(process)[:2] == (0, "yes\n")


def test_ask_whose_question_is_taken_away_fails(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    (paths.asks / "w-1.json").unlink()
    code, out, err = ended(process)
    assert (code, out) == (1, "") and "withdrawn" in err


def test_ask_with_a_timeout_withdraws_the_question(paths: Paths) -> None:
    code, out, err = ended(asking(paths, "w", "--prompt", "Deploy?", "--timeout", "0.2"))
    assert (code, out) == (124, "") and "w-1" in err
    assert mailbox.pending(paths) == []


def test_a_killed_ask_leaves_the_question(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    process.kill()
    ended(process)
    assert [a.id for a in mailbox.pending(paths)] == ["w-1"]


@pytest.mark.parametrize("words", [
    ["ask", "--prompt", "?"],
    ["ask", "w"],
    ["ask", "w", "--prompt", " "],
    ["ask", "a/b", "--prompt", "?"],
    ["ask", "w", "--prompt", "?", "--timeout", "-1"],
    ["ask", "w", "--prompt", "?", "--timeout", "soon"],
    ["ask", "w", "--prompt", "?", "--timeout", "nan"],
    ["ask", "w", "--prompt", "?", "--expires", "1h"],
    ["ask", "w", "--prompt", "?", "--default", "no"],
    ["asks", "-n", "-1"],
    ["answer"],
    ["answer", "w-1", ""],
    ["answer", "../w-1", "yes"],
    ["told"],
    ["told", ".."],
    ["tell"],
])  # fmt: skip
def test_misuse_is_exit_64(words: list[str], paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    monkeypatch.delenv("LOOOP_SESSION_ID", raising=False)
    assert main(words) == 64
    assert mailbox.pending(paths) == []


def test_asks_shows_a_question_without_its_control_characters(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    mailbox.raise_ask(paths, "w", "\x1b[2JDeploy?\nNow?\x07", NOW, reference="r\x1b", options=("a\nb", "c"))
    assert main(["asks"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "w-1" in out and "[2JDeploy?" in out and "\n    Now?" in out and "options: a | c" in out
    assert main(["asks", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["id"], row["state"], row["options"], row["reference"]) == ("w-1", "unknown", ["a\nb", "c"], "r\x1b")


def test_asks_all_shows_what_became_of_each(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    for n in range(1, 4):
        ask(paths, prompt=f"{n}?", now=NOW + n)
        back = NOW + n
        if n < 3:
            delivered(paths, f"w-{n}", f"a\x1b{n}")
            back_date(paths, f"w-{n}", back)
    assert main(["asks", "--all", "--json"]) == 0
    shown = [(row["id"], row["state"], row["answer"]) for row in json.loads(capsys.readouterr().out)]
    assert shown == [("w-1", "delivered", "a\x1b1"), ("w-2", "delivered", "a\x1b2"), ("w-3", "unknown", None)]
    assert main(["asks", "-n", "2"]) == 0
    out = capsys.readouterr().out
    assert "w-1" not in out and "w-2" in out and "answer: a 2" in out and "\x1b" not in out
    assert main(["asks", "--close", "w-3", "w-9"]) == 1
    assert capsys.readouterr().out == "w-3: closed\n" and mailbox.open_asks(paths) == []


def test_answer_by_words_by_stdin_and_with_a_dash(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    said: list[tuple[list[str], str]] = [
        (["yes", "-", "please"], ""), (["--", "-v", "--x"], ""), (["-"], "from stdin\n\n"), ([], "too\n"),
    ]  # fmt: skip
    for n, (words, stdin) in enumerate(said, 1):
        ask(paths, prompt=str(n))
        read, write = os.pipe()
        os.write(write, stdin.encode())
        os.close(write)
        with open(read) as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            assert main(["answer", "--no-wait", f"w-{n}", *words]) == 0
    answers = [mailbox.read_answer(paths, f"w-{n}") for n in range(1, 5)]
    assert [a.text for a in answers if a] == ["yes - please", "-v --x", "from stdin", "too"]
    assert capsys.readouterr().out.splitlines()[:2] == ["w-1: yes - please", "recorded; w has not read it yet"]
    assert main(["answer", "w-1", "no"]) == 1
    assert main(["answer", "w-99", "no"]) == 1
