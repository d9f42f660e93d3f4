"""The slow half of `looopctl claim`: waiting for a lease, and holding one for the length of a command.

A held command runs in a scope of its own, and the scope is the holder: if looopctl is killed, the lease lasts
exactly as long as the command does. The scope is bound to the unit it was started from (BindsTo=), so killing a
worker still ends everything that the worker runs.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from looop import claims, clock
from looop.claims import Held
from looop.errors import LooopError, Refused, TimedOut, TryAgain, Unavailable
from looop.paths import Paths
from looop.systemd.identity import Holder, holder
from looop.systemd.live import Live
from looop.systemd.manager import Manager, Scope, usec
from looop.systemd.names import worker_of
from looop.watch import LOOK_AGAIN_S, Watcher

_STOP_S = 10.0


def when_free(paths: Paths, take: Callable[[], bool], timeout: float | None) -> bool:
    """Call `take` until it succeeds, sleeping until the lease or its holder changes. Raises TimedOut."""
    return asyncio.run(_when_free(paths, take, timeout))


async def _when_free(paths: Paths, take: Callable[[], bool], timeout: float | None) -> bool:
    stack = contextlib.AsyncExitStack()
    try:
        return await asyncio.wait_for(_Turnstile(stack, paths).wait(take), timeout)
    except asyncio.TimeoutError as error:
        raise TimedOut(f"cannot get the lease: still held after {timeout:g} s") from error
    finally:
        await stack.aclose()


class _Turnstile:
    """Woken by a change in claims/ and by the signals of whichever manager runs the present holder."""

    def __init__(self, stack: contextlib.AsyncExitStack, paths: Paths) -> None:
        self._stack = stack
        self._woken = asyncio.Event()
        self._error: LooopError | None = None
        self._managers: dict[Scope, Live] = {}
        paths.claims.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._watcher = stack.enter_context(Watcher(paths.claims, fallback=True))
        if self._watcher.degraded:
            print(f"looopctl: {self._watcher.degraded}", file=sys.stderr)
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watcher.fileno(), self._changed)
        stack.callback(loop.remove_reader, self._watcher.fileno())

    def _changed(self) -> None:
        try:
            if self._watcher.drain():
                self._woken.set()
        except LooopError as error:
            asyncio.get_running_loop().remove_reader(self._watcher.fileno())
            self._error = error
            self._woken.set()

    async def wait(self, take: Callable[[], bool]) -> bool:
        while True:
            self._woken.clear()
            try:
                return take()
            except Held as held:
                if held.claim.holder and await self._listen(held.claim.holder):
                    continue  # it may have ended before we listened
            except TryAgain:
                continue  # the lock was busy for its whole deadline; queueing again is what waiting means
            except Unavailable:
                if not self._managers:
                    raise
                # the bus went while we wait: the connection comes back by itself and wakes us then
            await self._wake()
            if self._error:
                raise self._error

    async def _wake(self) -> None:
        """Without inotify the lease is looked at every few seconds; its holder's end is still a signal."""
        try:
            await asyncio.wait_for(self._woken.wait(), LOOK_AGAIN_S if self._watcher.degraded else None)
        except asyncio.TimeoutError:
            pass

    async def _listen(self, who: Holder) -> bool:
        """Be woken by the holder's unit; False when that was so already."""
        live = self._managers.get(who.manager)
        if live is None:
            live = Live(who.manager, patterns=())
            live.on_change = self._woken.set
            await live.connect()
            self._stack.push_async_callback(live.aclose)
            self._managers[who.manager] = live
        known = who.unit in live.watch
        live.watch.add(who.unit)
        return not known


def hold(paths: Paths, name: str, command: list[str], waiting: bool, timeout: float | None) -> int:
    """Run `command` while holding the lease; returns its exit code, 128+N when signal N ended it."""
    gate, opener = os.pipe()
    child = os.fork()  # before any connection is made: none survives a fork
    if child == 0:
        os.close(opener)
        _gated(gate, command)
    os.close(gate)
    try:
        with Manager("user") as user, Manager("system") as system:
            who, session = asyncio.run(_scope(name, child, user, system))

            def take() -> bool:
                return claims.take(paths, name, who, session, claims.judge(user, system), clock.now().wall)

            try:
                take()
            except Held:
                if not waiting:
                    raise
                when_free(paths, take, timeout)
    except BaseException:
        os.close(opener)  # a closed gate ends the child, and with it the scope
        os.waitpid(child, 0)
        raise
    code = _attend(child, opener)
    _give_back(paths, name, who)
    return code if code >= 0 else 128 - code


def _gated(gate: int, command: list[str]) -> NoReturn:
    """In the child: become the command once the gate opens, end when it closes."""
    code = 127
    try:
        if os.read(gate, 1):
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # Python ignores them, and exec keeps that
            os.execvp(command[0], command)
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        os.write(2, os.fsencode(f"looopctl: cannot run {command[0]}: {error.strerror}\n"))
    finally:
        os._exit(code)


async def _scope(name: str, child: int, user: Manager, system: Manager) -> tuple[Holder, str]:
    """Put the child into a scope of its own, bound to the unit we run in."""
    unit = f"looop-hold-{os.getpid()}-{secrets.token_hex(4)}.scope"
    properties: dict[str, object] = {
        "PIDs": [child],
        "Description": f"looop lease {name}",
        "CollectMode": "inactive-or-failed",
        "TimeoutStopUSec": usec(_STOP_S),
    }
    session = unit
    with contextlib.suppress(Refused):
        caller = holder(user=user, system=system)
        if caller.manager == "user":
            properties["BindsTo"] = [caller.unit]
        worker = worker_of(caller.unit)
        if worker:
            properties["Slice"] = "looop-worker.slice"
            session = worker
    live = Live("user", patterns=())
    try:
        await live.connect()
        await live.start_transient_wait(unit, properties)
        invocation = live.invocation(unit)
    finally:
        await live.aclose()
    # attaching a child that is dead but not reaped leaves the scope "running" for ever
    if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) or not invocation:
        user.stop(unit)
        raise Refused(f"cannot run a command under {name}: it was killed before it began")
    return Holder(unit, "user", invocation, clock.boot_id()), session


def _attend(child: int, opener: int) -> int:
    """Let the command run and hand it the signals meant for it; how it ended, as waitstatus_to_exitcode says."""
    passed_on = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    mine = passed_on | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*mine, signal.SIGPIPE})
    with contextlib.suppress(BrokenPipeError):  # killed at the gate
        os.write(opener, b"g")
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        info = signal.sigwaitinfo(mine)
        # what the terminal sends, it sends to the command too: pass on only what a process sent (sigaction(2))
        if info.si_signo != signal.SIGCHLD and info.si_code <= 0:
            os.kill(child, info.si_signo)


def _give_back(paths: Paths, name: str, who: Holder) -> None:
    with Manager("user") as user, Manager("system") as system:
        try:
            claims.release(paths, name, (who.manager, who.unit), claims.judge(user, system))
        except LooopError as error:  # someone forced it away meanwhile; the command's exit code still counts
            print(f"looopctl: {error}", file=sys.stderr)
