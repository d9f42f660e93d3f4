"""The committed world and the ledger of rules: whole or an error, never silently empty."""

import pytest

from looop import commit, runs
from looop.errors import StateError
from looop.paths import Paths
from looop.world import World, baseline, policy
from tests.unit.fakes import Clock

NOW = Clock().now
BEFORE = baseline(World(policy(b"before"), {}, {}))
AFTER = baseline(World(policy(b"after"), {}, {}))


def test_a_staged_world_counts_only_once_its_run_is_committed(paths: Paths) -> None:
    assert commit.read(paths) is None
    commit.save(paths, BEFORE)
    run = runs.new(paths, NOW)
    commit.stage(paths, run, AFTER)
    assert commit.read(paths) == BEFORE
    commit.commit(paths, run)
    assert commit.read(paths) == AFTER


def test_a_run_without_a_staged_world_leaves_the_committed_one(paths: Paths) -> None:
    commit.save(paths, BEFORE)
    commit.commit(paths, runs.new(paths, NOW))
    assert commit.read(paths) == BEFORE


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"hash": 1, "items": {}}', '{"hash": "x", "items": {"a": 1}}']
)
def test_an_unusable_baseline_or_ledger_is_an_error_that_names_the_file(paths: Paths, content: str) -> None:
    paths.committed.write_text(content)
    with pytest.raises(StateError, match=".committed.json"):
        commit.read(paths)
    paths.rule_ledger.write_text(content)
    if content != "{}":
        with pytest.raises(StateError, match=".rules-fired.json"):
            commit.fire(paths, "r", "k", "run", NOW)


def test_a_rule_is_released_by_the_run_that_fired_it_only(paths: Paths) -> None:
    commit.fire(paths, "r", "k", "run-1", NOW)
    commit.fire(paths, "s", "k", "run-2", NOW)
    commit.release_rule(paths, "run-2")
    assert {rule for rule, keys in commit.fired(paths).entries.items() if keys} == {"r"}
