"""The access layer against real managers: scopes, signals, services, confinement, and their absence."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from looop.clock import boot_id
from looop.errors import Refused, Unavailable
from looop.paths import Paths
from looop.systemd import journal
from looop.systemd.identity import Holder, holder, is_live
from looop.systemd.live import Live
from looop.systemd.manager import JobFailed, Manager, usec
from looop.systemd.services import PROMISES, Confinement, Outcome, measure, run
from tests.machine.harness import systemctl

SCOPE = "looop-worker-layer.scope"
PATTERN = "looop-worker-*.scope"
WAIT_S = 10.0


@pytest.fixture
def sleeper() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Makes processes to put into scopes."""
    made: list[subprocess.Popen[bytes]] = []

    def make() -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(["sleep", "infinity"]))
        return made[-1]

    yield make
    for process in made:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def connected(patterns: tuple[str, ...] = (PATTERN,)) -> AsyncIterator[Live]:
    live = Live(patterns=patterns)
    await live.connect()
    try:
        yield live
    finally:
        left = live.list_units(["looop-worker-layer*", "looop-shell-layer*"])
        live.watch.update(left)
        for unit in left:
            live.kill(unit, signal.SIGKILL)
            live.stop(unit)
            live.reset_failed(unit)
        await until(live, lambda: not live.list_units(["looop-worker-layer*"]))
        await live.aclose()


async def until(live: Live, fact: Callable[[], object], timeout: float = WAIT_S) -> float:
    """Look at each change until `fact` holds; the seconds it took."""
    changed = asyncio.Event()
    before, live.on_change = live.on_change, changed.set
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            while not fact():
                await changed.wait()
                changed.clear()
    finally:
        live.on_change = before
    return time.monotonic() - began


def scope(pid: int, **more: Any) -> dict[str, Any]:
    return {"PIDs": [pid], "CollectMode": "inactive-or-failed", "Slice": "looop-worker.slice", **more}


def unit_of(pid: int) -> str:
    return holder(pid).unit


