"""The pulse: the daemon of looop.service. It waits for pokes and unit signals and runs beats; nothing else.

It knows nothing of goals or moves. It never blocks: every child is a unit, every wait has a deadline, and the
watchdog is fed by the very loop that runs the beat (systemd.service(5) WatchdogSec=, sd_listen_fds(3)).
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

from looop import __version__, beat, claims, housekeep, notifications, nudges, recover, sandbox, seed, store
from looop.clock import Stamp, now
from looop.config import Config, load
from looop.errors import ExitCode, LooopError, Refused, StateError, TimedOut, TryAgain, Unavailable, UsageError
from looop.holders import Holders, Units
from looop.notices import Notices
from looop.paths import Paths
from looop.sessions import fleet
from looop.systemd import identity, journal, notify
from looop.systemd.live import Live

LISTEN_FDS_START = 3
SLICES = ("looop-worker.slice", "looop-helper.slice")
KEEP_WORKERS = "keep-workers"
REASON_STATUS = 200
FAILED = "the last beat failed"


class Pulse:
    """One pulse. `run` returns the exit code of the process."""

    def __init__(self, paths: Paths, config: Config, fifo: int) -> None:
        self.paths = paths
        self.config = config
        self.fifo = fifo
        self.live = Live("user")
        self.system = Live("system")
        self.poked = asyncio.Event()
        self.stopping = asyncio.Event()
        self.deadline = float("inf")
        self.last_start = float("-inf")
        self.known: Units | None = None
        self.holders = Holders(paths, self.live, self.system, self.look)
        self.confined = False
        self.measured = False
        self.number = 0
        self.forced = "the pulse started"

    # -- life

    async def run(self) -> int:
        """Start, beat until told to stop, stop. Raises LooopError when it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_reader(self.fifo, self.read_pokes)
        self.live.on_change = self.system.on_change = self.look
        self.live.on_state = self.bus_state
        await self.live.connect()
        self.feed_watchdog()
        await self.measure()
        recover.recover(self.live, self.paths, self.config, now())
        for problem in await nudges.rearm(self.live, self.paths, now()):
            journal.emit("state_degraded", text=problem)
        self.holders.start()
        await self.watch_policy()
        (self.paths.runtime / KEEP_WORKERS).unlink(missing_ok=True)
        notify.ready()
        journal.emit("pulse_started", text=f"version {__version__}, data in {self.paths.data}")
        self.poked.set()
        try:
            await self.beats()
        finally:
            notify.stopping()
            await self.stop()
        return ExitCode.DONE

    async def measure(self) -> None:
        """Learn what may be run here, at the start and after a change of settings."""
        confined = await sandbox.prepare(self.live, self.paths, self.config)
        self.confined, self.measured = bool(confined), confined is not None

    async def beats(self) -> None:
        """Beat after beat, until `stopping`; one in flight is cancelled, which stops its units."""
        stop = asyncio.create_task(self.stopping.wait(), name="stopping")
        try:
            while not self.stopping.is_set():
                step = asyncio.create_task(self.one_beat(), name="beat")
                await asyncio.wait({step, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    notify.status("stopping; ending the beat in flight")
                    step.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await step
        finally:
            stop.cancel()

    async def one_beat(self) -> None:
        """Wait for a poke and for the gap since the last beat, then run one beat."""
        await self.poked.wait()
        left = self.last_start + self.config.beat_gap - time.monotonic()
        if left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), left)
        self.poked.clear()
        self.last_start = time.monotonic()
        self.number += 1
        notices, started, forced = Notices(self.paths), now(), self.forced
        with journal.context(beat=self.number):
            try:
                if not self.measured:
                    await self.measure()
                if self.forced == FAILED:  # perhaps in the middle of a move
                    recover.recover(self.live, self.paths, self.config, now())
                result = await beat.beat(self.services(notices), self.number, self.forced)
            except LooopError as error:
                notices.note("beat_failed", str(error))
                notify.status(f"beat {self.number} failed: {error}"[:REASON_STATUS])
                self.forced = FAILED
                self.note(started, forced, f"failed: {error}")
                return
            except Exception as error:  # the beat boundary: a fault of ours must not end the loop
                journal.emit("beat_failed", text=f"internal error: {type(error).__name__}: {error}", trace=True)
                notify.status(f"beat {self.number} failed: internal error {type(error).__name__}")
                self.forced = FAILED
                self.note(started, forced, f"failed: internal error {type(error).__name__}: {error}")
                return
            finally:
                notices.keep()
                self.deadline = float("inf")
        self.forced = result.again
        if result.again:
            self.poked.set()
        closed = "" if self.confined else "; no sensor or command runs, this host cannot confine them (looopctl doctor)"
        notify.status(result.text + closed)
        self.note(started, forced, result.text, result.why, result.acted)

    def note(self, started: Stamp, forced: str, outcome: str, why: str = "", acted: bool = False) -> None:
        """Leave what came of this beat where `looopctl status` finds it. Failing costs that verb a line."""
        ended, path = now(), self.paths.last_beat
        record = {
            "v": 1, "number": self.number, "started": started.wall, "ended": ended.wall, "outcome": outcome,
            "acted": acted, "forced": forced, "why": why, "since": ended.wall,
        }  # fmt: skip
        with contextlib.suppress(StateError):
            before = store.read_json(path) or {}
            if why and str(before.get("why", "")).partition(",")[0] == why.partition(",")[0]:
                record["since"] = before.get("since", ended.wall)
        with contextlib.suppress(StateError):
            store.write_changed(path, store.dump_json(record).encode())

    def services(self, notices: Notices) -> housekeep.Services:
        """What the next beat works with."""
        return housekeep.Services(
            live=self.live,
            system=self.system,
            paths=self.paths,
            config=self.config,
            clock=now,
            confined=self.confined,
            allow=self.allow,
            status=notify.status,
            notices=notices,
        )

    async def stop(self) -> None:
        """Leave the workers running on a restart or a crash-like end, stop them when looop itself is stopped."""
        try:
            unit = identity.holder().unit
            job = self.live.job_type(unit)
            keep = (self.paths.runtime / KEEP_WORKERS).exists()
            if job == "stop" and not keep:
                notify.status("stopping the workers")
                await self.stop_slices()
            journal.emit("pulse_stopped", text="workers kept" if keep or job != "stop" else "workers stopped")
        except LooopError as error:
            journal.emit("pulse_stopped", text=f"workers kept: {error}")
        finally:
            self.holders.close()
            await self.live.aclose()
            await self.system.aclose()

    async def stop_slices(self) -> None:
        """Stop everything below the worker and helper slices and wait until systemd says so."""
        limit = self.config.stop_timeout + 10.0
        for name in SLICES:
            with contextlib.suppress(TimedOut, Refused):
                await self.live.run_job(self.live.stop(name), name, limit)
        notifications.disarm(self.live)

    def reload(self) -> None:
        """SIGHUP: read the configuration again; a broken one is reported and the old one stays."""
        notify.reloading()
        try:
            self.config = load(self.paths)
            self.measured = False
            journal.emit("pulse_reloaded")
        except LooopError as error:
            journal.emit("config_error", text=f"{error}; the settings in use stay")
        notify.ready()
        self.poked.set()

    # -- what wakes it

    async def watch_policy(self) -> None:
        """looop-beat.path watches the default data directory; for any other a path unit is made here."""
        paths, unit = self.paths, "looop-nudge@edits.path"
        if paths.data == Path.home() / ".local/state/looop":
            return
        watched = [str(p) for p in (paths.playbook, paths.rules, paths.goals, paths.sensors, paths.answers)]
        try:
            await self.live.run_job(self.live.watch_paths(unit, watched, "looop.service"), unit, 10)
        except LooopError as error:
            journal.emit("state_degraded", text=f"edits are noticed by the timer only: {error}")

    def read_pokes(self) -> None:
        """Something was written to the FIFO: it means "look", whatever it says."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fifo, 65536):
                pass
        self.poked.set()

    def look(self) -> None:
        """A unit or a lease may have changed: reap what lost its holder, record ends, and beat if anything moved."""
        try:
            units = self.present()
            if self.holders.ended(units):
                self.reap_claims()
            if units == self.known:
                return
            if self.known is not None and not self.known.items() <= units.items():
                live = {unit: invocation for (manager, unit), invocation in units.items() if manager == "user"}
                ends = fleet.read(self.paths, self.config, live, now(), {})
                housekeep.note_ends(self.live, self.paths, ends, now())
            self.known = units
            self.poked.set()
        except Unavailable:
            self.known = None  # unknown, not empty: the next look compares nothing
        except LooopError as error:
            journal.emit("state_degraded", text=str(error))

    def present(self) -> dict[tuple[str, str], str]:
        """The living units that matter: workers, and whoever holds a lease. Raises Unavailable."""
        found = {("user", u): i for u, i in self.live.live([fleet.unit_name("*"), *self.live.watch]).items()}
        if self.system.watch:
            found |= {("system", u): i for u, i in self.system.live(sorted(self.system.watch)).items()}
        return found

    def reap_claims(self) -> None:
        try:
            if claims.reap(self.paths, claims.snapshot(self.live, self.system)):
                self.poked.set()
        except TryAgain:
            self.poked.set()  # somebody is claiming right now; the beat reaps

    def bus_state(self, connected: bool) -> None:
        journal.emit("bus_back" if connected else "bus_lost")
        if not connected:
            notify.status("systemd's bus is gone; waiting for it, acting on nothing")
        self.poked.set()

    # -- the watchdog

    def allow(self, seconds: float) -> None:
        """The running step of the beat may take this long; past it the watchdog is no longer fed."""
        self.deadline = time.monotonic() + seconds

    def feed_watchdog(self) -> None:
        if time.monotonic() <= self.deadline:
            notify.watchdog()
        every = notify.watchdog_s()
        if every:
            asyncio.get_running_loop().call_later(every / 3, self.feed_watchdog)


def take_fifo(paths: Paths) -> int:
    """The FIFO systemd passed (sd_listen_fds(3)). Raises UsageError when not started by the unit."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise UsageError(
            "cannot start the pulse by hand: it needs the FIFO of looop.socket",
            hint="systemctl --user start looop",
        )
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_blocking(LISTEN_FDS_START, False)
    os.set_inheritable(LISTEN_FDS_START, False)
    return LISTEN_FDS_START


def take_lock(paths: Paths) -> int:
    """Hold the data directory for this process's life. Raises Refused when another pulse has it."""
    try:
        fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Refused(f"cannot start: another pulse holds {paths.lock}") from error
    except OSError as error:
        raise UsageError(f"cannot open {paths.lock}: {error.strerror}") from error
    return fd


def main() -> int:
    """`looopd`: 64 for what a person has to mend first (the unit does not restart on it), 1 for the rest."""
    try:
        paths = Paths.from_env()
        fifo = take_fifo(paths)
        config = load(paths)
        seed.seed(paths)
        lock = take_lock(paths)
        try:
            return asyncio.run(_run(paths, config, fifo))
        finally:
            os.close(lock)
    except (LooopError, OSError) as error:
        journal.emit("pulse_failed", text=str(error))
        print(f"looopd: {error}", file=sys.stderr)
        notify.status(f"cannot start: {error}"[:REASON_STATUS])
        return error.code if isinstance(error, LooopError) else 1


async def _run(paths: Paths, config: Config, fifo: int) -> int:
    return await Pulse(paths, config, fifo).run()
