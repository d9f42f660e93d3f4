#!/usr/bin/python3
"""Many processes race for one lease whose holder is dead; exactly one may win each round.

    claim_race.py [--rounds 200] [--racers 32] [--reaper] [LOOOPCTL...]

Each racer is a scope that lives for all rounds and runs a real `looopctl claim` in each. With --reaper the leases
are reaped all the while, as the pulse does it. Run it in a unit: a lingering user's shell, or systemd-run.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RACER = 'while read -r _; do "$@" claim raced >/dev/null 2>&1; echo $?; done'
REAPER = """
from looop import claims
from looop.errors import LooopError
from looop.paths import Paths
from looop.systemd.manager import Manager
with Manager("user") as user, Manager("system") as system:
    print("ready", flush=True)
    while True:
        try:
            claims.reap(Paths.from_env(), claims.snapshot(user, system))
        except LooopError:
            pass
"""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--racers", type=int, default=32)
    parser.add_argument("--reaper", action="store_true")
    parser.add_argument("looopctl", nargs="*", default=[str(Path.home() / ".local/bin/looopctl")])
    return parser.parse_args()


def plant(claims: Path) -> None:
    """A lease of a unit invocation that never was."""
    record = {
        "v": 1, "name": "raced", "session": "gone", "unit": "looop-worker-gone.scope", "manager": "user",
        "invocation": "0" * 32, "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""),
        "since": time.time(),
    }  # fmt: skip
    claims.mkdir(parents=True, exist_ok=True)
    new = claims / ".planted"
    new.write_text(json.dumps(record))
    new.rename(claims / "raced.json")


def racer(number: int, args: argparse.Namespace, env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["systemd-run", "--user", "--scope", "--quiet", f"--unit=race-{os.getpid()}-{number}.scope",
         "sh", "-c", RACER, "racer", *args.looopctl],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip


def race(racers: list["subprocess.Popen[str]"]) -> list[int]:
    """One round; the exit codes of the racers."""
    for process in racers:
        assert process.stdin is not None
        process.stdin.write("\n")
    codes = []
    for process in racers:
        assert process.stdout is not None
        codes.append(int(process.stdout.readline()))
    return codes


def main() -> int:
    args = parsed()
    started = time.monotonic()
    bad = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        data = Path(name) / "data"
        env = {**os.environ, "LOOOP_DATA_DIR": str(data), "PYTHONPATH": sys.path[0]}
        if args.reaper:
            reaper = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", REAPER], env=env, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(reaper.kill)
            assert reaper.stdout is not None
            reaper.stdout.readline()
        racers = [stack.enter_context(racer(number, args, env)) for number in range(args.racers)]
        race(racers)  # a first round, not counted: every scope is up
        for number in range(args.rounds):
            plant(data / "claims")
            codes = race(racers)
            if codes.count(0) != 1 or set(codes) - {0, 1}:
                bad += 1
                print(f"round {number}: exit codes {codes}", flush=True)
    beside = " beside a reaper" if args.reaper else ""
    verdict = f"{bad} of them WITHOUT exactly one winner" if bad else "one winner in each"
    print(f"{args.racers} racers{beside}, {args.rounds} rounds, {verdict}, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
