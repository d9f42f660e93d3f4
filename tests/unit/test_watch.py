"""A watcher wakes for what counts, sleeps through the rest, and keeps to the path it was given."""

import os
import resource
import time
from pathlib import Path

import pytest
from inotify import calls

from looop import store, watch
from looop.errors import LooopError, StateError
from looop.watch import Watcher


def test_wakes_for_create_replace_and_remove(tmp_path: Path) -> None:
    with Watcher(tmp_path) as watcher:
        assert not watcher.wait(0)
        assert store.create(tmp_path / "a.json", "1")
        assert watcher.wait(5)
        store.write(tmp_path / "a.json", "2")
        assert watcher.wait(5)
        assert store.remove(tmp_path / "a.json")
        assert watcher.wait(5)
        assert not watcher.wait(0)


def test_hidden_names_and_locks_do_not_count(tmp_path: Path) -> None:
    with Watcher(tmp_path) as watcher:
        with store.lock(tmp_path / ".lock"):
            (tmp_path / ".half-written").write_text("x")
        assert not watcher.wait(0.05)


def test_many_changes_are_one(tmp_path: Path) -> None:
    with Watcher(tmp_path) as watcher:
        for n in range(50):
            (tmp_path / str(n)).touch()
        assert watcher.drain()
        assert not watcher.drain()


def test_a_folder_put_in_place_of_the_watched_one_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "asks"
    folder.mkdir()
    with Watcher(folder) as watcher:
        os.mkdir(tmp_path / "new")
        os.rename(folder, tmp_path / "old")
        os.rename(tmp_path / "new", folder)
        assert watcher.wait(5)
        (folder / "x").touch()
        assert watcher.wait(5)


def test_a_watched_folder_that_goes_away_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "asks"
    folder.mkdir()
    with Watcher(folder) as watcher:
        folder.rmdir()
        with pytest.raises(StateError, match="asks"):
            watcher.wait(5)


def test_a_missing_path_is_named_and_nothing_leaks(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StateError, match="missing"):
        Watcher(tmp_path, tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limit_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = ""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # EMFILE too, and other processes of this user have their own
    try:
        Watcher(tmp_path)
    except LooopError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "max_user_instances" in said


@pytest.mark.parametrize("seconds", [1e10, 1e300, float("inf")])
def test_it_waits_as_long_as_it_is_told(tmp_path: Path, seconds: float) -> None:
    with Watcher(tmp_path) as watcher:
        store.write(tmp_path / "a.json", "1")
        assert watcher.wait(seconds) is True


def test_a_time_longer_than_one_call_takes_is_waited_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LONGEST_S", 0.001)
    with Watcher(tmp_path) as watcher:
        begun = time.monotonic()
        assert watcher.wait(0.02) is False
        assert time.monotonic() - begun >= 0.02


def test_the_descriptor_is_not_inherited(tmp_path: Path) -> None:
    with Watcher(tmp_path) as watcher:
        assert not os.get_inheritable(watcher.fileno())
        assert not os.get_blocking(watcher.fileno())


def test_without_inotify_a_waiter_that_must_not_fail_looks_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up() -> int:
        raise calls.InotifyError("Call failed (should not be -1): (-1)")

    monkeypatch.setattr(calls, "inotify_init", used_up)
    monkeypatch.setattr(watch, "LOOK_AGAIN_S", 0.01)
    with pytest.raises(LooopError, match="max_user_instances"):
        Watcher(tmp_path)
    with Watcher(tmp_path, fallback=True) as watcher:
        assert "max_user_instances" in watcher.degraded
        assert watcher.wait() is True
        assert watcher.wait(0.001) is False
