"""How fast a blocked `wait` is, and what it does while nothing happens. Run inside a machine, as dev:

    python3 -m bench.wait_latency latency 200    an ask is raised -> `wait` has printed it and ended
    python3 -m bench.wait_latency idle 60        system calls and context switches of a blocked `wait` and `ask`

The clock of the first starts before the ask is written, so it includes the two syncs of that. System calls are
counted by strace, where it is installed. No pulse runs, unless LOOOP_BENCH_PULSE is set.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import number, show
from looop import mailbox
from looop.paths import Paths
from looop.systemd.identity import holder
from tests.machine.harness import LOOOPCTL, Events, fresh_pulse

SETTLE_S = 2.0


def blocked(*words: str, trace: Path | None = None) -> "subprocess.Popen[str]":
    """A verb that has nothing left to do but sleep."""
    prefix = [] if trace is None else ["strace", "-f", "-ttt", "-o", str(trace)]
    process = subprocess.Popen(
        [*prefix, LOOOPCTL, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    pid = process.pid if trace is None else child(process.pid)
    while not any(word in Path(f"/proc/{pid}/wchan").read_text() for word in ("poll", "select")):
        select.select([], [], [], 0.002)
    return process


def child(pid: int) -> int:
    """The program that strace runs; before it there is one that strace tries itself out on."""
    while True:
        for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if LOOOPCTL in Path(f"/proc/{found}/cmdline").read_text().split("\0")[:3]:
                    return int(found)
        select.select([], [], [], 0.002)


def switches(pid: int) -> int:
    """Times any thread of the process was put on a CPU."""
    files = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(number(str(file), "voluntary_ctxt") + number(str(file), "nonvoluntary_ctxt") for file in files)


def start() -> str:
    """A cursor of now, which has been told of the pulse."""
    out = subprocess.run([LOOOPCTL, "state", "--json"], capture_output=True, text=True, check=True).stdout
    return str(json.loads(out)["cursor"])


def latency(rounds: int) -> None:
    """Raise an ask from this very unit, take it away, again."""
    paths, who = Paths.from_env(), holder()
    cursor, times = start(), []
    for n in range(rounds):
        process = blocked("wait", "--json", "--only-asks", "--since", cursor)
        begun = time.monotonic()
        ask = mailbox.raise_ask(paths, "bench", f"question {n}", time.time(), holder=who)
        out, _ = process.communicate(timeout=30)
        times.append((time.monotonic() - begun) * 1000)
        told = json.loads(out)
        assert [each["id"] for each in told["new"]["asks"]["changed"]] == [ask.id], told
        (paths.asks / f"{ask.id}.json").unlink()
        cursor = start()
    show("ask raised -> wait returned", times)


def idle(seconds: float) -> None:
    """Count what both do in `seconds` without an event."""
    for words in (("wait", "--since", start()), ("ask", "bench", "--prompt", "Well?")):
        process = blocked(*words)
        select.select([], [], [], SETTLE_S)
        before = switches(process.pid)
        select.select([], [], [], seconds)
        print(f"idle {words[0]}: {switches(process.pid) - before} context switches in {seconds:g} s", flush=True)
        end(process)
        if not shutil.which("strace"):
            print("strace is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace"
            process = blocked(*(words if words[0] == "ask" else ("wait", "--since", start())), trace=trace)
            select.select([], [], [], SETTLE_S)
            since = time.time()
            select.select([], [], [], seconds)
            until = time.time()
            calls = [line for line in trace.read_text().splitlines() if since <= float(line.split()[1]) <= until]
            print(f"idle {words[0]}: {len(calls)} system calls in {seconds:g} s (strace)", *calls[:20], sep="\n    ")
            os.kill(child(process.pid), 15)
            end(process)


def end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.communicate(timeout=20)


def main() -> int:
    what, count = sys.argv[1], float(sys.argv[2])
    events = Events()
    with fresh_pulse(events) as pulse:
        if os.environ.get("LOOOP_BENCH_PULSE"):
            pulse.configure('decide = "off"\n')
            pulse.start()
        if what == "latency":
            latency(int(count))
        else:
            idle(count)
    events.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
