"""Workers in real scopes: where they run, how they end, and that nothing of them is left."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from looop import clock
from looop.config import Config
from looop.errors import LooopError, Refused, Unavailable
from looop.paths import Paths
from looop.sessions import control, fleet, launch, records
from looop.systemd.live import Live
from looop.systemd.manager import Manager
from tests.machine import harness

T = TypeVar("T")
CONFIG = Config(worker_command="bash {{prompt_file}}", stop_timeout=1, max_workers=0)
UNIT = "looop-worker-w.scope"
ROOT = str(Path(launch.__file__).parents[2])


@pytest.fixture
def paths() -> Iterator[Paths]:
    harness.DATA.mkdir(mode=0o700, parents=True, exist_ok=True)
    top = Path(tempfile.mkdtemp(dir=harness.DATA))  # `events` watches it; pytest's folders make socket paths too long
    made = Paths(data=top / "data", config=top / "looop.toml", runtime=top / "run")
    made.create()
    yield made
    harness.systemctl("stop", "looop-worker-*.scope", check=False)
    shutil.rmtree(top)


def with_bus(work: Callable[[Live], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        live = Live("user")
        await live.connect()
        try:
            return await work(live)
        finally:
            await live.aclose()

    return asyncio.run(run())


def start(paths: Paths, command: str, worker_id: str = "w", config: Config = CONFIG, **changes: Any) -> str:
    brief = launch.Brief(worker_id, "do it", command=command, **changes)
    return with_bus(lambda live: launch.start(live, paths, config, brief, clock.now()))


def gone(events: harness.Events, unit: str = UNIT) -> None:
    events.wait_for(lambda: not harness.units(unit), what=f"the end of {unit}")


def exit_record(paths: Paths, worker_id: str = "w") -> dict[str, Any]:
    found = json.loads((paths.session(worker_id) / "exit.json").read_text())
    assert isinstance(found, dict)
    return found


def one(paths: Paths) -> fleet.Session:
    with Manager("user") as manager:
        live = manager.live([fleet.unit_name("*")])
    return fleet.read(paths, CONFIG, live, clock.now(), {})[0]


def output(paths: Paths, worker_id: str = "w") -> str:
    return (paths.session(worker_id) / "output.log").read_text().replace("\r\n", "\n")


def test_a_worker_runs_in_its_own_scope_with_a_built_environment(
    paths: Paths, events: harness.Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    invocation = start(paths, "grep ^0: /proc/self/cgroup; env | sort; umask; pwd")
    gone(events)
    lines = output(paths).splitlines()
    assert lines[0].endswith(f"/looop.slice/looop-worker.slice/{UNIT}")
    names = {line.partition("=")[0] for line in lines[1:-2]}
    expected = set(launch.environment(paths, CONFIG, LOOOP_SESSION_ID="w"))
    assert names - {"PWD", "SHLVL", "_"} == expected
    assert lines[-2:] == ["0022", str(paths.data)]
    assert exit_record(paths)["invocation"] == invocation == one(paths).invocation


@pytest.mark.parametrize("command, code, number", [("exit 0", 0, None), ("exit 3", 3, None), ("kill -9 $$", None, 9)])
def test_the_end_is_recorded(
    paths: Paths, events: harness.Events, command: str, code: int | None, number: int | None
) -> None:
    start(paths, command)
    gone(events)
    assert (exit_record(paths)["code"], exit_record(paths)["signal"]) == (code, number)
    assert not paths.control("w").exists()


def test_every_line_of_a_fast_worker_is_kept(paths: Paths, events: harness.Events) -> None:
    start(paths, "seq 100000")
    gone(events)
    assert output(paths).split() == [str(n) for n in range(1, 100001)]


def test_a_live_id_is_refused_and_a_dead_one_starts_anew(paths: Paths, events: harness.Events) -> None:
    first = start(paths, "read")
    with pytest.raises(Refused, match="already running"):
        start(paths, "exit 0")
    assert one(paths).invocation == first and one(paths).alive
    harness.systemctl("stop", UNIT)
    gone(events)
    second = start(paths, "echo second")
    gone(events)
    assert first != second and output(paths) == "second\n"
    assert (paths.sessions / records.OLD / f"w.{first}" / "exit.json").exists()


def test_of_many_starts_of_one_id_one_wins_and_the_fleet_cap_holds(paths: Paths) -> None:
    async def many(live: Live) -> list[Any]:
        briefs = [launch.Brief(f"w{n % 10}", "do it", command="read") for n in range(20)]
        config = replace(CONFIG, max_workers=5)
        starts = (launch.start(live, paths, config, brief, clock.now()) for brief in briefs)
        return await asyncio.gather(*starts, return_exceptions=True)

    results = with_bus(many)
    assert sum(isinstance(result, str) for result in results) == 5
    assert all(isinstance(result, (str, Refused)) for result in results)
    assert len(harness.units("looop-worker-*.scope")) == 5
    assert len(records.ids(paths)) == 5 and not list(paths.sessions.glob(".new-*"))


def test_twenty_workers_start_side_by_side(paths: Paths) -> None:
    async def many(live: Live) -> tuple[list[str], float, dict[str, control.Idle]]:
        before = asyncio.get_running_loop().time()
        briefs = [launch.Brief(f"w{n}", "do it", command="read") for n in range(20)]
        starts = (launch.start(live, paths, CONFIG, brief, clock.now()) for brief in briefs)
        found = await asyncio.gather(*starts)
        took = asyncio.get_running_loop().time() - before
        return found, took, await fleet.probe(paths, live.live([fleet.unit_name("*")]))

    invocations, took, idle = with_bus(many)
    assert len(set(invocations)) == 20 and len(idle) == 20
    assert all(each.both_s is not None for each in idle.values())
    sizes = [pss(pid) for pid in shims()]
    print(f"\n20 starts: {took * 1000:.0f} ms; PSS of a shim among 20: {sum(sizes) / len(sizes):.0f} KiB")
    harness.systemctl("stop", "looop-worker.slice")
    assert not harness.units("looop-worker-*.scope")


def kill(live: Live, paths: Paths, worker_id: str = "w") -> Coroutine[Any, Any, None]:
    return fleet.kill(live, paths, worker_id, by="human", reason="enough", now=clock.now())


def shims() -> list[int]:
    pids = [pid for unit in harness.units("looop-worker-*.scope") for pid in harness.cgroup_pids(unit)]
    return [pid for pid in pids if "looop.sessions.shim" in Path(f"/proc/{pid}/cmdline").read_text()]


def pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def test_the_shim_is_small(paths: Paths, events: harness.Events) -> None:
    start(paths, "seq 20000; read")
    events.wait_for(lambda: "20000" in output(paths), what="the output")
    size = pss(shims()[0])
    print(f"\nPSS of the only shim: {size} KiB")
    assert size < 12 * 1024


def test_a_stopped_scope_leaves_nothing_however_stubborn(paths: Paths, events: harness.Events) -> None:
    stubborn = "trap '' TERM HUP; setsid bash -c \"trap '' TERM HUP; echo up; while :; do read -t 9; done <> <(:)\" & "
    start(paths, stubborn + "while :; do read -t 9; done")
    events.wait_for(lambda: "up" in output(paths), what="the child")
    pids = harness.cgroup_pids(UNIT)
    assert len(pids) >= 3
    with_bus(lambda live: kill(live, paths))
    assert not harness.units(UNIT) and not [each for each in harness.processes() if each[0] in pids]
    seen = one(paths)
    assert (seen.state, seen.alive, seen.reason) == ("killed", False, "human: enough")
    with pytest.raises(Refused, match="already ended"):
        with_bus(lambda live: kill(live, paths))
    with pytest.raises(Refused, match="there is none"):
        with_bus(lambda live: kill(live, paths, "nobody"))
    with pytest.raises(Refused, match="no worker"):
        with_bus(lambda live: kill(live, paths, "pulse"))


def test_an_obedient_worker_leaves_its_exit_record_when_stopped(paths: Paths, events: harness.Events) -> None:
    start(paths, "trap 'echo bye; exit 7' TERM; echo up; while :; do read -t 9; done")
    events.wait_for(lambda: "up" in output(paths), what="the worker")
    with_bus(lambda live: kill(live, paths))
    assert exit_record(paths)["code"] == 7 and output(paths) == "up\nbye\n"


def test_what_a_worker_leaves_behind_ends_with_it(paths: Paths, events: harness.Events) -> None:
    start(paths, "trap '' HUP; setsid sleep 300 & sleep 300 & exit 2")
    gone(events)
    assert exit_record(paths)["code"] == 2 and one(paths).state == "exited"


def test_a_worker_ends_itself_and_the_reason_is_kept(
    paths: Paths, events: harness.Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    config = replace(CONFIG, worker_env=("PYTHONPATH",))
    start(paths, f"{sys.executable} -m looop kill w --reason finished; while :; do read -t 9; done", config=config)
    gone(events)
    assert one(paths).reason == "w: finished", output(paths)


@pytest.mark.parametrize("phase", ["start_transient", "run_job", "invocation", "sock_sendall"])
def test_a_launcher_that_dies_on_the_way_has_started_nothing(paths: Paths, events: harness.Events, phase: str) -> None:
    """Killed before the release, at each step: no command ran, no unit and no process stays, the id is free."""
    script = f"""
