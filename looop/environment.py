"""The environment of what looop starts: built from nothing, never inherited.

So results do not depend on who called, no secret leaks by accident, and none of systemd's own variables
(NOTIFY_SOCKET, LISTEN_FDS, INVOCATION_ID, ...) reaches a process they do not describe. Used by pulse and `looopctl`.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import looop
from looop.config import Config
from looop.paths import Paths

_SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")


def environment(
    paths: Paths, config: Config, names: Sequence[str] = (), *, bus: bool = False, **extra: str
) -> dict[str, str]:
    """What every child gets, then the variables in `names` from our own environment, then `extra`.

    `bus`: also name the user bus, for those who are meant to reach systemd.
    """
    account = pwd.getpwuid(os.getuid())
    home = os.environ.get("HOME") or account.pw_dir
    looopctl = program(home)
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    folders = [os.path.dirname(looopctl), f"{home}/.local/bin", *_SYSTEM_PATH]
    built = {
        "HOME": home,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "LANG": os.environ.get("LANG") or "C.UTF-8",
        "PATH": ":".join(dict.fromkeys(folder for folder in folders if folder)),
        "XDG_RUNTIME_DIR": runtime,
        "LOOOP_BIN": looopctl or "looopctl",
        "LOOOP_DATA_DIR": str(paths.data),
        "LOOOP_CONFIG": str(paths.config),
        "LOOOP_CLAIMS_DIR": str(paths.claims),
        "LOOOP_REPORTS_DIR": str(paths.reports),
        "LOOOP_STARTER": str(Path(looop.__file__).parent / "starter"),
    }
    if bus:
        built["DBUS_SESSION_BUS_ADDRESS"] = os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime}/bus"
    named = {name: os.environ[name] for name in names if name in os.environ}
    return built | named | extra


def program(home: str) -> str:
    """The `looopctl` in use: $LOOOP_BIN, the running program or its neighbour, the one on the search path, or ""."""
    given = os.environ.get("LOOOP_BIN", "")
    if given.startswith("/"):
        return given
    beside = Path(sys.argv[0]).absolute().with_name("looopctl")
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("looopctl", path=":".join([f"{home}/.local/bin", *_SYSTEM_PATH])) or ""
