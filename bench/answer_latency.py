#!/usr/bin/python3
"""From `looopctl answer` having written the answer to `looopctl ask` having printed it, and having ended.

    answer_latency.py [--rounds 200] [LOOOPCTL...]

The clock starts at the time the answer carries, which is taken before it is synced and published, and stops when the
asker's standard output has the answer, and again when the asker has ended: what `$(looopctl ask ...)` waits for.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("looopctl", nargs="*", default=[str(Path.home() / ".local/bin/looopctl")])
    return parser.parse_args()


def ask(args: argparse.Namespace, data: Path, number: int, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A blocked ask: its process has nothing left to do but sleep."""
    process = subprocess.Popen(
        [*args.looopctl, "ask", "bench", "--prompt", f"question {number}"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wchan = Path(f"/proc/{process.pid}/wchan")
    file = data / f"asks/bench-{number}.json"
    while not (file.exists() and "poll" in wchan.read_text()):
        select.select([], [], [], 0.002)
    return process


def switches(pid: int) -> int:
    """Times the process was put on a CPU."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def answered(
    args: argparse.Namespace, data: Path, number: int, asker: "subprocess.Popen[bytes]", env: dict[str, str]
) -> tuple[float, float]:
    """Answer it; milliseconds from the answer's writing to its arrival, and to the end of the asker."""
    answer = subprocess.Popen(
        [*args.looopctl, "answer", f"bench-{number}", "yes"], env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert asker.stdout is not None
    text = asker.stdout.readline()
    arrived = time.time()
    code = asker.wait()
    ended = time.time()
    assert text == b"yes\n" and code == 0 and answer.wait() == 0
    record = json.loads((data / f"asks/done/bench-{number}.json").read_text())
    said = float(record["answered"])
    return (arrived - said) * 1000, (ended - said) * 1000


def main() -> int:
    args = parsed()
    latencies = []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        env = {**os.environ, "LOOOP_DATA_DIR": str(data)}
        for number in range(1, args.rounds + 1):
            asker = ask(args, data, number, env)
            if number == 1:
                select.select([], [], [], 1)  # it may be in the call that has the human notified
                before = switches(asker.pid)
                select.select([], [], [], 3)
                print(f"wake-ups of a waiting ask in 3 idle seconds: {switches(asker.pid) - before}")
            latencies.append(answered(args, data, number, asker, env))
    for what, times in zip(("printed", "ended"), map(sorted, zip(*latencies, strict=True)), strict=True):
        p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
        print(f"answer -> ask has {what}: n={len(times)} p50={times[len(times) // 2]:.1f} p99={p99:.1f} "
              f"max={times[-1]:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
