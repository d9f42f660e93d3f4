"""What the pulse says reaches the manager, whatever characters it holds."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from looop.systemd import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify._notifier.cache_clear()
        yield listening
        notify._notifier().socket.close()
        notify._notifier.cache_clear()


def test_a_status_is_one_line_of_utf_8(manager: socket.socket) -> None:
    notify.status("goal “über”\nREADY=1 → w1")
    assert manager.recv(1000).decode() == "STATUS=goal “über” READY=1 → w1"


def test_each_word_is_the_one_the_manager_knows(manager: socket.socket) -> None:
    for say, expected in ((notify.ready, "READY=1"), (notify.watchdog, "WATCHDOG=1"), (notify.stopping, "STOPPING=1")):
        say()
        assert manager.recv(100).decode() == expected
    notify.reloading()
    first, second = manager.recv(100).decode().split("\n")
    assert first == "RELOADING=1" and second.startswith("MONOTONIC_USEC=")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("30000000", str(os.getpid()), 30.0), ("30000000", "1", None), ("0", "", None), ("", "", None), ("x", "", None)],
)
def test_the_watchdog_interval_is_this_process_own(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert notify.watchdog_s() == expected
