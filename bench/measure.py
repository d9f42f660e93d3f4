"""Figures of a running looop. Run inside a machine, as the user looop is installed for:

    python3 -m bench.measure deaths 100    last process of a worker ends -> its lease is gone, and the beat that follows
    python3 -m bench.measure edits 50      a goal is edited -> a beat starts
    python3 -m bench.measure beat 30       cost of an unchanged beat: 10 sensors, 8 workers, 50 goals; memory

It starts looop on empty folders and leaves it stopped. Figures are this machine's; compare within one run.
"""

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from looop import store
from looop.systemd.manager import Manager
from looop.watch import Watcher
from tests.machine.harness import CGROUP, Events, Journal, Pulse, cgroup_pids, command, fresh_pulse, looopctl, unit
from tests.machine.harness import units as units_of

IDLE = "idle"


def show(name: str, values: Sequence[float], unit_name: str = "ms") -> None:
    """One line: count, median, p99 and maximum."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    middle = statistics.median(ordered)
    print(f"{name}: n={len(ordered)} p50={middle:.1f} p99={p99:.1f} max={ordered[-1]:.1f} {unit_name}", flush=True)


def quiet(pulse: Pulse, events: Events) -> None:
    events.wait_for(lambda: unit(pulse.service, "StatusText")["StatusText"].startswith(IDLE))


def stamp(entry: dict[str, str]) -> float:
    """When the program sent the entry, Unix seconds."""
    return int(entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry["__REALTIME_TIMESTAMP"]) / 1e6


def next_beat(events: Events, journal: Journal, wall: float) -> dict[str, str]:
    """The first beat that started after `wall`."""
    return events.wait_for(lambda: [e for e in journal.find(LOOOP_EVENT="tick_start") if stamp(e) >= wall])[0]


def deaths(pulse: Pulse, events: Events, journal: Journal, count: int) -> None:
    """Kill workers that hold a lease, one after the other."""
    pulse.configure("beat_gap = 0\nmax_workers = 0\n")
    pulse.start()
    to_removal, to_beat = [], []
    with Manager("user") as user, Watcher(pulse.data / "claims") as watcher:
        for n in range(count):
            looopctl("worker", "start", f"w{n}", "--command", "sleep infinity", "wait")
            looopctl("claim", "lease", "--session", f"w{n}")
            quiet(pulse, events)
            scope = f"looop-worker-w{n}.scope"
            ends = [os.pidfd_open(pid) for pid in cgroup_pids(scope)]
            watcher.drain()
            user.kill(scope)
            for end in ends:
                select.select([end], [], [], 10)
                os.close(end)
            wall, ended = time.time(), time.monotonic()
            while (pulse.data / "claims/lease.json").exists():
                watcher.wait(10)
            to_removal.append((time.monotonic() - ended) * 1000)
            to_beat.append((stamp(next_beat(events, journal, wall)) - wall) * 1000)
    show("last process ended -> lease removed", to_removal)
    show("last process ended -> beat started", to_beat)


def edits(pulse: Pulse, events: Events, journal: Journal, count: int) -> None:
    """Edit a goal the way an editor does."""
    pulse.configure("beat_gap = 0\n")
    pulse.start()
    quiet(pulse, events)
    latencies = []
    for n in range(count):
        wall = time.time()
        store.write(pulse.data / "goals/g.md", f"version {n}\n")
        latencies.append((stamp(next_beat(events, journal, wall)) - wall) * 1000)
        # the write pokes twice, by creating and by renaming: let the second beat pass
        seen = len(journal.find(LOOOP_EVENT="sense_done"))
        looopctl("beat")
        journal.wait("sense_done", count=seen + 1)
        events.wait_for(lambda: not units_of("looop-beat.service", "activating"))
        quiet(pulse, events)
    show("goal edited -> beat started", latencies)


def cpu_ms(name: str) -> float:
    """CPU time of a control group and all that ever ran below it; the kernel counts it without a cpu controller too."""
    group = CGROUP + "/init.scope" if name == "init.scope" else unit(name, "ControlGroup")["ControlGroup"]
    return number(f"/sys/fs/cgroup{group}/cpu.stat", "usage_usec") / 1e3


def number(path: str, key: str) -> int:
    """The number behind a key of a file in /proc or /sys."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise ValueError(f"{path} has no {key}")


