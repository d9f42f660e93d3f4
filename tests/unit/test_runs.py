"""Run folders and their durable record."""

import json
from pathlib import Path

import pytest

from looop import runs
from looop.clock import Stamp
from looop.errors import StateError
from looop.paths import Paths

NOW = Stamp(1_700_000_000, "boot", 5)


@pytest.fixture
def where(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "data", tmp_path / "looop.toml", tmp_path / "run")
    paths.create()
    return paths


def record(paths: Paths, state: str = "intended") -> runs.Record:
    return runs.save(paths, runs.Record(runs.new(paths, NOW), state, "rules", NOW, action={"action": "noop"}))


def test_two_runs_in_one_second_have_folders_of_their_own(where: Paths) -> None:
    first, second = runs.new(where, NOW), runs.new(where, NOW)
    assert second == first + "-2"


def test_a_record_survives_and_advances(where: Paths) -> None:
    saved = record(where)
    assert runs.load(where, saved.run) == saved
    runs.advance(where, saved, "executed", summary="noop")
    loaded = runs.load(where, saved.run)
    assert loaded is not None and (loaded.state, loaded.summary) == ("executed", "noop")


def test_unfinished_records_are_found_and_unreadable_ones_are_reported_not_dropped(where: Paths) -> None:
    record(where, "committed")
    open_one = record(where, "intended")
    bad = record(where, "intended")
    (runs.folder(where, bad.run) / "record.json").write_text("{")
    records, broken = runs.in_states(where, *runs.OPEN)
    assert [r.run for r in records] == [open_one.run]
    assert len(broken) == 1 and isinstance(broken[0], StateError) and bad.run in str(broken[0])


def test_pruning_keeps_the_newest_and_everything_unfinished(where: Paths) -> None:
    keep = record(where, "executed")
    for _ in range(4):
        record(where, "committed")
    runs.prune(where, 2)
    left = runs.ids(where)
    assert keep.run in left and len(left) == 3


def test_a_run_of_unknown_cost_has_a_ledger_row_all_the_same(where: Paths) -> None:
    runs.pay(where, "r1", NOW, 0.25, "reported")
    runs.pay(where, "r2", NOW, None, "unknown")
    rows = [json.loads(line) for line in runs.ledger(where)]
    assert [(row["run"], row["cost_usd"]) for row in rows] == [("r1", 0.25), ("r2", None)]
    assert rows[0]["ts"] == "2023-11-14T22:13:20Z"
