"""Asking a command for the move: what it is given, and where its answer is looked for."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from looop import decide, runs
from looop.actions import Decision, DecisionError, Noop
from looop.config import Config
from looop.paths import Paths
from looop.systemd.services import Outcome
from tests.unit.fakes import Clock, FakeLive

CONFIG = Config(decider_command="think <{{prompt_file}}")
NOOP = '{"action": "noop", "reason": "quiet"}'


class Service:
    """Stands for the unit: writes these files into the run folder."""

    def __init__(self, outcome: Outcome = Outcome("success", 0), **files: str) -> None:
        self.outcome, self.files = outcome, files
        self.asked: dict[str, Any] = {}

    async def __call__(self, live: Any, unit: str, script: Path, **given: Any) -> Outcome:
        self.asked = {"unit": unit, "script": script.read_text(), **given}
        names = {"decision": ".decision.json", "stdout": "stdout.txt", "log": "output.log"}
        for name, text in self.files.items():
            (given["cwd"] / names[name]).write_text(text)
        return self.outcome


def ask(paths: Paths, monkeypatch: pytest.MonkeyPatch, service: Service, config: Config = CONFIG) -> Decision:
    run = runs.new(paths, Clock().now)
    decide.prepare(paths, config, run, "the prompt", {"v": 1})
    monkeypatch.setattr(decide, "run_service", service)
    return asyncio.run(decide.command(cast(Any, FakeLive()), paths, config, run, {"A": "b"}))


@pytest.mark.parametrize("written", ["{{prompt_file}}", "'{{prompt_file}}'", '"{{prompt_file}}"'])
def test_the_placeholder_becomes_one_quoted_word(written: str) -> None:
    assert decide.fill(f"cat {written}", "/a b/prompt.md") == "cat '/a b/prompt.md'"


def test_the_run_folder_holds_prompt_world_schema_and_script(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(decision=NOOP)
    assert ask(paths, monkeypatch, service).move == Noop("quiet")
    folder = service.asked["cwd"]
    assert (folder / "prompt.md").read_text() == "the prompt"
    assert json.loads((folder / "world.json").read_text()) == {"v": 1}
    assert "write_goal" in (folder / "schema.json").read_text()
    assert service.asked["script"] == f"think <{folder}/prompt.md\n" and service.asked["stdin"] is None
    assert service.asked["unit"] == f"looop-decide-{folder.name}.service" and service.asked["env"]["A"] == "b"


def test_without_the_placeholder_the_prompt_is_standard_input(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(decision=NOOP)
    ask(paths, monkeypatch, service, replace(CONFIG, decider_command="think"))
    assert service.asked["stdin"] == service.asked["cwd"] / "prompt.md"


def test_it_may_write_its_run_folder_and_what_the_settings_name(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(decision=NOOP)
    ask(paths, monkeypatch, service, replace(CONFIG, decider_write_paths=("/srv/scratch",)))
    confine = service.asked["confine"]
    assert confine.read_only and not confine.bus and confine.write_paths == (str(service.asked["cwd"]), "/srv/scratch")
    ask(paths, monkeypatch, service, replace(CONFIG, sandbox="off"))
    assert service.asked["confine"] is None


def test_only_the_configured_place_is_looked_at(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Service(decision=NOOP, stdout='{"action": "notify", "message": "x"}', log="chatter")
    assert ask(paths, monkeypatch, both).move == Noop("quiet")
    assert ask(paths, monkeypatch, both, replace(CONFIG, decider_output="stdout")).move != Noop("quiet")


@pytest.mark.parametrize(
    ("service", "said"),
    [
        (Service(Outcome("exit-code", 3), decision=NOOP, log="out of credits"), "exited 3: out of credits"),
        (Service(Outcome("timeout", None, 15), decision=NOOP), "timed out"),
        (Service(), "without writing .decision.json"),
    ],
)
def test_a_command_that_failed_or_said_nothing_decides_nothing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, service: Service, said: str
) -> None:
    with pytest.raises(decide.DecideFailed, match=said):
        ask(paths, monkeypatch, service)


def test_an_empty_stdout_and_a_bad_decision_are_told_apart(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, decider_output="stdout")
    with pytest.raises(decide.DecideFailed, match="without printing"):
        ask(paths, monkeypatch, Service(stdout=" \n"), config)
    with pytest.raises(DecisionError, match="write_goal.body: missing"):
        ask(paths, monkeypatch, Service(stdout='{"action": "write_goal", "id": "g"}'), config)


@pytest.mark.parametrize(
    ("fixed", "reported", "cost", "source"),
    [
        (0.5, None, 0.5, "fixed"), (0.5, 0.1, 0.1, "reported"), (None, 0.0, 0.0, "reported"),
        (None, None, None, "unknown"),
    ],  # fmt: skip
)
def test_what_a_run_cost_is_what_it_says_else_the_fixed_price(
    paths: Paths, fixed: float | None, reported: float | None, cost: float | None, source: str
) -> None:
    decision = Decision(Noop(), cost_usd=reported)
    assert decide.price(paths, replace(CONFIG, decider_cost_usd=fixed), "r", decision, Clock().now) == cost
    [row] = map(json.loads, runs.ledger(paths))
    assert (row["cost_usd"], row["source"]) == (cost, source)
