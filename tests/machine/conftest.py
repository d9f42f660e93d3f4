"""The machine ring runs in a booted machine only (tests/machine/run), as an ordinary user, on an installed looop."""

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import harness

DYING_S = 5.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("LOOOP_MACHINE"):
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a booted machine: make test, or tests/machine/run"))


@pytest.fixture
def events() -> Iterator[harness.Events]:
    """`events.wait_for(predicate)`."""
    made = harness.Events()
    yield made
    made.close()


@pytest.fixture
def journal(events: harness.Events) -> harness.Journal:
    """`journal.wait("ask_raised", LOOOP_SESSION="w1")`, `journal.find(...)`."""
    return harness.Journal(events)


@pytest.fixture
def pulse(events: harness.Events) -> Iterator[harness.Pulse]:
    """The installed looop with empty folders, not started."""
    with harness.fresh_pulse(events) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO whose readers end when it is opened for writing."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture(autouse=True)
def clean_slate(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process and no unit outlives the test that made it."""
    if request.node.get_closest_marker("skip"):
        yield
        return
    before, units_before = harness.processes(), loaded()
    yield
    left = {pid: line for pid, line in harness.processes().items() if pid not in before and not ours(line)}
    left = {pid: line for pid, line in left.items() if still_alive(pid[0])}
    units_left = loaded() - units_before
    assert not left, f"the test left processes running: {left}"
    assert not units_left, f"the test left units: {sorted(units_left)}"


def loaded() -> set[str]:
    """Units that run or have failed, without systemd's own: devices, mounts, targets and the bus."""
    kinds = (".service", ".scope", ".timer", ".path", ".socket")
    found = harness.units("*", "active", "activating", "deactivating", "failed")
    return {name for name in found if name.endswith(kinds) and not name.startswith(("dbus.", "init."))}


def ours(line: str) -> bool:
    """The user manager itself and its bus come and go as they like."""
    group = line.split()[0]
    return group.startswith(harness.CGROUP) and group.removeprefix(harness.CGROUP).startswith(
        ("/init.scope", "/app.slice/dbus.service", "/session.slice/dbus.service")
    )


def still_alive(pid: int) -> bool:
    """Whether it outlives a moment's patience: a process that was just killed may be dying."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([fd], [], [], DYING_S)[0]
    finally:
        os.close(fd)
