"""Policy files: replaced whole, no earlier body lost, nothing overwritten on the way to the archive."""

import threading
from collections.abc import Callable

import pytest

from looop import policy
from looop.clock import Stamp
from looop.config import Config
from looop.errors import LooopError, Refused, StateError, UsageError
from looop.paths import Paths

NOW = Stamp(1_000_000.0, "b" * 32, 5000.0)
CONFIG = Config()


def bodies(paths: Paths, kind: str) -> list[str]:
    folder = paths.playbook_history if kind == "playbook" else paths.history / kind
    return [p.read_text() for p in sorted(folder.iterdir())] if folder.exists() else []


def test_a_goal_ends_in_one_newline_and_its_earlier_bodies_stay(paths: Paths) -> None:
    for body in ("one", "two\n\n\n", "two", "three\n"):
        policy.write_goal(paths, CONFIG, "g", body, NOW)
    assert paths.goal("g").read_text() == "three\n"
    assert bodies(paths, "goals/g") == ["one\n", "two\n"]


def test_history_is_bounded(paths: Paths) -> None:
    for n in range(9):
        policy.write_playbook(paths, Config(history_keep=3), f"body {n}")
    assert bodies(paths, "playbook") == ["body 5\n", "body 6\n", "body 7\n"]


def test_a_sensor_is_executable_and_needs_an_interpreter(paths: Paths) -> None:
    policy.write_sensor(paths, CONFIG, "s", "#!/bin/sh\necho 1")
    assert paths.sensor("s").stat().st_mode & 0o777 == 0o755
    with pytest.raises(UsageError, match="names no interpreter"):
        policy.write_sensor(paths, CONFIG, "s", "echo 2")
    assert paths.sensor("s").read_text() == "#!/bin/sh\necho 1\n"


def test_writing_a_sensor_again_mends_its_mode(paths: Paths) -> None:
    policy.write_sensor(paths, CONFIG, "s", "#!/bin/sh")
    paths.sensor("s").chmod(0o644)
    policy.write_sensor(paths, CONFIG, "s", "#!/bin/sh")
    assert paths.sensor("s").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("body", ["", "  \n", "a\0b", "a\ud800b", "a\udcffb"], ids=ascii)
def test_what_is_no_text_is_refused_and_changes_nothing(paths: Paths, body: str) -> None:
    policy.write_goal(paths, CONFIG, "g", "kept", NOW)
    with pytest.raises(UsageError):
        policy.write_goal(paths, CONFIG, "g", body, NOW)
    assert paths.goal("g").read_text() == "kept\n"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", "a\nb", "a b", "-x", "x" * 300, "é"], ids=ascii)
@pytest.mark.parametrize(
    "act",
    [
        lambda paths, name: policy.write_goal(paths, CONFIG, name, "x", NOW),
        lambda paths, name: policy.archive_goal(paths, name, NOW),
        lambda paths, name: policy.write_sensor(paths, CONFIG, name, "#!/bin/sh"),
    ],
    ids=["goal", "archive", "sensor"],
)
def test_a_bad_name_is_refused(paths: Paths, act: Callable[[Paths, str], object], name: str) -> None:
    with pytest.raises(UsageError):
        act(paths, name)


def test_the_archive_never_overwrites(paths: Paths) -> None:
    for body in ("one", "two", "three"):
        policy.write_goal(paths, CONFIG, "g", body, NOW)
        policy.archive_goal(paths, "g", NOW)
    assert {p.name: p.read_text() for p in paths.archive.iterdir()} == {
        "g.md": "one\n", "g-1.md": "two\n", "g-2.md": "three\n",
    }  # fmt: skip


def test_archiving_what_is_not_there_is_refused(paths: Paths) -> None:
    with pytest.raises(Refused, match="no such goal"):
        policy.archive_goal(paths, "g", NOW)


def test_a_folder_in_the_place_of_a_goal_is_an_error_and_stays(paths: Paths) -> None:
    paths.goal("g").mkdir()
    with pytest.raises(StateError):
        policy.write_goal(paths, CONFIG, "g", "x", NOW)
    with pytest.raises(LooopError):
        policy.archive_goal(paths, "g", NOW)
    assert paths.goal("g").is_dir()


def test_racing_writers_lose_no_body(paths: Paths) -> None:
    def write(n: int) -> None:
        policy.write_goal(paths, Config(history_keep=0), "g", f"body {n}", NOW)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [*bodies(paths, "goals/g"), paths.goal("g").read_text()]
    assert sorted(kept) == [f"body {n}\n" for n in range(8)]


def test_the_goal_ledger_knows_goals_only_and_mends_itself(paths: Paths) -> None:
    policy.write_goal(paths, CONFIG, "g", "x", NOW)
    policy.touch_goal(paths, "a-worker", NOW)
    assert policy.activity(paths) == {"g": 1_000_000}
    paths.goal_activity.write_text("[")
    with pytest.raises(StateError):
        policy.activity(paths)
    policy.touch_goal(paths, "g", Stamp(2_000_000.0, NOW.boot, 1.0))
    assert policy.activity(paths) == {"g": 2_000_000}
    policy.archive_goal(paths, "g", NOW)
    assert policy.activity(paths) == {}