def test_a_process_is_in_its_scope_when_the_wait_is_over(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        async with connected() as live:
            process = sleeper()
            await live.start_transient_wait(SCOPE, scope(process.pid, TasksMax=50, RuntimeMaxUSec=usec(60)))
            who = holder(process.pid)
            assert (who.unit, who.manager) == (SCOPE, "user")
            assert live.live([PATTERN]) == {SCOPE: who.invocation}
            assert live.invocation(SCOPE) == who.invocation
            assert live.get(SCOPE, "Scope", "TasksMax", "t") == 50
            live.set_properties(SCOPE, {"TasksMax": 40})
            assert live.get(SCOPE, "Scope", "TasksMax", "t") == 40
            with pytest.raises(Refused, match="a unit of that name exists"):
                await live.start_transient_wait(SCOPE, scope(process.pid))

    asyncio.run(scenario())


def test_a_process_that_is_gone_makes_no_scope() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    async def scenario() -> None:
        async with connected() as live:
            with pytest.raises(Refused):
                await live.start_transient_wait(SCOPE, scope(process.pid))
            assert live.list_units([PATTERN]) == {}

    asyncio.run(scenario())


def test_a_dead_child_attached_to_a_scope_can_be_told_and_stopped() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped

    async def scenario() -> None:
        async with connected() as live:
            with contextlib.suppress(JobFailed):  # 257 refuses now and then, else the scope runs for ever
                await live.start_transient_wait(SCOPE, scope(process.pid))
                live.stop(SCOPE)
            await until(live, lambda: not live.live([PATTERN]))

    asyncio.run(scenario())
    process.wait()


def test_a_death_is_told_at_once_and_once_for_many(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        async with connected() as live:
            made = [sleeper() for _ in range(10)]
            await asyncio.gather(*(
                live.start_transient_wait(f"looop-worker-layer{n}.scope", scope(p.pid)) for n, p in enumerate(made)
            ))  # fmt: skip
            assert len(live.live([PATTERN])) == 10
            looks: list[float] = []
            live.on_change = lambda: looks.append(time.monotonic())
            for process in made:
                process.kill()
            assert await until(live, lambda: not live.live([PATTERN])) < 2
            assert len(looks) < 10

    asyncio.run(scenario())


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_a_reload_of_the_manager_is_nobodys_death(verb: str, sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        async with connected() as live:
            process = sleeper()
            await live.start_transient_wait(SCOPE, scope(process.pid))
            before = live.live([PATTERN])
            seen: list[dict[str, str]] = []
            looked = asyncio.Event()

            def look() -> None:
                seen.append(live.live([PATTERN]))
                looked.set()

            live.on_change = look
            await asyncio.to_thread(systemctl, verb)
            await asyncio.wait_for(looked.wait(), WAIT_S)
            assert all(found == before for found in seen)
            process.kill()
            assert await until(live, lambda: not live.live([PATTERN])) < 2

    asyncio.run(scenario())


def test_asking_about_a_unit_that_is_not_there_wakes_nobody(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        async with connected(("no-such*",)) as live:
            looks: list[int] = []
            live.on_change = lambda: looks.append(1)
            assert live.live(["no-such*"]) == {}
            assert (live.invocation("no-such.service"), live.job_type("no-such.service")) == ("", "")
            assert live.next_elapse("no-such.timer") is None
            assert live.stop("no-such.service") == ""
            live.kill("no-such.service")
            live.reset_failed("no-such.service")
            await live.start_transient_wait(SCOPE, scope(sleeper().pid))  # whatever they caused came before its job
            assert not looks

    asyncio.run(scenario())


def test_a_timer_wakes_its_template_and_goes() -> None:
    async def scenario() -> None:
        async with connected(("looop-layer*",)) as live:
            unit, service = "looop-layer@x.timer", ("looop-layer@x.service", {"Type": "oneshot"})
            properties = {"TimersMonotonic": [("OnActiveSec", usec(60))], "AccuracyUSec": usec(0.1)}
            service[1]["ExecStart"] = [("/bin/true", ["/bin/true"], False)]  # type: ignore[assignment]
            assert await live.run_job(live.start_transient(unit, properties, [service]), unit, WAIT_S) == "done"
            due = live.next_elapse(unit)
            assert due is not None and 50 < due - time.time() < 61
            live.drop(unit)
            assert live.list_units([unit]) == {}
            with pytest.raises(Refused, match="[Cc]alendar"):
                live.start_transient(unit, {"TimersCalendar": [("OnCalendar", "no such time")]})

    asyncio.run(scenario())


def test_a_changed_path_starts_its_service(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connected(("looop-layer*",)) as live:
            unit, touched = "looop-layer.path", Path.home() / ".looop-touched"
            live.start_transient("looop-layer.service", {
                "Type": "oneshot", "AddRef": True,
                "ExecStart": [("/bin/touch", ["/bin/touch", str(touched)], False)],
            })  # fmt: skip
            await until(live, touched.exists)
            await until(live, lambda: not live.live(["looop-layer.service"]))
            touched.unlink()
            for _ in range(2):  # the second replaces the first
                job = live.watch_paths(unit, [f"{tmp_path}/watched"], "looop-worker.slice")
            assert await live.run_job(job, unit, WAIT_S) == "done"
            (tmp_path / "watched").write_text("x")
            await until(live, touched.exists)
            touched.unlink()
            live.drop(unit)
            live.unref("looop-layer.service")

    asyncio.run(scenario())


def test_the_result_of_a_unit_that_has_gone_is_known(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        async with connected() as live:
            await live.start_transient_wait(SCOPE, scope(sleeper().pid, RuntimeMaxUSec=usec(0.3)))
            invocation = live.live([PATTERN])[SCOPE]
            await until(live, lambda: not live.list_units([PATTERN]))
            assert live.results == {invocation: "timeout"}

    asyncio.run(scenario())


def test_a_name_with_escapes_matches_itself(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        unit = "looop-worker-layer\\x2desc.scope"
        async with connected() as live:
            process = sleeper()
            await live.start_transient_wait(unit, scope(process.pid))
            assert list(live.live([unit])) == [unit]
            assert unit_of(process.pid) == unit

    asyncio.run(scenario())


def test_a_holder_dies_with_its_invocation_not_with_its_name(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        with Manager("system") as system:
            async with connected() as live:
                process = sleeper()
                await live.start_transient_wait(SCOPE, scope(process.pid))
                who = holder(process.pid, live, system)
                assert is_live(who, live, system)
                process.kill()
                await until(live, lambda: not live.live([PATTERN]))
                await live.start_transient_wait(SCOPE, scope(sleeper().pid))
                assert not is_live(who, live, system)

    asyncio.run(scenario())


def test_the_caller_itself_runs_in_a_unit_of_the_system_manager() -> None:
    with Manager("user") as user, Manager("system") as system:
        who = holder(None, user, system)
        assert is_live(who, user, system)
        assert not is_live(Holder(who.unit, who.manager, "0" * 32, boot_id()), user, system)


# -- services
@pytest.fixture
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = Path.home() / ".looop-layer-test"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def outcome_of(work: Path, script: str, confine: Confinement | None = None, **more: Any) -> tuple[Outcome, str]:
    async def scenario() -> Outcome:
        async with connected() as live:
            return await execute(live, work, script, confine, **more)

    return asyncio.run(scenario()), (work / "out").read_text(errors="replace")


def execute(
    live: Live, work: Path, script: str, confine: Confinement | None = None, *, timeout: float = 10,
    output_max: int = 1 << 20, cwd: Path | None = None, stdin: Path | None = None,
) -> Awaitable[Outcome]:  # fmt: skip
    (work / "script").write_text(script)
    return run(
        live, "looop-shell-layer.service", work / "script", cwd=cwd or work, stdin=stdin, stdout=work / "out",
        env={"WORD": "a  b"}, timeout=timeout, confine=confine, output_max=output_max,
    )  # fmt: skip


def left_over() -> set[str]:
    with Manager() as manager:
        return set(manager.list_units(["looop-shell-*", "looop-probe-*"]))


@pytest.mark.parametrize(
    ("script", "more", "expected"),
    [
        ("exit 3", {}, "exited 3"),
        ("exit 0", {}, "exited 0"),
        ("sleep infinity", {"timeout": 0.3}, "timed out"),
        ("trap 'exit 0' TERM; sleep infinity & wait", {"timeout": 0.3}, "timed out"),
        ("kill -9 $$", {}, "was killed by SIGKILL"),
        ("no-such-program", {}, "exited 127"),
        ("exec cat /dev/zero", {"output_max": 4096}, "was killed by SIGXFSZ (wrote a file larger than allowed)"),
        ("true", {"cwd": Path("/nonexistent")}, "exited 200 (no such working directory)"),
    ],
)  # fmt: skip
def test_the_end_of_a_command_is_named(work: Path, script: str, more: dict[str, Any], expected: str) -> None:
    outcome, _ = outcome_of(work, script, **more)
    assert (outcome.text(), outcome.ok) == (expected, expected == "exited 0")
    assert (work / "out").stat().st_size <= 4096
    assert left_over() == set()


def test_a_command_gets_what_it_was_given_and_nothing_expanded(work: Path) -> None:
    (work / "in").write_text("from a file")
    outcome, output = outcome_of(work, 'cat; echo " $WORD $((6 * 7)) %t"; pwd; echo err >&2', stdin=work / "in")
    assert outcome.ok and output == f"from a file a  b 42 %t\n{work}\nerr\n"
    assert outcome.cpu_s is None or outcome.cpu_s >= 0


def test_nothing_a_command_leaves_behind_survives_it(work: Path) -> None:
    script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$; exec sleep infinity' & sleep 0.2; exit 0"
    outcome, output = outcome_of(work, script)
    assert outcome.ok
    assert not Path(f"/proc/{output.split()[0]}").exists()


def test_cancelling_stops_the_command(work: Path) -> None:
    async def scenario() -> None:
        async with connected(("looop-shell-*",)) as live:
            task = asyncio.ensure_future(execute(live, work, "sleep infinity"))
            await until(live, lambda: live.live(["looop-shell-layer.service"]))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(live, lambda: not live.list_units(["looop-shell-layer.service"]))

    asyncio.run(scenario())


def test_a_command_stopped_from_outside_is_called_so(work: Path) -> None:
    async def scenario() -> None:
        async with connected(("looop-shell-*",)) as live:
            task = asyncio.ensure_future(execute(live, work, "sleep infinity"))
            await until(live, lambda: live.live(["looop-shell-layer.service"]))
            await asyncio.to_thread(systemctl, "stop", "looop-shell-layer.service")
            assert (await task).text() == "was stopped from outside"

    asyncio.run(scenario())


ESCAPE = """
touch ~/.looop-escaped && echo home
touch here && echo here
touch {tmp}/x && echo tmp
busctl --user status >/dev/null 2>&1 && echo bus
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' $R/systemd/private 2>/dev/null &&
    echo private
exit 0
"""


def test_confinement_holds(work: Path, tmp_path: Path) -> None:
    runtime = f"export R={os.environ['XDG_RUNTIME_DIR']} XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}\n"
    script = runtime + ESCAPE.format(tmp=tmp_path)

    def can(confine: Confinement | None) -> set[str]:
        return {line for line in outcome_of(work, script, confine)[1].splitlines() if " " not in line}

    assert can(Confinement()) == set()
    assert can(Confinement(write_paths=(str(work),))) == {"here"}
    assert can(Confinement(write_paths=(str(tmp_path),))) == {"tmp"}
    assert can(Confinement(bus=True)) == {"bus", "private"}
    assert can(None) == {"home", "here", "tmp", "bus", "private"}
    (Path.home() / ".looop-escaped").unlink()


def test_what_this_host_enforces_is_measured() -> None:
    async def scenario() -> None:
        async with connected() as live:
            assert await measure(live, Paths.from_env()) == dict.fromkeys(PROMISES, True)

    asyncio.run(scenario())
    assert left_over() == set()


# -- the manager or its bus is gone
def manager_pid() -> int:
    done = subprocess.run(
        ["systemctl", "show", "--value", "--property=MainPID", f"user@{os.getuid()}.service"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) > 1
    return int(done.stdout)


def test_a_hung_manager_is_unavailable_within_the_bus_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_BUS_TIMEOUT", "1")
    pid = manager_pid()
    with Manager() as manager:
        manager.open()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                manager.live([PATTERN])
            assert time.monotonic() - began < 3
        finally:
            os.kill(pid, signal.SIGCONT)
        assert manager.live([PATTERN]) == {}


def test_a_signal_that_arrives_during_a_call_does_not_spoil_it() -> None:
    pid = manager_pid()
    arrived: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: arrived.append(number))
    cont = subprocess.Popen(["sh", "-c", f"sleep 0.6; kill -CONT {pid}"])
    try:
        with Manager() as manager:
            manager.open()
            os.kill(pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            assert manager.live([PATTERN]) == {}
        assert arrived == [signal.SIGALRM]
    finally:
        cont.wait()
        signal.signal(signal.SIGALRM, before)


def test_no_bus_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Manager() as manager, pytest.raises(Unavailable):
        manager.live([PATTERN])


async def lose_and_regain(live: Live, lose: Callable[[], None], timeout: float) -> None:
    states: list[bool] = []
    back, looked = asyncio.Event(), asyncio.Event()

    def on_state(up: bool) -> None:
        states.append(up)
        if up:
            back.set()

    live.on_state, live.on_change = on_state, looked.set
    lose()
    async with asyncio.timeout(timeout):
        await back.wait()
        await looked.wait()
    assert states == [False, True]


def test_a_lost_connection_comes_back_by_itself(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    async def scenario() -> None:
        async with connected() as live:
            process = sleeper()
            await live.start_transient_wait(SCOPE, scope(process.pid))
            before = live.live([PATTERN])

            def lose() -> None:
                with socket.socket(fileno=os.dup(live._fd)) as end:
                    end.shutdown(socket.SHUT_RDWR)

            await lose_and_regain(live, lose, WAIT_S)
            assert live.live([PATTERN]) == before
            process.kill()
            assert await until(live, lambda: not live.live([PATTERN])) < 2

    asyncio.run(scenario())


def test_a_killed_bus_daemon_is_survived(sleeper: Callable[[], subprocess.Popen[bytes]]) -> None:
    """The manager itself may need 90 s to get over it (https://github.com/systemd/systemd/issues/21177)."""
    pid = int(systemctl("show", "--value", "--property=MainPID", "dbus.service"))

    async def scenario() -> None:
        async with connected() as live:
            process = sleeper()
            await live.start_transient_wait(SCOPE, scope(process.pid))
            before = live.live([PATTERN])
            await lose_and_regain(live, lambda: os.kill(pid, signal.SIGKILL), 150)
            assert live.live([PATTERN]) == before
            process.kill()
            assert await until(live, lambda: not live.live([PATTERN])) < 5

    asyncio.run(scenario())


# -- journal, paths
def test_an_event_that_was_written_is_read_back() -> None:
    mark = f"{time.time_ns()}"
    since = time.time() - 1
    journal.emit("notify", text=f"hello {mark}", run=mark)
    for entry in journal.read(follow=True, since=since):
        if entry.get("run") == mark:
            break
    assert entry["event"] == "notify" and entry["message"] == f"Message for you: hello {mark}"
    assert entry["priority"] == 5 and entry["detail"] == f"hello {mark}" and entry["ts"] >= since
    assert [e["run"] for e in journal.read(limit=1)] == [mark]
