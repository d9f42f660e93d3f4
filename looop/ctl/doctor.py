"""`looopctl doctor`: what looop needs from this host, measured rather than assumed, and how to mend what is missing."""

import argparse
import asyncio
import getpass
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from looop.config import SETTINGS, files
from looop.ctl.command import Command, Context, Parser, add_json, print_json, table
from looop.ctl.up import PULSE, pulse_state
from looop.errors import LooopError
from looop.settings import toml
from looop.systemd import services
from looop.systemd.live import Live
from looop.systemd.manager import Manager

MINIMUM_SYSTEMD = 252


@dataclass(frozen=True)
class Finding:
    """One check: `level` is ok, warn or fail; `mend` is the command that helps."""

    level: str
    what: str
    mend: str = ""


def _configure(parser: Parser) -> None:
    add_json(parser)
    parser.add_argument("--settings", action="store_true", help="list every setting with its value and stop")


def manager(context: Context) -> Iterator[Finding]:
    """The user manager and what it can do."""
    with Manager("user") as user:
        version = user.version()
        number = int("".join(c for c in version.split(".")[0] if c.isdigit()) or 0)
        level = "ok" if number >= MINIMUM_SYSTEMD else "fail"
        yield Finding(level, f"systemd {version} answers on the user bus (needs {MINIMUM_SYSTEMD})")
        state = pulse_state(user)
        yield Finding(
            "ok" if state == "active" else "warn", f"the pulse is {state}", "" if state == "active" else "looopctl up"
        )
        enabled = user.unit_file_state(PULSE)
        yield Finding(
            "ok" if enabled == "enabled" else "warn",
            f"{PULSE} is {enabled or 'not installed'} (enabled = started at login or boot)",
            "" if enabled == "enabled" else f"systemctl --user enable {PULSE}",
        )


def linger(context: Context) -> Iterator[Finding]:
    """Whether the user manager outlives the last logout (loginctl(1) enable-linger)."""
    user = getpass.getuser()
    if Path("/var/lib/systemd/linger", user).exists():
        yield Finding("ok", f"lingering is on: looop survives the logout of {user}")
    else:
        yield Finding("warn", "lingering is off: looop and its workers end at logout", f"loginctl enable-linger {user}")


def journal(context: Context) -> Iterator[Finding]:
    """Whether events survive a reboot."""
    if Path("/var/log/journal").is_dir():
        yield Finding("ok", "the journal is persistent")
    else:
        yield Finding("warn", "the journal is lost at reboot", "mkdir -p /var/log/journal  (as root)")


def confinement(context: Context) -> Iterator[Finding]:
    """What a sandboxed unit is really kept from, on this host."""

    async def measured() -> dict[str, bool]:
        live = Live("user")
        await live.connect()
        try:
            return dict(await services.measure(live, context.paths))
        finally:
            await live.aclose()

    off = context.config.sandbox == "off"
    for name, held in sorted(asyncio.run(measured()).items()):
        if held:
            yield Finding("ok", f"sandbox: {name} holds")
        else:
            yield Finding(
                "warn" if off else "fail",
                f"sandbox: {name} does not hold here; sensors, deciders and commands are not run",
                "" if off else 'sandbox = "off" in looop.toml runs them unconfined',
            )


def controllers(context: Context) -> Iterator[Finding]:
    """Which resource limits the kernel enforces for this user's units (systemd.resource-control(5))."""
    uid = os.getuid()
    path = f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers"
    try:
        present = set(Path(path).read_text().split())
    except OSError:
        present = set()
    for name, limits in (("memory", "MemoryMax=, MemoryHigh="), ("pids", "TasksMax="), ("cpu", "CPUWeight=")):
        if name in present:
            yield Finding("ok", f"{limits} are enforced ({name} controller)")
        else:
            yield Finding("warn", f"{limits} are accepted but NOT enforced here (no {name} controller for this user)")


def programs(context: Context) -> Iterator[Finding]:
    """Data directory, configuration and the commands it names."""
    config = context.config
    read = ", ".join(str(p) for p in files(context.paths)) or "none; looop runs on rules alone"
    yield Finding("ok", f"configuration: {read}")
    data = context.paths.data
    there = next(path for path in (data, *data.parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.R_OK | os.W_OK | os.X_OK)):
        mend = f"chown -R {getpass.getuser()} {shlex.quote(str(data))}" if there == data else "set LOOOP_DATA_DIR"
        yield Finding("fail", f"{data} cannot be {'written' if data.exists() else 'made'}", mend)
    else:
        yield Finding("ok", f"data: {data}" + ("" if data.exists() else " (made at the first start)"))
    for key, command in (("decider_command", config.decider_command), ("worker_command", config.worker_command)):
        try:
            words = [w for w in shlex.split(command) if "=" not in w.split("/")[0]]
        except ValueError:
            words = []
        if words and "$" not in words[0] and not shutil.which(words[0]):
            yield Finding("fail", f"{key}: {words[0]} is not on PATH", "install it, or run looopctl init again")


def telling(context: Context) -> Iterator[Finding]:
    """Who tells the human of an ask, and what has failed lately."""
    from looop import notifications
    from looop.systemd import popups

    config = context.config
    ways = [f"{len(config.notify_hooks)} of your hooks"] if config.notify_hooks else []
    if config.notify_desktop == "auto" and popups.possible():
        ways.append("the desktop")
    if ways:
        yield Finding("ok", f"asks are told by {' and '.join(ways)}")
    else:
        yield Finding("warn", "asks are told by nobody: no hook is set and no desktop is here", "set notify_hooks")
    for problem in notifications.problems(context.paths):
        yield Finding("warn", problem)


CHECKS: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    programs, manager, linger, journal, confinement, controllers, telling,
)  # fmt: skip


def examine(context: Context) -> list[Finding]:
    """Every finding; a check that cannot be made is itself one."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(context)
        except LooopError as error:
            findings.append(Finding("fail", error.message, error.hint or ""))
    return findings


def _run(args: argparse.Namespace, context: Context) -> int:
    if args.settings:
        values = [(s.key, getattr(context.config, s.key), s.help) for s in SETTINGS]
        if args.json:
            print_json([{"key": key, "value": value, "help": text} for key, value, text in values])
        else:
            table(["KEY", "VALUE", "WHAT IT IS"], [(key, toml(value), text) for key, value, text in values])
        return 0
    findings = examine(context)
    if args.json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.level:<5} {finding.what}" + (f"\n      -> {finding.mend}" if finding.mend else ""))
    return 1 if any(finding.level == "fail" for finding in findings) else 0


command = Command(_configure, _run)
