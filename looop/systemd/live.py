"""A manager for an asyncio process: the same calls, and signals that say "look again".

A second connection receives the signals, because a call swallows those that arrive on its own connection. No
signal is taken as a fact about a unit (daemon-reload emits UnitRemoved for every one of them): each only asks
for a fresh look at `live()`. Used by the pulse and by waiting verbs. Reconnects by itself.
"""

import asyncio
import contextlib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from looop.errors import LooopError, TimedOut, Unavailable
from looop.systemd.bus import MANAGER_PATH, Bus, BusError, Signal, reach, rules, unit_of_path
from looop.systemd.manager import JobFailed, Manager, Scope

_MEMORY = 256  # finished jobs, invocations and results remembered
_BACKOFF_S = (0.1, 0.5, 2.0, 5.0, 10.0)


def _remember(table: dict[str, str], key: str, value: str) -> None:
    table.pop(key, None)
    table[key] = value
    while len(table) > _MEMORY:
        del table[next(iter(table))]


class Live(Manager):
    """`on_change` asks for a look, once per burst of signals; `on_state` tells when the bus goes and comes back.

    Units that match `patterns` or are in `watch` count. `results` holds, by InvocationID, the Result a unit had
    when it ended otherwise than well ("oom-kill", "timeout"): with CollectMode it can be learned only in passing.
    """

    def __init__(self, scope: Scope = "user", patterns: Sequence[str] = ("looop-worker-*",)) -> None:
        super().__init__(scope)
        self.on_change: Callable[[], None] = lambda: None
        self.on_state: Callable[[bool], None] = lambda up: None
        self.watch: set[str] = set()
        self.results: dict[str, str] = {}
        self._patterns = tuple(patterns)
        self._signals = Bus(scope)
        self._fd = -1
        self._jobs: dict[str, tuple[str, asyncio.Future[str]]] = {}
        self._finished: dict[str, str] = {}
        self._invocations: dict[str, str] = {}
        self._revival: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def listening(self) -> bool:
        """Whether signals arrive."""
        return self._fd >= 0

    async def connect(self) -> None:
        """Open both connections and listen. Raises Unavailable."""
        await asyncio.to_thread(reach, self.scope)
        self._closed = False
        self.open()
        self._listen()

    async def persist(self) -> str:
        """`connect`, or go on trying in the background; what is in the way, "" when connected."""
        try:
            await self.connect()
        except LooopError as error:
            self._closed = False
            self._lost(error)
            return error.message
        return ""

    async def aclose(self) -> None:
        """Stop listening and disconnect; whoever waits for a job gets Unavailable."""
        self._closed = True
        task, self._revival = self._revival, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._unlisten("closed")
        self.close()

    # -- signals
    def _listen(self) -> None:
        try:
            self._signals.open()
            for rule in rules(("JobRemoved", "UnitRemoved", "Reloading"), ("Scope", "Service")):
                self._signals.add_match(rule)
            self._subscribe()
            self._fd = self._signals.fileno()
        except LooopError:
            self._signals.close()
            raise
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._drain)
        loop.call_soon(self._drain)  # what the calls above have taken off the wire

    def _subscribe(self) -> None:
        """Without Subscribe the manager sends no signals; it forgets when it loses its bus, not when it re-executes."""
        try:
            self._signals.call(MANAGER_PATH, "org.freedesktop.systemd1.Manager", "Subscribe")
        except BusError as error:
            if error.kind != "AlreadySubscribed":
                raise

    def _unlisten(self, why: str) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = -1
        self._signals.close()
        jobs, self._jobs = self._jobs, {}
        for _, future in jobs.values():
            if not future.done():
                future.set_exception(Unavailable(f"cannot learn how the job ended: {why}"))

    def _drain(self) -> None:
        if self._fd < 0:
            return
        changed = False
        try:
            for signal in self._signals.drain():
                changed |= self._take(signal)
        except LooopError as error:
            self._lost(error)
            return
        if changed:
            self.on_change()

    def _take(self, signal: Signal) -> bool:
        """Note what a signal carries; True when it may concern a unit that counts."""
        body = signal.body
        if signal.member == "JobRemoved":
            self._job_ended(body[1], body[3])
            return False
        if signal.member == "UnitRemoved":
            return self._counts(body[0])
        if signal.member == "Reloading":
            if body is False:
                self._settle_jobs()
            return body is False
        if signal.member == "NameOwnerChanged":
            if body[2]:
                self._subscribe()
                self._settle_jobs()
            return bool(body[2])
        unit = unit_of_path(signal.path)
        if not self._counts(unit):
            return False
        result = body[1].get("Result", "success") if isinstance(body[1], dict) else "success"
        if result != "success":
            self._note_result(unit, result)
        return True

    def _counts(self, unit: str) -> bool:
        return unit in self.watch or any(fnmatch.fnmatchcase(unit, pattern) for pattern in self._patterns)

    def _note_result(self, unit: str, result: str) -> None:
        invocation = self._invocations.get(unit) or self.invocation(unit)
        if invocation:
            _remember(self.results, invocation, result)

    def _job_ended(self, job: str, result: str) -> None:
        if job not in self._jobs:
            _remember(self._finished, job, result)  # it may end before the reply that names it is read
            return
        _, future = self._jobs.pop(job)
        if not future.done():
            future.set_result(result)

    def _settle_jobs(self) -> None:
        """End the waits for jobs that are over: a manager that re-executes may end one while nobody can hear of it."""
        for job, (unit, _) in list(self._jobs.items()):
            state = self.list_units([unit]).get(unit)
            if state is None or not state.job:
                self._job_ended(job, "failed" if state is not None and state.active == "failed" else "done")

    # -- loss and return
    def _lost(self, error: LooopError) -> None:
        self._unlisten(error.message)
        self.close()  # most likely gone as well; the next call opens it anew
        if self._closed or self._revival is not None:
            return
        self.on_state(False)
        self._revival = asyncio.get_running_loop().create_task(self._revive(), name=f"bus-{self.scope}")

    async def _revive(self) -> None:
        """Try again until it works. The sign of life is awaited in a thread: a hung manager must not stop the loop."""
        wake = asyncio.Event()
        for attempt in range(1 << 30):
            delay = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
            asyncio.get_running_loop().call_later(delay, wake.set)
            await wake.wait()
            wake.clear()
            try:
                await asyncio.to_thread(reach, self.scope)
                self._listen()
                break
            except LooopError:
                continue
        self._revival = None
        self.on_state(True)
        self.on_change()

    # -- calls that learn or wait
    def live(self, patterns: Sequence[str]) -> dict[str, str]:
        found = super().live(patterns)
        for unit, invocation in found.items():
            _remember(self._invocations, unit, invocation)
        return found

    async def run_job(self, job: str, unit: str, timeout: float) -> str:
        """Wait for a job; systemd's word for how it ended. Raises TimedOut, or Unavailable if the bus goes.

        A job of "" is that of a unit which is not loaded: there is nothing to wait for.
        """
        if not job:
            return "done"
        if job in self._finished:
            return self._finished.pop(job)
        if self._fd < 0:
            raise Unavailable(f"cannot learn how the job of {unit} ends: not connected")
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._jobs[job] = (unit, future)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise TimedOut(f"cannot wait longer for the job of {unit}: not done in {timeout:g} s") from error
        finally:
            self._jobs.pop(job, None)

    async def start_transient_wait(self, unit: str, properties: Mapping[str, Any], timeout: float = 10.0) -> None:
        """Make a unit and wait until it runs. Raises JobFailed, Refused, TimedOut or Unavailable."""
        result = await self.run_job(self.start_transient(unit, properties), unit, timeout)
        if result != "done":
            raise JobFailed(unit, result)
        invocation = self.invocation(unit)
        if invocation:
            _remember(self._invocations, unit, invocation)
