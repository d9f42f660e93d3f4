"""The world the last successful decision was made on, and which rules have fired: read and written here only.

Hash and baseline are one file, replaced atomically, so they never disagree. The baseline of a run in flight lies
in its run folder, from where a later pulse can still commit it. Used by the beat and by recovery.
"""

from pathlib import Path

from looop import rules, runs, store
from looop.clock import Stamp
from looop.errors import StateError
from looop.jsonutil import JsonError
from looop.paths import Paths
from looop.world import Baseline


def read(paths: Paths) -> Baseline | None:
    """None on a fresh data directory. Raises StateError when the file is there but unusable."""
    return _baseline(paths.committed)


def _baseline(path: Path) -> Baseline | None:
    obj = store.read_json(path)
    try:
        return None if obj is None else Baseline.from_json(obj)
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}") from error


def save(paths: Paths, baseline: Baseline) -> None:
    """Commit a world. Raises StateError."""
    store.write_json(paths.committed, baseline.to_json())


def stage(paths: Paths, run: str, baseline: Baseline) -> None:
    """Keep the baseline of a run with the run until it is committed."""
    store.write_json(runs.folder(paths, run) / "baseline.json", baseline.to_json())


def commit(paths: Paths, run: str) -> None:
    """Commit the world a run was decided on."""
    staged = _baseline(runs.folder(paths, run) / "baseline.json")
    if staged:
        save(paths, staged)


# -- rules


def fired(paths: Paths) -> rules.Fired:
    """The rule ledger. Raises StateError when it cannot be read: then no rule may fire."""
    obj = store.read_json(paths.rule_ledger)
    try:
        return rules.Fired.from_json(obj or {})
    except JsonError as error:
        raise StateError(
            f"cannot read {paths.rule_ledger}: {error}", hint="mend it, or remove it to let every rule fire afresh"
        ) from error


def fire(paths: Paths, rule: str, key: str, run: str, now: Stamp) -> None:
    """Note that a rule fired, before its move is carried out."""
    store.write_json(paths.rule_ledger, rules.add(fired(paths), rule, key, run, now).to_json())


def release_rule(paths: Paths, run: str) -> None:
    """Let the rule of that run fire again for the same occurrence."""
    store.write_json(paths.rule_ledger, rules.release(fired(paths), run).to_json())