import asyncio, os, signal
from pathlib import Path
from looop import clock
from looop.config import Config
from looop.paths import Paths
from looop.sessions import launch
from looop.systemd.live import Live

async def run():
    live = Live("user")
    await live.connect()
    die = lambda *args, **named: os.kill(os.getpid(), signal.SIGKILL)
    target = asyncio.get_running_loop() if {phase!r} == "sock_sendall" else live
    setattr(target, {phase!r}, die)
    paths = Paths(Path({str(paths.data)!r}), Path({str(paths.config)!r}), Path({str(paths.runtime)!r}))
    brief = launch.Brief("w", "do it", command="touch ran")
    await launch.start(live, paths, Config(), brief, clock.now())
asyncio.run(run())
"""
    done = harness.command(sys.executable, "-c", script, check=False, env={"PYTHONPATH": ROOT})
    assert done.returncode == -signal.SIGKILL, done.stderr
    gone(events)
    assert not (paths.data / "ran").exists()
    assert (one(paths).state, one(paths).alive) == ("killed", False)
    start(paths, "echo now")
    gone(events)
    assert output(paths) == "now\n"


def test_a_shim_that_dies_before_its_scope_is_refused(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd takes a dead process into a scope and then thinks that it runs for ever."""
    spawn = launch._spawn

    def dead(*args: Any) -> Any:
        child = spawn(*args)
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PIDFD, child.fd, os.WEXITED | os.WNOWAIT)
        return child

    monkeypatch.setattr(launch, "_spawn", dead)
    with pytest.raises(LooopError, match="cannot start"):
        start(paths, "touch ran")
    assert not harness.units(UNIT) and records.ids(paths) == []


