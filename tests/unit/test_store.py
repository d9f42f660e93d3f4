"""State files: whole or absent, never half; trouble is never taken for absence."""

import os
import threading
from pathlib import Path

import pytest

from looop import store
from looop.errors import StateError, TryAgain


def test_a_missing_file_reads_as_none(tmp_path: Path) -> None:
    assert store.read_bytes(tmp_path / "x") is None
    assert store.read_text(tmp_path / "x") is None
    assert store.read_json(tmp_path / "x") is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"a": 1', id="truncated"),
        pytest.param(b"[1]", id="not an object"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="nested too deep"),
    ],
)
def test_a_damaged_json_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match="state.json"):
        store.read_json(path)


def test_a_pipe_in_the_place_of_a_file_is_an_error_and_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    (tmp_path / "y").symlink_to("/dev/zero")
    for name in ("x", "y"):
        with pytest.raises(StateError, match=f"{name}: it is no regular file"):
            store.read_bytes(tmp_path / name)


def test_a_folder_in_the_place_of_a_file_is_an_error_not_absence(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StateError, match="folder"):
        store.read_bytes(tmp_path / "x")
    with pytest.raises(StateError, match="x"):
        store.write(tmp_path / "x", "y")


def test_write_replaces_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "f"
    store.write(path, "one")
    store.write(path, "two", mode=0o755)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path) == ["f"]


def test_what_is_old_or_latest_is_told_by_its_time(tmp_path: Path) -> None:
    for n in (3, 1, 2):
        (tmp_path / f"{n}.json").touch()
        os.utime(tmp_path / f"{n}.json", (n, n))
    (tmp_path / "folder.json").mkdir()
    os.utime(tmp_path / "folder.json", (0, 0))
    assert store.older(tmp_path, ".json", 2.5) == ["1", "2"]
    assert store.latest(tmp_path, ".json", 2) == ["2", "3"]
    assert store.older(tmp_path / "none", ".json", 9) == [] == store.latest(tmp_path / "none", ".json", 0)


def test_something_is_due_once_in_its_time_whatever_the_clock_does(tmp_path: Path) -> None:
    note = tmp_path / ".note"
    assert [store.due(note, now, 10) for now in (100, 105, 110, 111, 50, 59, 60)] == [
        True, False, True, False, True, False, True,
    ]  # fmt: skip
    note.write_text("{")
    assert store.due(note, 61, 10) and not store.due(note, 62, 10)


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "f"
    with pytest.raises(StateError, match="cannot write"):
        store.write(path, "x")


def test_create_wins_once_and_never_shows_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    wins: list[int] = []
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            data = store.read_bytes(path)
            if data is not None:
                seen.add(data)

    def race(n: int) -> None:
        if store.create(path, f"winner {n}"):
            wins.append(n)

    reader = threading.Thread(target=look)
    reader.start()
    racers = [threading.Thread(target=race, args=(n,)) for n in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    done.set()
    reader.join()
    assert len(wins) == 1
    assert seen <= {f"winner {wins[0]}".encode()}
    assert os.listdir(tmp_path) == ["f"]


def test_create_does_not_follow_a_planted_symlink(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    assert store.create(tmp_path / "f", "x") is False
    assert not (tmp_path / "elsewhere").exists()


def test_a_held_lock_is_try_again_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with store.lock(path):
        with pytest.raises(TryAgain, match="another process"):
            with store.lock(path, timeout=0):
                pass
    with store.lock(path, timeout=0):
        pass
    assert path.exists()


def test_append_flattens_and_repairs_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.md"
    path.write_text("half")
    store.append_line(path, "one\n- forged\r\nline")
    assert path.read_text() == "half\none - forged line\n"


def test_append_rotates_past_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "journal.md"
    for n in range(5):
        store.append_line(path, f"line {n}", max_bytes=10)
    assert path.with_name("journal.md.1").exists()
    assert path.read_text().endswith("line 4\n")


def test_names_lists_stems_and_hides_what_starts_with_a_dot(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", ".lock", ".x.json", "c.txt"):
        (tmp_path / name).write_text("")
    assert store.names(tmp_path, ".json") == ["a", "b"]
    assert store.names(tmp_path / "none", ".json") == []
    with pytest.raises(StateError, match="cannot list"):
        store.names(tmp_path / "a.json", ".json")


def test_history_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "goal.md"
    for n in range(4):
        path.write_text(str(n))
        store.keep_history(path, tmp_path / "history", keep=2)
    kept = sorted(p.read_text() for p in (tmp_path / "history").iterdir())
    assert kept == ["2", "3"]
