"""Real notification servers on a screen: the button is drawn, clicked with the mouse, and the worker goes on.

Needs more packages than looop and its other tests do; without them it is skipped:

    apt-get install --no-install-recommends xvfb xdotool imagemagick fonts-dejavu-core dunst notification-daemon
"""

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from looop.systemd.popups import Popups
from tests.machine.harness import DATA, Events, Journal, command, systemctl, units, wipe
from tests.machine.test_notifications import record, worker

DAEMON = "/usr/lib/notification-daemon/notification-daemon"
NEEDED = ("Xvfb", "xdotool", "import", "dbus-daemon", "dunst", "dunstctl", DAEMON)
MISSING = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"NO REAL DESKTOP IS TESTED: {' '.join(MISSING)} not installed")
WIDTH, HEIGHT = 800, 300


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A screen."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp"],
        pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with open(reading) as said:
        monkeypatch.setenv("DISPLAY", f":{said.readline().strip()}")
        yield os.environ["DISPLAY"]
    end(process)


@pytest.fixture
def session_bus(display: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A private session bus, which the user manager's services are told of as a desktop session does it."""
    process = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    before = [line for line in systemctl("show-environment").splitlines() if line.startswith("DBUS_SESSION_BUS_ADDR")]
    systemctl("set-environment", f"DBUS_SESSION_BUS_ADDRESS={address}")
    yield address
    systemctl("unset-environment", "DBUS_SESSION_BUS_ADDRESS")
    if before:
        systemctl("set-environment", before[0])
    end(process)


def end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.communicate(timeout=20)


def served(*words: str) -> "subprocess.Popen[bytes]":
    """A notification server that is ready."""
    with Popups() as popups:
        popups.listen()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not popups.owner():
            popups.drain()
            assert select.select([popups], [], [], 20)[0], f"{words[0]} does not come up"
    return process


def popup_window() -> tuple[int, int, int, int]:
    """Place and size of the notification."""
    number = command("xdotool", "search", "--sync", "--onlyvisible", "--name", "Notification").stdout.split()[0]
    shown = command("xdotool", "getwindowgeometry", number).stdout
    place = re.search(r"Position: (-?\d+),(-?\d+).*?Geometry: (\d+)x(\d+)", shown, re.S)
    assert place, shown
    return int(place[1]), int(place[2]), int(place[3]), int(place[4])


def words_in(left: int, top: int, width: int, height: int) -> list[int]:
    """Where, from left to right, the words of one line of dark text are: the middle of each."""
    crop = f"{width}x{height}+{left}+{top}"
    done = subprocess.run(
        ["import", "-window", "root", "-crop", crop, "-depth", "8", "gray:-"], capture_output=True, check=True
    )
    dark = [x for x in range(width) if any(done.stdout[y * width + x] < 100 for y in range(height))]
    found: list[list[int]] = []
    for x in dark:
        if found and x - found[-1][-1] < 12:
            found[-1].append(x)
        else:
            found.append([x])
    return [left + (word[0] + word[-1]) // 2 for word in found]


def buttons(count: int) -> tuple[list[int], int]:
    """The middle of each button, and how far down they are; looked for until they are drawn."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left, top, width, height = popup_window()
        for row in range(top + height - 60, top + height - 20, 5):
            found = words_in(left + 70, row, width - 90, 14)
            if len(found) == count:
                return found, row + 7
    raise AssertionError(f"no row of {count} buttons is drawn")


def shown(events: Events) -> None:
    events.wait_for(lambda: bool(record("w1-1").get("channels", {}).get("desktop", {}).get("popup")))


def test_a_button_clicked_on_a_real_desktop_answers_the_worker(
    session_bus: str, events: Events, journal: Journal
) -> None:
    server = served(DAEMON)
    process = worker("--prompt", "Deploy release 2.1 to <production>?", "--options", "deploy,wait,cancel")
    try:
        shown(events)
        middles, row = buttons(3)
        if os.environ.get("LOOOP_PICTURE"):
            left, top, width, height = popup_window()
            crop = f"{width}x{height}+{left}+{top}"
            command("import", "-window", "root", "-crop", crop, "+repage", os.environ["LOOOP_PICTURE"])
        command("xdotool", "mousemove", str(middles[1]), str(row), "click", "1")
        assert process.communicate(timeout=20)[0] == "wait\n", "the worker went on with the button's text"
        journal.wait("button_pressed", LOOOP_ASK="w1-1")
        assert "answered w1-1 by desktop · wait" in (DATA / "journal.md").read_text()
        events.wait_for(lambda: not units("looop-desktop.service", "active"))
    finally:
        end(server)


def test_an_action_chosen_in_dunst_answers_the_worker(
    session_bus: str, events: Events, journal: Journal, tmp_path: Path
) -> None:
    menu = tmp_path / "menu"
    menu.write_text("#!/bin/sh\ngrep -F cancel\n")
    menu.chmod(0o755)
    (tmp_path / "dunstrc").write_text(f"[global]\ndmenu = {menu}\n")
    server = served("dunst", "-config", str(tmp_path / "dunstrc"))
    process = worker("--prompt", "Deploy?", "--options", "deploy,wait,cancel")
    try:
        shown(events)
        assert command("dunstctl", "count", "displayed").stdout.strip() == "1"
        command("dunstctl", "context")
        assert process.communicate(timeout=20)[0] == "cancel\n"
        events.wait_for(lambda: not units("looop-desktop.service", "active"))
        assert command("dunstctl", "count", "displayed").stdout.strip() == "0", "it is taken off the screen"
    finally:
        end(server)
