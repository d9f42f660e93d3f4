"""A client of 15 lines of shell against 100 asks, goal edits and a pulse that is restarted and killed meanwhile.

    python3 -m bench.wait_client [--workers 5] [--asks 20]

Run inside a machine, as the user looop is installed for; starts looop on empty folders and leaves it stopped. Says
what was lost and what was seen twice (nothing, or it fails), and what the client cost.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from looop import store
from tests.machine.harness import DATA, LOOOPCTL, Events, Pulse, fresh_pulse, looopctl, looopctl_json, units

CLIENT = Path(__file__).with_name("wait_client.sh")
WORKER = """for n in $(seq {count}); do
    printf '%s=%s\\n' "$n" "$({ctl} ask --prompt "Question $n of {name}?" --option yes)" >>{out}
done"""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--asks", type=int, default=20, help="of each worker")
    return parser.parse_args()


def disturb(pulse: Pulse, events: Events, folder: Path, names: list[str], count: int) -> list[str]:
    """Edit goals while the workers ask, restart the pulse at a third and kill it at two thirds; the goals' ids."""
    goals: list[str] = []

    def answered() -> int:
        return sum(len((folder / name).read_text().splitlines()) for name in names if (folder / name).exists())

    total = count * len(names)
    for n in range(total // 2):
        events.wait_for(lambda: answered() >= 2 * n, timeout=120)
        goals.append(f"g{n}")
        store.write(DATA / f"goals/g{n}.md", f"edit {n}\n")
        if n == total // 6:
            pulse.restart()
        if n == total // 3:
            pulse.kill("KILL")
    events.wait_for(lambda: answered() == total, timeout=120)
    return goals


def twice_and_lost(what: str, seen: list[str], wanted: list[str]) -> bool:
    """Print the comparison; True when they are the same, each once."""
    counts = Counter(seen)
    lost = [each for each in wanted if each not in counts]
    twice = [each for each, n in counts.items() if n > 1]
    foreign = [each for each in counts if each not in set(wanted)]
    print(f"{what}: {len(wanted)} happened, {len(seen)} told; lost {lost or 'none'}, twice {twice or 'none'}"
          + (f", foreign {foreign}" if foreign else ""), flush=True)
    return not lost and not twice and not foreign


def main() -> int:
    args = parsed()
    events = Events()
    with fresh_pulse(events) as pulse, tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        pulse.configure('decide = "off"\nmax_workers = 0\n')
        (DATA / "goals").mkdir(mode=0o700, parents=True)
        pulse.start()
        path = f"{Path(LOOOPCTL).parent}:{os.environ['PATH']}"
        begun = time.monotonic()
        client = subprocess.Popen([CLIENT, folder / "log"], env={**os.environ, "PATH": path})
        names = [f"w{n}" for n in range(args.workers)]
        for name in names:
            script = folder / f"{name}.sh"
            script.write_text(WORKER.format(count=args.asks, ctl=LOOOPCTL, name=name, out=folder / name))
            looopctl("worker", "start", name, "--command", f"sh {script}", "ask")
        goals = disturb(pulse, events, folder, names, args.asks)
        events.wait_for(lambda: not units("looop-worker-*", "active"))
        events.wait_for(lambda: bool(looopctl_json("asks") == []))
        store.write(DATA / "goals/end.md", "now\n")
        _, status, used = os.wait4(client.pid, 0)
        client.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begun
        lines = [line.split() for line in (folder / "log").read_text().splitlines()]
        fine = client.returncode == 0
        ids = [f"{name}-{n}" for name in names for n in range(1, args.asks + 1)]
        told = {sign: [line[2] for line in lines if line[:2] == ["asks", sign]] for sign in "+-"}
        fine &= twice_and_lost("asks raised", told["+"], ids)
        fine &= twice_and_lost("asks that went", told["-"], ids)
        answers = [f"{name} {line}" for name in names for line in (folder / name).read_text().splitlines()]
        expected = [f"{name} {n}=yes to {name}-{n}" for name in names for n in range(1, args.asks + 1)]
        fine &= twice_and_lost("answers that arrived", answers, expected)
        edits = [" ".join(line[2:]) for line in lines if line[:2] == ["goals", "+"]]
        fine &= twice_and_lost("goal edits", edits, [f"g{n} edit {n}" for n in range(len(goals))] + ["end now"])
        noted = [" ".join(line[2:]) for line in lines if line[:2] == ["journal", "+"]]
        journal = [" ".join(line.split()) for line in (DATA / "journal.md").read_text().splitlines()]
        fine &= noted == journal and twice_and_lost("journal lines", noted, journal)
        down = sum("pulse-down" in " ".join(line) for line in lines if line[0] == "changed:")
        calls = sum(line[0] == "cursor:" for line in lines)
        print(f"pulse restarted once and killed once: told as down {down} times")
        cpu = used.ru_utime + used.ru_stime
        answered = len(told["+"])
        print(f"client: {calls} calls of wait, {answered} of answer, {cpu:.1f} s of CPU in {wall:.1f} s, children too")
        fine &= down == 0
        if not fine:
            print((folder / "log").read_text())
    events.close()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
