"""What the pulse tells its service manager: ready, status, alive, stopping (sd_notify(3)).

Used by the pulse only; does nothing where no manager listens. The watchdog must be fed by the loop that runs the
beat, never by a thread.
"""

import os
import time
from functools import cache

import sdnotify

from looop.systemd.journal import one_line


@cache
def _notifier() -> sdnotify.SystemdNotifier:
    return sdnotify.SystemdNotifier()


def _send(state: str) -> None:
    # sdnotify encodes as Latin-1 and drops what that cannot hold, while the manager wants UTF-8
    _notifier().notify(state.encode(errors="replace").decode("latin-1"))


def ready() -> None:
    """Start-up, or a reload, is done."""
    _send("READY=1")


def status(text: str) -> None:
    """The line `systemctl status` shows."""
    _send(f"STATUS={one_line(text)}")


def watchdog() -> None:
    """Still alive."""
    _send("WATCHDOG=1")


def stopping() -> None:
    """Going down, by its own decision or not."""
    _send("STOPPING=1")


def reloading() -> None:
    """Settings are being read again; `ready` ends it. The stamp is what systemd 253 and later ask for."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_s() -> float | None:
    """Seconds within which the manager wants to hear from this process; None when it does not (WatchdogSec=)."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0 or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 1e6
