"""Earlier versions of goals, sensors and the playbook: none is lost, each can be named, seen and brought back."""

import json
import sys
from pathlib import Path

import pytest

from looop import ctl, history, policy
from looop.clock import Stamp
from looop.config import Config
from looop.errors import Refused, UsageError
from looop.paths import Paths

NOW = Stamp(1_000_000.0, "b" * 32, 5000.0)
BODIES = {"goal": "Do {}.\n", "sensor": "#!/bin/sh\necho {}\n", "playbook": "Rule {}.\n"}
NAME: dict[str, list[str]] = {"goal": ["g1"], "sensor": ["s1"], "playbook": []}
KINDS = {"goal": history.GOAL, "sensor": history.SENSOR, "playbook": history.PLAYBOOK}

every_kind = pytest.mark.parametrize("verb", KINDS)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    """Verbs find the folders of `paths`."""
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    monkeypatch.setenv("LOOOP_CONFIG", str(paths.config))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(paths.runtime.parent))


def write(paths: Paths, verb: str, text: str) -> None:
    if verb == "goal":
        policy.write_goal(paths, Config(), "g1", text, NOW)
    elif verb == "sensor":
        policy.write_sensor(paths, Config(), "s1", text)
    else:
        policy.write_playbook(paths, Config(), text)


def written(paths: Paths, verb: str, count: int = 3) -> list[str]:
    """`count` texts one after the other; returns the stamps of all but the last."""
    for n in range(count):
        write(paths, verb, BODIES[verb].format(n))
    return [v.stamp for v in history.versions(paths, KINDS[verb], "".join(NAME[verb]))]


def present(paths: Paths, verb: str) -> Path:
    return KINDS[verb].present(paths, "".join(NAME[verb]))


