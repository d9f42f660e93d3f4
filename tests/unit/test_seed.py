"""Seeding: once in the life of a data directory, and never over what is there."""

import subprocess
from pathlib import Path

import pytest

from looop import seed
from looop.errors import StateError
from looop.paths import Paths


@pytest.fixture(autouse=True)
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "starter"
    (folder / "sensors").mkdir(parents=True)
    (folder / "PLAYBOOK.md").write_text("starter playbook\n")
    (folder / "rules.toml").write_text("# starter rules\n")
    (folder / "sensors" / "failed-units.sh").write_text("#!/bin/sh\n")
    monkeypatch.setattr(seed, "STARTER", folder)


def test_a_fresh_directory_gets_the_starter_set(paths: Paths) -> None:
    assert seed.seed(paths)
    assert paths.playbook.read_text() == "starter playbook\n"
    assert paths.rules.exists()
    assert paths.sensor("failed-units").stat().st_mode & 0o777 == 0o755


def test_what_is_deleted_later_stays_deleted(paths: Paths) -> None:
    seed.seed(paths)
    paths.playbook.unlink()
    paths.rules.write_text("mine")
    assert not seed.seed(paths)
    assert not paths.playbook.exists() and paths.rules.read_text() == "mine"


def test_a_directory_with_a_playbook_is_left_as_it_is(paths: Paths) -> None:
    paths.playbook.write_text("mine")
    assert not seed.seed(paths)
    paths.playbook.unlink()
    assert not seed.seed(paths)
    assert not paths.rules.exists()


def test_nothing_that_exists_is_overwritten(paths: Paths) -> None:
    paths.rules.write_text("mine")
    (paths.data / ".gitignore").write_text("mine")
    assert seed.seed(paths)
    assert paths.rules.read_text() == (paths.data / ".gitignore").read_text() == "mine"


def test_cut_short_it_is_completed(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = seed.STARTER / "PLAYBOOK.md"
    text = hidden.read_text()
    hidden.unlink()
    with pytest.raises(StateError):
        seed.seed(paths)
    hidden.write_text(text)
    assert seed.seed(paths) and paths.playbook.exists()


def test_runtime_state_is_kept_out_of_git_and_policy_is_not(paths: Paths) -> None:
    seed.seed(paths)
    (paths.data / ".guards.json").write_text("{}")
    (paths.goals / "g.md").write_text("x")
    (paths.asks / "a.json").write_text("{}")
    subprocess.run(["git", "init", "-q", paths.data], check=True)
    listed = subprocess.run(
        ["git", "-C", paths.data, "ls-files", "-o", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"PLAYBOOK.md", "goals/g.md", "rules.toml", ".gitignore", "sensors/failed-units.sh"} == set(listed)
