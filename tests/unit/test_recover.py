"""What a dead pulse left: each unfinished record is brought to its end once, and no move is made again."""

import json
from typing import Any, cast

import pytest

from looop import audit, commit, recover, runs
from looop.config import Config
from looop.paths import Paths
from looop.sessions.records import Meta, write_meta
from looop.systemd import journal
from looop.world import World, baseline
from tests.unit.fakes import Clock, FakeLive

WORLD = World(None, {}, {})


@pytest.fixture
def live() -> FakeLive:
    return FakeLive()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = []
    monkeypatch.setattr(journal, "_send", lambda entry: entries.append(dict(entry)))
    return entries


def left(paths: Paths, state: str, action: dict[str, Any] | None = None, **fields: Any) -> str:
    """The record that a pulse left in this state."""
    run = runs.new(paths, Clock().now)
    commit.stage(paths, run, baseline(WORLD))
    runs.save(paths, runs.Record(run, state, "rules", Clock().now, WORLD.hash, action or {"action": "noop"}, **fields))
    return run


def settle(paths: Paths, live: FakeLive, run: str) -> runs.Record:
    recover.recover(cast(Any, live), paths, Config(), Clock().now)
    found = runs.load(paths, run)
    assert found is not None
    return found


def test_a_decider_in_flight_is_stopped_and_its_run_cancelled(
    paths: Paths, live: FakeLive, said: list[dict[str, str]]
) -> None:
    run = left(paths, "deciding")
    unit = f"looop-decide-{run}.service"
    live.units[unit] = "a" * 32
    assert settle(paths, live, run).state == "cancelled"
    assert live.stopped == [unit] and commit.read(paths) is None
    [row] = map(json.loads, runs.ledger(paths))
    assert (row["run"], row["cost_usd"]) == (run, None), "what it cost is not known, which is not nothing"


def test_what_was_executed_is_journaled_once_and_committed(
    paths: Paths, live: FakeLive, said: list[dict[str, str]]
) -> None:
    run = left(paths, "executed", journal="did it")
    assert settle(paths, live, run).state == "committed"
    settle(paths, live, run)
    assert paths.journal.read_text().count("did it") == 1
    committed = commit.read(paths)
    assert committed is not None and committed.hash == WORLD.hash


@pytest.mark.parametrize(
    ("action", "repeatable"),
    [({"action": "run_shell", "cmd": "date"}, False), ({"action": "notify", "message": "x"}, False),
     ({"action": "send_tell", "worker": "w", "message": "x"}, False), ({"action": "archive_goal", "id": "g"}, True)],
    ids=lambda value: str(value),
)  # fmt: skip
def test_a_move_cut_short_is_reported_and_only_a_harmless_one_is_left_to_its_rule(
    paths: Paths, live: FakeLive, said: list[dict[str, str]], action: dict[str, Any], repeatable: bool
) -> None:
    run = left(paths, "intended", action, rule="r", key="k")
    commit.fire(paths, "r", "k", run, Clock().now)
    assert settle(paths, live, run).state == "interrupted"
    assert "INTERRUPTED" in paths.journal.read_text() and said[-1]["LOOOP_EVENT"] == "tick_interrupted"
    assert ("r" in commit.fired(paths).entries) is not repeatable
    assert commit.read(paths) is None


def test_a_worker_that_did_start_proves_its_move(paths: Paths, live: FakeLive, said: list[dict[str, str]]) -> None:
    run = left(paths, "intended", {"action": "start_worker", "id": "w1", "prompt": "x"})
    paths.session("w1").mkdir()
    meta = Meta("w1", "f" * 32, "looop-worker-w1.scope", Clock().now, "true", "", "rules", run)
    write_meta(paths.session("w1"), meta)
    assert settle(paths, live, run).state == "committed"


def test_a_record_of_a_verb_at_work_is_left_to_it(paths: Paths, live: FakeLive, said: list[dict[str, str]]) -> None:
    run = left(paths, "intended")
    record = runs.load(paths, run)
    assert record is not None
    runs.save(paths, runs.Record(run, "intended", "human", record.at))
    assert settle(paths, live, run).state == "intended"


def test_without_the_bus_or_with_broken_files_it_says_so_and_goes_on(
    paths: Paths, live: FakeLive, said: list[dict[str, str]]
) -> None:
    first, second, bad = left(paths, "executed"), left(paths, "executed"), left(paths, "executed")
    (runs.folder(paths, bad) / "record.json").write_text("{")
    (runs.folder(paths, first) / "baseline.json").unlink()
    (runs.folder(paths, first) / "baseline.json").mkdir()
    assert settle(paths, live, second).state == "committed"
    named = " ".join(entry["MESSAGE"] for entry in said)
    assert first in named and bad in named and second not in named
    live.down = True
    third = left(paths, "deciding")
    assert settle(paths, live, third).state == "deciding", "whether its decider still runs is not known"
    paths.journal.unlink()
    paths.journal.mkdir()
    assert settle(paths, live, first).state == "executed" and not audit.line(paths, Config(), "x", "", Clock().now)