def test_a_session_survives_reload_and_reexec_of_the_manager(paths: Paths) -> None:
    invocation = start(paths, "read")

    async def look(live: Live) -> fleet.Session:
        again = asyncio.Event()
        live.on_change = again.set
        await asyncio.to_thread(harness.systemctl, "daemon-reload")
        await asyncio.to_thread(harness.systemctl, "daemon-reexec")
        async with asyncio.timeout(20):
            while True:
                await again.wait()
                again.clear()
                with contextlib.suppress(Unavailable):  # off the bus for a moment: unknown, never dead
                    units = live.live([fleet.unit_name("*")])
                    return fleet.read(paths, CONFIG, units, clock.now(), {})[0]

    seen = with_bus(look)
    assert (seen.alive, seen.state, seen.invocation) == (True, "running", invocation)


def test_log_follows_to_the_end(paths: Paths, events: harness.Events) -> None:
    start(paths, "until test -e go; do read -t 0.05; done; printf '\\e[31mred\\e[0m\\n'; seq 3; exit 1")
    env = {**os.environ, **verb_env(paths)}
    follow = [sys.executable, "-m", "looop", "log", "-f", "w"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True, env=env) as reader:
        (paths.data / "go").touch()
        assert reader.communicate(timeout=20)[0] == "red\n1\n2\n3\n"
    gone(events)
    assert "\x1b[31mred" in ctl(paths, "log", "--raw", "w").stdout


