"""Workers that want more than their limits allow: what the kernel gives them, and what looop says of their end.

    python3 -m bench.limits      in a machine whose controllers are there (tests/machine/vm), as the user looop is for

Exit 1 if a limit was not enforced, or its victim's record does not say so.
"""

import json
import sys
from typing import Any

from tests.machine.harness import Events, Journal, Pulse, fresh_pulse, looopctl, looopctl_json

MIB = 2**20
MEMORY = 64 * MIB
TASKS = 12
SECONDS = 6
EAT = "exec python3 -c 'b = bytearray(); [b.extend(bytes(1 << 20)) for _ in range(512)]'"
# one child after the other, until the kernel refuses one
FORK = """exec python3 -c '
import os, signal
for n in range(64):
    try:
        os.fork() or signal.pause()
    except OSError as error:
        print("refused child", n, error.strerror, flush=True)
        os.killpg(0, signal.SIGKILL)
'"""


def ended(events: Events, name: str) -> dict[str, Any]:
    """The worker's row once it is dead and its end recorded."""

    def row() -> dict[str, Any]:
        rows = [dict(row) for row in looopctl_json("worker", "list", "-a") if row["id"] == name and not row["alive"]]
        return rows[0] if rows and (rows[0]["result"] or rows[0]["signal"]) else {}

    return events.wait_for(row, timeout=120, what=f"the end of {name}")


def start(name: str, limit: str, script: str) -> None:
    looopctl("worker", "start", name, "--limit", limit, "--command", script, "limits")


def memory(pulse: Pulse, events: Events, journal: Journal) -> list[str]:
    start("eater", f"memory_max={MEMORY}", EAT)
    row = ended(events, "eater")
    entry = journal.wait("worker_ended", LOOOP_SESSION="eater")
    peak = row.get("memory_peak")
    print(f"memory_max {MEMORY // MIB} MiB, 512 MiB wanted: {row['state']}, result {row['result']!r},"
          f" peak {'unknown' if peak is None else f'{peak / MIB:.1f} MiB'}; journal: {entry['MESSAGE']}")
    faults = [] if row["result"] == "oom-kill" else ["the eater's result is not oom-kill"]
    return faults + ([f"the eater's peak is {peak}"] if peak is not None and peak > MEMORY else [])


def tasks(pulse: Pulse, events: Events, journal: Journal) -> list[str]:
    start("forker", f"tasks_max={TASKS}", FORK)
    row = ended(events, "forker")
    said = looopctl("log", "forker").stdout
    print(f"tasks_max {TASKS}, 64 wanted: {row['state']} {row['signal']}; it said: {' '.join(said.split())}")
    return [] if "refused" in said else ["the forker was refused nothing"]


def runtime(pulse: Pulse, events: Events, journal: Journal) -> list[str]:
    start("sleeper", f"runtime_max={SECONDS}", "exec sleep infinity")
    row = ended(events, "sleeper")
    entry = journal.wait("worker_ended", LOOOP_SESSION="sleeper")
    print(f"runtime_max {SECONDS} s: {row['state']}, result {row['result']!r}; journal: {entry['MESSAGE']}")
    return [] if row["result"] == "timeout" else ["the sleeper's result is not timeout"]


def main() -> int:
    if len(sys.argv) != 1:
        print(__doc__, file=sys.stderr)
        return 64
    events = Events()
    try:
        with fresh_pulse(events) as pulse:
            pulse.start()
            print(looopctl("doctor", check=False).stdout)
            faults = [fault for part in (memory, tasks, runtime) for fault in part(pulse, events, Journal(events))]
            print(json.dumps({"faults": faults}))
    finally:
        events.close()
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
