"""The beat, on files in a temporary folder and a manager that is made up: what it decides, when, and what it keeps."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from looop import beat, commit, decide, guards, housekeep, mailbox, recover, runs, store
from looop.clock import boot_id
from looop.config import Config
from looop.errors import StateError
from looop.notices import Notices
from looop.paths import Paths
from looop.systemd import journal
from looop.systemd.identity import Holder
from looop.systemd.services import Outcome
from tests.unit.fakes import Clock, FakeLive

RULE = """
[[rule]]
name = "greet"
when = "contains(keys(goals), 'g1')"
move = {action = "notify", message = "hello"}
"""


@dataclass
class Loop:
    """A pulse without a process. `answer` is what the decider prints next; `asked` counts its runs."""

    paths: Paths
    config: Config = Config(decider_cost_usd=0.0, beat_gap=0.0)
    live: FakeLive = field(default_factory=FakeLive)
    system: FakeLive = field(default_factory=lambda: FakeLive("system"))
    clock: Clock = field(default_factory=Clock)
    events: list[dict[str, str]] = field(default_factory=list)
    answer: str = '{"action": "noop"}'
    outcome: Outcome = Outcome("success", 0)
    asked: int = 0
    number: int = 0

    def beat(self, forced: str = "") -> beat.Result:
        self.number += 1
        notices = Notices(self.paths)
        services = housekeep.Services(
            live=cast(Any, self.live), system=cast(Any, self.system), paths=self.paths, config=self.config,
            clock=self.clock, confined=True, allow=lambda seconds: None, status=lambda text: None, notices=notices,
        )  # fmt: skip
        self.events.clear()
        result = asyncio.run(beat.beat(services, self.number, forced))
        notices.keep()
        return result

    def with_decider(self, **settings: Any) -> "Loop":
        self.config = replace(self.config, decider_command="decide-it", **settings)
        return self

    def goal(self, text: str, name: str = "g1") -> None:
        (self.paths.goals / f"{name}.md").write_text(text + "\n")

    def said(self, event: str) -> list[str]:
        return [entry["MESSAGE"] for entry in self.events if entry["LOOOP_EVENT"] == event]

    def records(self) -> list[runs.Record]:
        found = [runs.load(self.paths, run) for run in reversed(runs.ids(self.paths))]
        return sorted((record for record in found if record), key=lambda record: (record.at.mono, len(record.run)))

    def prompt(self) -> str:
        return (runs.folder(self.paths, self.records()[-1].run) / "prompt.md").read_text()


@pytest.fixture
def loop(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop(paths)

    async def run(live: Any, unit: str, script: Path, *, cwd: Path, **_: Any) -> Outcome:
        made.asked += 1
        if made.answer:
            (cwd / ".decision.json").write_text(made.answer)
        return made.outcome

    monkeypatch.setattr(decide, "run_service", run)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a third of the time, for nothing here
    monkeypatch.setattr(journal, "_send", lambda entry: made.events.append(dict(entry)))
    return made


# -- what it costs


class Counting(FakeLive):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def live(self, patterns: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(patterns))
        return super().live(patterns)


def test_many_asks_of_one_worker_are_one_question_to_systemd(loop: Loop) -> None:
    unit, loop.live = "looop-worker-w1.scope", Counting()
    loop.live.units[unit] = "i1"
    for n in range(20):
        holder = Holder(unit, "user", "i1", boot_id())
        mailbox.raise_ask(loop.paths, "w1", f"question {n}?", loop.clock().wall, holder=holder)
    loop.beat()
    assert loop.live.asked.count([unit]) == 1
    assert len(json.loads((loop.paths.snapshots / "sys-asks.json").read_text())["signal"]["pending"]) == 20


# -- when it decides


def test_an_unchanged_world_is_not_decided_again_unless_forced(loop: Loop) -> None:
    loop.with_decider()
    assert loop.beat("the pulse started").text.startswith("idle: noop")
    assert "unchanged" in loop.beat().text and loop.asked == 1
    loop.beat("the pulse started")
    assert loop.asked == 2
    loop.goal("new")
    loop.beat()
    assert loop.asked == 3


def test_the_committed_world_is_the_one_that_was_sensed_before_the_move(loop: Loop) -> None:
    loop.with_decider()
    loop.answer = '{"action": "write_goal", "id": "g1", "body": "do it"}'
    assert loop.beat().acted
    loop.answer = '{"action": "noop"}'
    loop.beat()
    assert loop.asked == 2, "the goal it wrote itself is news to the next decision"


def test_an_aged_noop_is_decided_again(loop: Loop) -> None:
    loop.with_decider(noop_ttl=100)
    loop.beat()
    loop.clock.pass_(99)
    loop.beat()
    assert loop.asked == 1
    loop.clock.pass_(2)
    loop.beat()
    assert loop.asked == 2 and loop.said("noop_revisit")


def test_a_follow_up_forces_one_decision_when_it_is_due(loop: Loop) -> None:
    loop.with_decider()
    loop.answer = '{"action": "noop", "next_interval_s": 60}'
    loop.beat()
    [timer] = loop.live.timers
    assert timer.startswith("looop-nudge@")
    loop.clock.pass_(59)
    loop.beat()
    assert loop.asked == 1
    loop.answer = '{"action": "noop"}'
    loop.clock.pass_(2)
    loop.beat()
    loop.beat()
    assert loop.asked == 2


def test_with_decide_off_it_senses_and_leaves_the_rest_to_others(loop: Loop) -> None:
    loop.with_decider(decide="off")
    loop.paths.rules.write_text(RULE)
    loop.goal("x")
    assert "decide = off" in loop.beat("the pulse started").text
    assert loop.asked == 0 and not loop.records() and commit.read(loop.paths) is None
    assert (loop.paths.snapshots / "sys-sessions.json").exists()


# -- rules


def test_a_rule_that_matches_is_carried_out_once(loop: Loop) -> None:
    loop.paths.rules.write_text(RULE)
    assert "no rule matches" in loop.beat("the pulse started").text
    loop.goal("x")
    assert loop.beat().acted and loop.said("notify") == ["Message for you: hello"]
    assert [r.state for r in loop.records()] == ["committed"]
    for forced in ("", "the pulse started"):
        assert not loop.beat(forced).acted and not loop.said("notify")
    assert "notify · hello" in loop.paths.journal.read_text()


def test_a_rule_comes_before_the_decider_and_costs_nothing(loop: Loop) -> None:
    loop.with_decider()
    loop.paths.rules.write_text(RULE)
    loop.goal("x")
    assert loop.beat().acted
    assert loop.asked == 0 and not runs.ledger(loop.paths)


def test_broken_rules_commit_nothing_so_that_mended_ones_still_see_this_world(loop: Loop) -> None:
    loop.goal("x")
    loop.paths.rules.write_text("[[rule]]\nname =")
    assert "rules cannot be used" in loop.beat().text
    assert loop.said("rule_broken")
    loop.beat()
    assert not loop.said("rule_broken"), "trouble that lasts is told once"
    loop.paths.rules.write_text(RULE)
    assert loop.beat().acted


def test_an_edit_of_the_rules_alone_is_news(loop: Loop) -> None:
    loop.goal("x")
    loop.beat()
    loop.paths.rules.write_text(RULE)
    assert loop.beat().acted


def test_a_rule_whose_move_failed_may_fire_again_after_the_wait(loop: Loop) -> None:
    loop.paths.rules.write_text(RULE.replace('"notify", message = "hello"', '"archive_goal", id = "none"'))
    loop.goal("x")
    assert "no such goal" in loop.beat().text
    assert "waiting" in loop.beat().text
    loop.goal("x", "none")
    assert loop.beat().acted, "an edited goal cuts the wait"


# -- failures


def test_a_failure_backs_off_and_the_next_prompt_tells_why(loop: Loop) -> None:
    loop.with_decider()
    loop.answer = '{"action": "fly"}'
    assert "next try in 60 s" in loop.beat().text
    assert "action" in loop.said("tick_failed")[0] and loop.live.seconds("retry") == 60
    assert [r.state for r in loop.records()] == ["failed"]
    assert "waiting after 1 failures" in loop.beat("the pulse started").text and loop.asked == 1
    loop.clock.pass_(61)
    loop.beat()
    assert loop.asked == 2 and "action: expected one of" in loop.prompt()
    assert loop.live.seconds("retry") == 120
    loop.answer = '{"action": "noop"}'
    loop.goal("help")
    loop.beat()
    loop.goal("more")
    loop.beat()
    assert "action: expected one of" not in loop.prompt(), "a success clears it"


@pytest.mark.parametrize(
    ("outcome", "answer", "reason"),
    [
        (Outcome("success", 0), "", "without writing .decision.json"),
        (Outcome("exit-code", 3), '{"action": "noop"}', "exited 3"),
        (Outcome("timeout", None, 15), "", "timed out"),
        (Outcome("success", 0), "{", "not JSON"),
    ],
)
def test_no_decision_is_a_failure_with_its_cause(loop: Loop, outcome: Outcome, answer: str, reason: str) -> None:
    loop.with_decider()
    loop.outcome, loop.answer = outcome, answer
    assert reason in loop.beat().text
    assert commit.read(loop.paths) is None
    assert len(runs.ledger(loop.paths)) == 1, "a failed run has its price too"


def test_the_daily_budget_stops_deciding_until_midnight(loop: Loop) -> None:
    loop.with_decider(decider_cost_usd=6.0, max_daily_usd=10.0)
    for n, asked in enumerate((1, 2, 2)):
        loop.goal(str(n))
        loop.beat()
        assert loop.asked == asked
    assert "$12.00 of $10.00" in loop.said("budget_exceeded")[0]
    loop.clock.pass_(86400)
    loop.beat()
    assert loop.asked == 3


def test_runs_of_unknown_cost_stop_deciding_under_a_cap(loop: Loop) -> None:
    loop.with_decider(decider_cost_usd=None)
    for n in range(5):
        loop.goal(str(n))
        loop.beat()
    assert loop.asked == 3 and loop.said("budget_unmetered")


def test_the_hourly_cap_counts_failed_runs_too(loop: Loop) -> None:
    loop.with_decider(max_decides_per_hour=2)
    loop.answer = "{"
    for n in range(3):
        loop.goal(str(n))
        loop.beat()
    assert loop.asked == 2 and loop.said("tick_capped")


# -- bad days


def test_broken_guards_wait_and_mend_themselves(loop: Loop) -> None:
    loop.with_decider()
    loop.paths.guards.write_text("{")
    assert "waiting after 4 failures" in loop.beat("the pulse started").text and loop.asked == 0
    assert ".guards.json" in loop.said("guard_degraded")[0]
    loop.clock.pass_(481)
    loop.beat()
    assert loop.asked == 1 and not loop.said("guard_degraded")


@pytest.mark.parametrize("damage", ["truncated", "a folder"])
@pytest.mark.parametrize(
    "name",
    [
        ".committed.json", ".last-shell.json", ".goal-activity.json", ".nudges.json", ".schedules.json",
        ".rules-fired.json", ".sensors.json", "claims/c.json", "asks/w-1.json", "schedules/s.json",
        "sessions/w/meta.json", "snapshots/sys-sessions.json", "snapshots/sensor-x.json", "snapshots/sys-claims.json",
        "goals/g2.md", "PLAYBOOK.md", "rules.toml", "journal.md", ".frame-tag", ".seeded",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_stops_no_decision(loop: Loop, name: str, damage: str) -> None:
    loop.with_decider()
    loop.beat()
    path = loop.paths.data / name
    path.parent.mkdir(exist_ok=True)
    store.set_aside(path)
    if damage == "truncated":
        path.write_text('{"v": 1, "x')
    else:
        path.mkdir()
    said = ""
    for n in range(2):
        loop.goal(str(n))
        loop.beat()
        assert loop.asked == n + 2
        said += "".join(entry["MESSAGE"] for entry in loop.events)
    half_is_fine = damage == "truncated" and name.endswith((".md", "x.json", "sys-sessions.json", "sys-claims.json"))
    assert half_is_fine or name in (".frame-tag", ".seeded") or name in said


def test_what_nobody_can_read_is_part_of_the_world_as_such(loop: Loop) -> None:
    for name in ("goals/bad.md", "snapshots/sensor-x.json"):
        (loop.paths.data / name).mkdir()
    loop.with_decider().beat()
    assert "UNREADABLE" in loop.prompt() and '"error":"unreadable"' in loop.prompt().replace(" ", "")


def test_an_unknown_fleet_acts_on_nothing_and_keeps_the_snapshots(loop: Loop) -> None:
    loop.with_decider()
    loop.beat()
    before = json.loads((loop.paths.snapshots / "sys-sessions.json").read_text())
    loop.goal("urgent")
    loop.live.down = True
    result = loop.beat("the pulse started")
    assert result.again == "the pulse started" and loop.asked == 1
    after = json.loads((loop.paths.snapshots / "sys-sessions.json").read_text())
    assert after["signal"] == before["signal"] and after["detail"]["unknown"] is True
    loop.live.down = False
    loop.beat(result.again)
    assert loop.asked == 2


def test_a_beat_that_broke_off_leaves_a_record_that_is_reported(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.with_decider()
    loop.answer = '{"action": "notify", "message": "hello"}'

    def full(*_: Any, **__: Any) -> None:
        raise StateError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(guards, "record_success", full)
        with pytest.raises(StateError):
            loop.beat()
    recover.recover(cast(Any, loop.live), loop.paths, loop.config, loop.clock())
    assert [r.state for r in loop.records()] == ["committed"], "it was executed, only its end was missing"
    loop.beat()
    assert loop.asked == 1
