"""The pictures in docs/pictures, drawn from real programs on terminals. Run inside a machine, on an installed looop:

    python3 -m bench.pictures FOLDER       watch-80x24.svg, watch-200x50.svg and status.svg
    python3 -m bench.pictures --idle 60    processor time of `looopctl watch` over so many seconds of nothing new

It starts looop on empty folders with six workers and leaves it stopped.
"""

import argparse
import os
import time
from pathlib import Path

from looop.screens.screen import Screen
from tests.machine.harness import LOOOPCTL, Events, Journal, fresh_pulse, looopctl, looopctl_json
from tests.machine.terminal import Tui

MIGRATION = r"""
import time
print("\x1b[?1049h\x1b[?25l", end="")
tables = ["accounts", "invoices", "payments", "sessions", "audit_log", "devices"]
step = 0
while True:
    step += 1
    print("\x1b[H\x1b[1;37;44m migrate-db \x1b[0;30;106m 14 to 15 \x1b[0m  %s\x1b[K\n\x1b[K" % "|/-\\"[step % 4])
    for n, table in enumerate(tables):
        share = max(0.0, min(1.0, (step - n * 14) / 40))
        colour = 42 if share == 1 else 214 if share else 240
        bar = "━" * int(share * 32)
        word = "done" if share == 1 else "copying" if share else "waits"
        print(f" {table:<10} \x1b[38;5;{colour}m{bar:<32}\x1b[0m {share * 100:3.0f} %  {word:<8}\x1b[K")
    print(f"\x1b[K\n \x1b[2mrows/s\x1b[0m {3120 + step * 37 % 900}   lag {step % 7} ms\x1b[K\x1b[J", flush=True)
    time.sleep(0.5)
"""
TESTS = r"""
n=0; while :; do n=$((n+1)); printf '\033[32m ok \033[0m %4d  tests/api/test_login_%03d.py \033[2m%3d ms\033[0m\n' \
    $n $((n * 7 % 400)) $((n * 13 % 90)); [ $((n % 17)) = 0 ] && \
    printf '\033[33m again\033[0m  a test that failed once\n'; sleep 0.15; done
"""
INDEX = r"""
import time
for n in range(1 << 30):
    print(f"indexed {n * 1250} files", flush=True)
    end = time.thread_time() + 0.35
    while time.thread_time() < end:
        pass
    time.sleep(1)
"""
RELEASE = rf"""
printf '\033[1m● Release 2.4\033[0m\n  read 61 commits since 2.3\n  wrote NEWS.md, 14 entries\n'
printf '  built 3 packages, all tests pass\n'
{LOOOPCTL} ask --prompt "Publish release 2.4 now? The tests are green, but two issues are still marked for it." \
    --options 'yes,after the two issues,no'; exec cat
"""
WORKERS = {
    "release-2.4": RELEASE,
    "flaky-tests": TESTS,
    "migrate-db": f"exec python3 -c '{MIGRATION}'",
    "index": f"exec python3 -c '{INDEX}'",
    "old-branch": r"printf 'rebasing onto main ...\nAuto-merging src/api.c\nwaiting for index.lock\n'; exec cat",
}


def start(events: Events, journal: Journal, stuck_after: int) -> None:
    """Six workers: one asks, one says no more, one has failed, three are busy."""
    for goal, text in {"release": "Publish 2.4 this week.", "tests": "No test of ours is flaky."}.items():
        looopctl("goal", "write", goal, text)
    for worker_id, command in WORKERS.items():
        looopctl("worker", "start", worker_id, "do it", "--command", command)
    failing = "printf 'fixed 3 of 5 warnings\\n'; exit 1"
    looopctl("worker", "start", "lint-fix", "do it", "--command", failing, "--verify", "false")
    journal.wait("worker_verified", LOOOP_SESSION="lint-fix")
    events.wait_for(lambda: {"waiting-ask"} <= health())
    if stuck_after:
        events.wait_for(lambda: {"waiting-ask", "stuck"} <= health(), timeout=60)


def health() -> set[str]:
    return {row["health"] for row in looopctl_json("worker", "list")}


def settle(tui: Tui, seconds: float) -> None:
    """Let it draw for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tui.take(end - time.monotonic())


def watch(folder: Path, rows: int, cols: int) -> None:
    """One picture of `watch`."""
    tui = Tui(LOOOPCTL, "watch", "-a", "migrate-db", rows=rows, cols=cols)
    try:
        tui.until("migrate-db: screen", "rows/s" if rows > 30 else "accounts", "Publish release", "stuck", "%")
        settle(tui, 5)
        (folder / f"watch-{cols}x{rows}.svg").write_text(tui.screen.svg())
    finally:
        tui.close()


def status(folder: Path) -> None:
    """What `looopctl status` prints, on a terminal that is just high enough."""
    tui = Tui(LOOOPCTL, "status", rows=60, cols=100)
    tui.end()
    tui.close()
    lines = len(tui.screen.plain().splitlines())
    screen = Screen(lines + 2, 100)
    screen.feed(b"\x1b[1m$ looopctl status\x1b[0m\r\n" + tui.raw + b"\x1b[?25l")
    (folder / "status.svg").write_text(screen.svg())


def idle(seconds: float) -> None:
    """What a `watch` costs that has nothing new to draw but ages."""
    tui = Tui(LOOOPCTL, "watch", rows=50, cols=200)
    try:
        tui.until("q quit", "index")
        settle(tui, 5)
        before, at = used(tui.process.pid), time.monotonic()
        settle(tui, seconds)
        spent, passed = used(tui.process.pid) - before, time.monotonic() - at
        print(f"watch: {spent * 1000:.0f} ms in {passed:.0f} s, {spent / passed * 100:.2f} % of a core")
    finally:
        tui.close()


def used(pid: int) -> float:
    """Processor time of a process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--idle", type=float, default=0)
    args = parser.parse_args()
    events = Events()
    try:
        with fresh_pulse(events) as pulse:
            stuck = 0 if args.idle else 6
            pulse.configure(f'stuck_after = {stuck}\nverify_tries = 1\nworker_command = "cat {{{{prompt_file}}}}"\n')
            pulse.start()
            if args.idle:
                for n in range(6):
                    looopctl("worker", "start", f"index-{n}", "do it", "--command", "exec cat")
                idle(args.idle)
            if args.folder:
                start(events, Journal(events), stuck)
                watch(args.folder, 24, 80)
                watch(args.folder, 50, 200)
                status(args.folder)
    finally:
        events.close()


if __name__ == "__main__":
    main()