def verb_env(paths: Paths) -> dict[str, str]:
    return {"LOOOP_DATA_DIR": str(paths.data), "RUNTIME_DIRECTORY": str(paths.runtime), "PYTHONPATH": ROOT}


def ctl(paths: Paths, *words: str, check: bool = True) -> harness.Done:
    return harness.command(sys.executable, "-m", "looop", *words, env=verb_env(paths), check=check)


def test_the_verbs_work_from_a_shell(paths: Paths, events: harness.Events) -> None:
    started = ctl(paths, "worker", "start", "w", "do", "it", "--command", "echo $LOOOP_SESSION_ID; read")
    assert started.stdout == "start-worker w (command override)\n"
    ctl(paths, "flag", "--session", "w", "look", "here")
    row = json.loads(ctl(paths, "worker", "list", "--json").stdout)[0]
    assert (row["id"], row["state"], row["health"], row["note"]) == ("w", "running", "busy", "look here")
    assert ctl(paths, "worker", "list").stdout.split("\n")[1].split()[:3] == ["w", "busy", "running"]
    assert paths.journal.read_text().rstrip().endswith(" start-worker w (command override)")
    refused = ctl(paths, "worker", "start", "w", "x", "--command", "true", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert ctl(paths, "kill", "w").stdout == "kill-worker w\n"
    gone(events)
    assert ctl(paths, "kill", "w", check=False).returncode == 1
    assert ctl(paths, "log", "w").stdout == "w\n"
    assert (paths.prompts / "w.md").read_text().endswith("do it\n")


def test_a_worker_that_runs_too_long_is_ended(paths: Paths, events: harness.Events) -> None:
    start(paths, "while :; do read -t 9; done", limits={"runtime_max": 1})
    gone(events)
    assert (one(paths).state, one(paths).signal) == ("killed", "SIGTERM")


def test_output_lines_reach_the_journal_at_the_given_rate(paths: Paths, journal: harness.Journal) -> None:
    config = replace(CONFIG, journal_output="lines", journal_lines_per_s=3)
    start(paths, "printf '\\e[32mline %s\\e[0m\\n' {1..500}; exit 0", config=config)
    journal.wait(LOOOP_SESSION="w", MESSAGE="[looop: 497 lines suppressed]")
    lines = [entry["MESSAGE"] for entry in journal.find(LOOOP_SESSION="w") if entry["MESSAGE"].startswith("line")]
    assert lines == ["line 1", "line 2", "line 3"]


def test_without_systemd_the_kernel_ends_what_is_left(
    paths: Paths, events: harness.Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = launch.environment(paths, CONFIG) | {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": ""}
    monkeypatch.setattr(launch, "environment", lambda *args, **extra: built)
    start(paths, "trap '' TERM; setsid sleep 300 & exit 6")
    gone(events)
    assert exit_record(paths)["code"] == 6


def test_starting_one_takes_the_time_of_a_process(paths: Paths) -> None:
    async def ten(live: Live) -> list[float]:
        loop, took = asyncio.get_running_loop(), []
        for n in range(10):
            before = loop.time()
            await launch.start(live, paths, CONFIG, launch.Brief(f"w{n}", "x", command="read"), clock.now())
            took.append(loop.time() - before)
        return sorted(took)

    took = with_bus(ten)
    print(f"\nstart: median {took[5] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms")
    assert len(harness.units("looop-worker-*.scope")) == 10
