#!/usr/bin/python3
"""Many processes race for one lease whose holder is dead; exactly one may win each round.

    claim_race.py [--rounds 200] [--racers 32] [--reaper] [LOOOPCTL...]

Each racer is a real `looopctl claim` in a scope of its own and lives until its round is judged. With --reaper the
leases are reaped all the while, as the pulse does it. Run it in a unit: a lingering user's shell, or systemd-run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RACER = '"$@" claim raced >"$OUT" 2>/dev/null; echo $? >"$OUT.code"; echo >"$DONE"; read -r _ <"$END"'
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


def race(number: int, args: argparse.Namespace, folder: Path, env: dict[str, str]) -> list[int]:
    """One round; the exit codes of the racers."""
    done, end = folder / f"done{number}", folder / f"end{number}"
    os.mkfifo(done)
    os.mkfifo(end)
    outs = [folder / f"{number}-{n}" for n in range(args.racers)]
    racers = [
        subprocess.Popen(
            ["systemd-run", "--user", "--scope", "--quiet", f"--unit=race-{os.getpid()}-{number}-{n}.scope",
             "sh", "-c", RACER, "racer", *args.looopctl],
            env={**env, "OUT": str(out), "DONE": str(done), "END": str(end)},
        )
        for n, out in enumerate(outs)
    ]  # fmt: skip
    heard = 0
    with open(os.open(done, os.O_RDWR), "rb", buffering=0) as finish:
        while heard < args.racers:
            heard += len(finish.read(args.racers))
    codes = [int(Path(f"{out}.code").read_text()) for out in outs]
    with open(os.open(end, os.O_RDWR), "wb", buffering=0) as opener:
        opener.write(b"\n" * args.racers)
        for racer in racers:
            racer.wait()
    return codes


def main() -> int:
    args = parsed()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        env = {**os.environ, "LOOOP_DATA_DIR": str(data), "PYTHONPATH": sys.path[0]}
        reaper = None
        if args.reaper:
            reaper = subprocess.Popen([sys.executable, "-c", REAPER], env=env, stdout=subprocess.PIPE)
            assert reaper.stdout is not None
            reaper.stdout.readline()
        bad = 0
        try:
            for number in range(args.rounds):
                plant(data / "claims")
                codes = race(number, args, folder, env)
                if codes.count(0) != 1 or set(codes) - {0, 1}:
                    bad += 1
                    print(f"round {number}: exit codes {codes}")
        finally:
            if reaper:
                reaper.kill()
                reaper.communicate()
    beside = " beside a reaper" if args.reaper else ""
    verdict = f"{bad} of them WITHOUT exactly one winner" if bad else "one winner in each"
    print(f"{args.racers} racers{beside}, {args.rounds} rounds, {verdict}, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
