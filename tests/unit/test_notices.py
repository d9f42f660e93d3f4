"""Trouble that lasts is told once, and again when it is another trouble or comes back."""

import pytest

from looop.notices import Notices
from looop.paths import Paths
from looop.systemd import journal


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(journal, "emit", lambda event, text="", **fields: said.append(f"{event}: {text}"))
    return said


def a_beat(paths: Paths, *troubles: tuple[str, str]) -> None:
    notices = Notices(paths)
    for key, text in troubles:
        notices.note("sensor_failed", text, key)
    notices.keep()


def test_the_same_trouble_is_told_once(paths: Paths, told: list[str]) -> None:
    for _ in range(3):
        a_beat(paths, ("a", "a: exited 1"))
    assert told == ["sensor_failed: a: exited 1"]


def test_another_text_or_a_return_is_told_again(paths: Paths, told: list[str]) -> None:
    a_beat(paths, ("a", "a: exited 1"))
    a_beat(paths, ("a", "a: exited 2"))
    a_beat(paths)
    a_beat(paths, ("a", "a: exited 2"))
    assert told == ["sensor_failed: a: exited 1", "sensor_failed: a: exited 2", "sensor_failed: a: exited 2"]


def test_a_damaged_memory_costs_a_repetition_and_no_more(paths: Paths, told: list[str]) -> None:
    a_beat(paths, ("a", "a: exited 1"))
    (paths.runtime / "notices.json").write_text("{")
    a_beat(paths, ("a", "a: exited 1"))
    a_beat(paths, ("a", "a: exited 1"))
    assert len(told) == 2
