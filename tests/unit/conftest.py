"""The unit ring: files in tmp_path, no systemd, no network, and nothing left running."""

import asyncio
import ctypes
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from looop.paths import Paths

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): what a test's child leaves behind becomes our child, and so is found
DYING_S = 2.0


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A complete, empty data directory."""
    made = Paths(data=tmp_path / "data", config=tmp_path / "config/looop.toml", runtime=tmp_path / "run")
    made.create()
    return made


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """Our living children; the dead ones are collected."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except FileNotFoundError:
            continue  # a thread that ended meanwhile; its children are the next one's
        for pid in map(int, pids):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                found.add(pid)
    return found


def still_alive(pid: int) -> bool:
    """Whether a child outlives a moment's patience: one that was just killed may be dying."""
    fd = os.pidfd_open(pid)
    try:
        return not select.select([fd], [], [], DYING_S)[0]
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    before = children()
    yield
    left = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children() - before}
    left = {pid: line for pid, line in left.items() if still_alive(pid)}
    assert not left, f"the test left processes running: {left}"


@pytest.fixture(autouse=True)
def no_task_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """asyncio.run() cancels what is left without a word; here it is an error."""
    left: list[str] = []
    runners: Any = asyncio.runners
    cancel_all = runners._cancel_all_tasks

    def note(loop: asyncio.AbstractEventLoop) -> None:
        left.extend(repr(task) for task in asyncio.all_tasks(loop))
        cancel_all(loop)

    monkeypatch.setattr(runners, "_cancel_all_tasks", note)
    yield
    assert not left, f"the test left tasks running: {left}"


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A handler that a test leaves would be there in all later ones."""
    changeable = [number for number in signal.valid_signals() if signal.getsignal(number) is not None]
    before = {number: signal.getsignal(number) for number in changeable}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"the test connects to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