def bus_name(pid: int) -> str:
    """The pulse's connection for calls: the one of its two that the manager does not send signals to."""
    rows = command("busctl", "--user", "list", "--json=short").stdout
    return str(min(row["name"] for row in json.loads(rows) if row["pid"] == pid and row["name"].startswith(":")))


def beat(pulse: Pulse, events: Events, journal: Journal, count: int) -> None:
    """Force unchanged beats and account for them."""
    pulse.configure("beat_gap = 0\n")
    looopctl("sensor", "list")
    for n in range(10):
        pulse.sensor(f"s{n}", 'echo \'{"signal": 1}\'')
    for n in range(50):
        looopctl("goal", "write", f"g{n}", f"goal number {n}\nwith a second line")
    pulse.start()
    for n in range(8):
        looopctl("worker", "start", f"w{n}", "--command", "sleep infinity", "wait")
    quiet(pulse, events)
    seen_on_bus = tempfile.TemporaryFile("w+")
    watch = ["busctl", "--user", "monitor", "--json=short", "org.freedesktop.systemd1"]
    monitor = subprocess.Popen(watch, stdout=seen_on_bus, stderr=subprocess.DEVNULL)
    groups = (pulse.service, "looop-helper.slice", "init.scope")
    walls: list[float] = []
    cpu: dict[str, list[float]] = {name: [] for name in groups}
    for _ in range(count):
        before = len(journal.find(LOOOP_EVENT="world_unchanged"))
        used = {name: cpu_ms(name) for name in groups}
        looopctl("beat")
        end = journal.wait("world_unchanged", count=before + 1)
        quiet(pulse, events)
        for name in groups:
            cpu[name].append(cpu_ms(name) - used[name])
        start = [e for e in journal.find(LOOOP_EVENT="tick_start") if stamp(e) <= stamp(end)][-1]
        walls.append((stamp(end) - stamp(start)) * 1000)
    monitor.terminate()
    monitor.wait()
    seen_on_bus.seek(0)
    calls = [json.loads(line) for line in seen_on_bus if '"type":"method_call"' in line]
    pulse_calls = Counter(call["member"] for call in calls if call.get("sender") == bus_name(pulse.pid))
    show("unchanged beat, wall", walls)
    show("unchanged beat, CPU of the pulse", cpu[pulse.service])
    show("unchanged beat, CPU of the sense unit and its 10 sensors", cpu["looop-helper.slice"])
    show("meanwhile, CPU of the user manager (this script's questions included)", cpu["init.scope"])
    print(f"bus calls of the pulse: {pulse_calls.total() / count:.1f} a beat: {dict(pulse_calls)}")
    print(f"pulse RSS: {number(f'/proc/{pulse.pid}/status', 'VmRSS') / 1024:.1f} MiB")
    shims = [cgroup_pids(name)[0] for name in sorted(units_of("looop-worker-*.scope", "active"))]
    show("shim PSS", [number(f"/proc/{pid}/smaps_rollup", "Pss:") / 1024 for pid in shims], "MiB")


def main() -> int:
    measures = {"deaths": deaths, "edits": edits, "beat": beat}
    if len(sys.argv) != 3 or sys.argv[1] not in measures or not sys.argv[2].isdigit():
        print(__doc__, file=sys.stderr)
        return 64
    events = Events()
    try:
        with fresh_pulse(events) as pulse:
            measures[sys.argv[1]](pulse, events, Journal(events), int(sys.argv[2]))
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
