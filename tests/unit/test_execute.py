"""Carrying out a move: its effect on the files, or the reason why there is none."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from looop import execute, runs, tells
from looop.actions import (
    ArchiveGoal, DropSchedule, KillWorker, Move, Noop, RunShell, SendTell, WriteGoal, WritePlaybook, WriteSchedule,
    WriteSensor,
)  # fmt: skip
from looop.config import Config
from looop.errors import LooopError, Refused, StateError, UsageError
from looop.paths import Paths
from looop.systemd import timespec
from looop.systemd.services import Confinement, Outcome
from tests.unit.fakes import Clock, FakeLive

NOW = Clock().now


class Hand:
    """Carries out one move after the other. `outcome` is how the next command ends, `output` what it prints."""

    def __init__(self, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths, self.live, self.config = paths, FakeLive(), Config()
        self.outcome, self.output = Outcome("success", 0), "done\n"
        self.scripts: list[str] = []
        self.confine: Confinement | None = None
        monkeypatch.setattr(execute, "run_service", self.run)

    async def run(self, live: Any, unit: str, script: Path, *, stdout: Path, confine: Any, **_: Any) -> Outcome:
        self.scripts.append(script.read_text())
        self.confine = confine
        stdout.write_text(self.output)
        return self.outcome

    def __call__(self, move: Move, source: str = "decider", confined: bool = True) -> str:
        run = runs.new(self.paths, NOW)
        hands = execute.Hands(cast(Any, self.live), self.paths, self.config, NOW, run, source, confined)
        return asyncio.run(execute.execute(hands, move))


@pytest.fixture
def do(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Hand:
    return Hand(paths, monkeypatch)


def test_a_noop_changes_nothing(do: Hand) -> None:
    before = sorted(path for path in do.paths.data.rglob("*") if path.is_file())
    assert do(Noop("quiet")) == "noop · quiet"
    assert sorted(path for path in do.paths.data.rglob("*") if path.is_file()) == before


def test_texts_are_replaced_and_their_earlier_bodies_kept(do: Hand) -> None:
    for n in (1, 2):
        do(WriteGoal("g", f"goal {n}"))
        do(WritePlaybook(f"playbook {n}"))
        do(WriteSensor("s", f"#!/bin/sh\necho {n}"))
    paths = do.paths
    assert paths.goal("g").read_text() == "goal 2\n" and paths.playbook.read_text() == "playbook 2\n"
    assert paths.sensor("s").stat().st_mode & 0o777 == 0o755
    assert [p.read_text() for p in (paths.history / "goals/g").iterdir()] == ["goal 1\n"]
    assert [p.read_text() for p in (paths.history / "sensors/s").iterdir()] == ["#!/bin/sh\necho 1\n"]
    assert [p.read_text() for p in paths.playbook_history.iterdir()] == ["playbook 1\n"]


def test_a_goal_is_archived_beside_its_namesakes(do: Hand) -> None:
    for _ in range(2):
        do(WriteGoal("g", "x"))
        do(ArchiveGoal("g"))
    assert sorted(p.name for p in do.paths.archive.iterdir()) == ["g-1.md", "g.md"]
    with pytest.raises(Refused, match="no such goal"):
        do(ArchiveGoal("g"))


def test_a_schedule_is_armed_with_its_record_and_goes_with_it(do: Hand) -> None:
    do(WriteSchedule("s", in_s=60))
    assert list(do.live.timers) == ["looop-schedule@s.timer"] and (do.paths.schedules / "s.json").exists()
    do(DropSchedule("s"))
    assert not do.live.timers and not (do.paths.schedules / "s.json").exists()


def test_a_schedule_that_cannot_be_armed_leaves_no_record(do: Hand) -> None:
    do.live.down = True
    with pytest.raises(Refused, match="cannot arm schedule s"):
        do(WriteSchedule("s", in_s=60))
    assert not (do.paths.schedules / "s.json").exists()


def test_a_message_reaches_a_living_worker_only(do: Hand) -> None:
    with pytest.raises(Refused, match="no worker of that id lives"):
        do(SendTell("w", "hello"))
    do.live.units["looop-worker-w.scope"] = "f" * 32
    do(SendTell("w", "hello"))
    [message] = tells.pending(do.paths, "w")[0]
    assert message.text == "hello" and message.holder and message.holder.invocation == "f" * 32


def test_killing_who_is_not_there_is_refused(do: Hand) -> None:
    with pytest.raises(Refused, match="there is none"):
        do(KillWorker("w"))


# -- shell


def test_the_output_of_a_command_is_kept_for_the_next_decision(do: Hand) -> None:
    do(RunShell("uptime"))
    assert do.scripts == ["uptime\n"]
    kept = json.loads(do.paths.last_shell.read_text())
    assert (kept["cmd"], kept["output"], kept["how"]) == ("uptime", "done\n", "exited 0")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [(Outcome("exit-code", 3), "exited 3: done"), (Outcome("timeout", None, 15), "part of its work")],
)
def test_a_command_that_fails_is_a_failed_move_and_its_output_is_kept(do: Hand, outcome: Outcome, said: str) -> None:
    do.outcome = outcome
    with pytest.raises(execute.ShellFailed, match=said):
        do(RunShell("uptime"))
    assert json.loads(do.paths.last_shell.read_text())["output"] == "done\n"


def test_a_dangerous_command_is_not_run_unless_allowed(do: Hand) -> None:
    with pytest.raises(Refused, match="deny-list"):
        do(RunShell("rm -rf /"))
    assert not do.scripts
    do.config = replace(do.config, shell_allow_dangerous=True)
    do(RunShell("rm -rf /"))
    assert do.scripts == ["rm -rf /\n"]


def test_nothing_is_run_where_it_cannot_be_confined(do: Hand) -> None:
    with pytest.raises(Refused, match="cannot confine"):
        do(RunShell("uptime"), confined=False)
    assert not do.scripts


@pytest.mark.parametrize(
    ("source", "shell_bus", "bus"), [("decider", False, False), ("decider", True, True), ("human", False, True)]
)
def test_only_a_human_reaches_the_bus_unless_the_settings_say_so(
    do: Hand, source: str, shell_bus: bool, bus: bool
) -> None:
    do.config = replace(do.config, shell_bus=shell_bus, shell_write_paths=("/srv/x",))
    do(RunShell("uptime"), source)
    assert do.confine is not None and do.confine.read_only and do.confine.bus is bus
    assert do.confine.write_paths[1:] == ("/srv/x",)


@pytest.mark.parametrize("move", [WriteGoal("../x", "b"), WriteSensor("a\nb", "#!/bin/sh"), ArchiveGoal("x" * 300)])
def test_a_name_that_leaves_its_folder_is_refused_here_too(do: Hand, move: Move) -> None:
    with pytest.raises(UsageError):
        do(move)


def test_a_folder_in_place_of_a_goal_is_named(do: Hand) -> None:
    do.paths.goal("g").mkdir()
    with pytest.raises(StateError, match=r"g\.md") as caught:
        do(WriteGoal("g", "x"))
    assert isinstance(caught.value, LooopError)


def test_a_calendar_systemd_would_not_take_is_refused_in_its_words(do: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: str, count: int = 3, base: float | None = None) -> list[float]:
        raise UsageError("cannot use calendar expression 'x': Failed to parse calendar specification 'x'")

    monkeypatch.setattr(timespec, "calendar", refuse)
    with pytest.raises(UsageError, match="Failed to parse"):
        do(WriteSchedule("s", calendar="x"))
    assert not (do.paths.schedules / "s.json").exists() and not do.live.timers