@every_kind
def test_every_replaced_text_is_a_version(verb: str, paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = written(paths, verb)
    assert len(stamps) == 2
    assert ctl.main([verb, "history", *NAME[verb]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == stamps
    assert ctl.main([verb, "history", *NAME[verb], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["stamp"] for row in rows] == stamps
    assert set(rows[0]) == {"stamp", "replaced", "age_s", "bytes", "first_line"}
    assert rows[0]["bytes"] == len(BODIES[verb].format(0)) and 0 <= rows[0]["age_s"] < 100


@every_kind
def test_a_version_is_printed_exactly(verb: str, paths: Paths, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    stamps = written(paths, verb)
    for n, stamp in enumerate(stamps):
        assert ctl.main([verb, "history", *NAME[verb], stamp]) == 0
        assert capfdbinary.readouterr().out == BODIES[verb].format(n).encode()


@every_kind
def test_a_diff_is_against_the_present_or_between_two(
    verb: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    written(paths, verb)

    def diff(*stamps: str) -> list[str]:
        assert ctl.main([verb, "diff", *NAME[verb], *stamps]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line[0] in "-+" and line[1:3] not in ("--", "++")]

    first, second, third = (BODIES[verb].format(n).splitlines()[-1] for n in range(3))
    assert diff() == diff("-1") == [f"-{second}", f"+{third}"]
    assert diff("-2") == [f"-{first}", f"+{third}"]
    assert diff("-2", "-1") == [f"-{first}", f"+{second}"]
    assert diff("-1", "-1") == []


@every_kind
def test_restoring_brings_a_version_back_and_keeps_the_present_one(
    verb: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = written(paths, verb)
    assert ctl.main([verb, "restore", *NAME[verb], stamps[0]]) == 0
    assert present(paths, verb).read_text() == BODIES[verb].format(0)
    assert capsys.readouterr().out == " ".join([f"restore-{verb}", *NAME[verb], stamps[0]]) + "\n"
    assert f"restore-{verb}" in paths.journal.read_text()
    last = history.versions(paths, KINDS[verb], "".join(NAME[verb]))[-1]
    assert last.text == BODIES[verb].format(2)
    if verb == "sensor":
        assert present(paths, verb).stat().st_mode & 0o777 == 0o755
    assert ctl.main([verb, "restore", *NAME[verb], "-1", "--journal", "back again"]) == 0
    assert present(paths, verb).read_text() == BODIES[verb].format(2)
    assert paths.journal.read_text().splitlines()[-1].endswith("back again")


@pytest.mark.parametrize("how", ["archived", "removed"])
def test_a_goal_that_is_gone_can_be_brought_back(
    how: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    written(paths, "goal", 2)
    if how == "archived":
        policy.archive_goal(paths, "g1", NOW)
    else:
        paths.goal("g1").unlink()
    assert ctl.main(["goal", "history", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["id"] == "g1" and row["state"] == how
    assert ctl.main(["goal", "restore", "g1", "-1"]) == 0
    assert paths.goal("g1").read_text() == ("Do 1.\n" if how == "archived" else "Do 0.\n")


def test_an_archived_goal_without_history_is_a_version_too(paths: Paths) -> None:
    (paths.archive / "old.md").write_text("From elsewhere.\n")
    [version] = history.versions(paths, history.GOAL, "old")
    assert version.stamp == "archived" and "old" in history.GOAL.names(paths)
    assert ctl.main(["goal", "restore", "old", "archived"]) == 0
    assert paths.goal("old").read_text() == "From elsewhere.\n"


def test_a_stamp_may_be_abbreviated_as_long_as_it_is_unique(paths: Paths) -> None:
    for stamp in ("20261101-101500", "20261101-101500-0001", "20261102-080000-123456"):
        (paths.playbook_history / f"{stamp}.md").write_text(f"{stamp}\n")

    def found(stamp: str) -> str:
        return history.find(paths, history.PLAYBOOK, "", stamp).stamp

    assert found("20261102") == found("-1") == "20261102-080000-123456"
    assert found("20261101-101500") == "20261101-101500", "what fits exactly is meant"
    assert found("-3") == "20261101-101500"
    with pytest.raises(UsageError, match="2 begin"):
        found("20261101")
    for wrong in ("2025", "-4", "", "../PLAYBOOK", "-0"):
        with pytest.raises(Refused):
            found(wrong)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["goal", "history", "nosuch"], 1),
        (["goal", "diff", "nosuch"], 1),
        (["goal", "restore", "g1", "1999"], 1),
        (["goal", "restore", "../PLAYBOOK", "-1"], 64),
        (["goal", "restore", "g1"], 64),
        (["goal", "diff", "g1", "-1", "-1", "-1"], 64),
        (["sensor", "history", "a/b"], 64),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(
    words: list[str], code: int, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    written(paths, "goal")
    assert ctl.main(words) == code
    err = capsys.readouterr().err
    assert "cannot" in err or "usage" in err
    assert "Traceback" not in err


def test_a_version_that_is_no_text_is_refused(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    written(paths, "goal")
    history.find(paths, history.GOAL, "g1", "-1").path.write_bytes(b"\xff\xfe")
    assert ctl.main(["goal", "restore", "g1", "-1"]) == 1
    assert "not UTF-8" in capsys.readouterr().err
    assert paths.goal("g1").read_text() == "Do 2.\n"


@pytest.mark.parametrize(
    ("no_color", "term", "coloured"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)]
)
def test_colours_are_for_terminals(
    no_color: str,
    term: str,
    coloured: bool,
    paths: Paths,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(paths, "goal", "a\n")
    write(paths, "goal", "b\x1b[2J\n")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    assert ctl.main(["goal", "diff", "g1"]) == 0
    piped = capsys.readouterr().out
    assert "\x1b[3" not in piped and "b\x1b[2J" in piped, "a file gets the exact text"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert ctl.main(["goal", "diff", "g1"]) == 0
    shown = capsys.readouterr().out
    assert ("\x1b[32m" in shown) is coloured and "\x1b[2J" not in shown
