#!/usr/bin/python3
"""`make run` after the installation: a harmless unit fails, and looop's handling of it is shown as it happens.

  demo.py run     start looop, break demo-backup.service, follow the story to its verified end; looop goes on
  demo.py stop    stop looop and remove the unit

It uses what any user has: looopctl, systemctl and journalctl. It waits for lines of the journal, never for time.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNIT = "demo-backup.service"
WORKER = f"repair-{UNIT}"  # the name that the starter set's rule gives
RUNTIME = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
DATA = Path(os.environ.get("LOOOP_DATA_DIR") or STATE / "looop")
UNIT_FILE = RUNTIME / "systemd/user" / UNIT  # systemd.unit(5): gone after a reboot
LOCK = RUNTIME / "demo-backup.lock"
PATIENCE_S = 180.0
ANSWER = "restart"
UNIT_TEXT = f"""\
[Unit]
Description=Demo of looop: a backup that trips over a stale lock
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'if rm {LOCK}; then echo "a stale lock of an interrupted run; removed it, giving up"; exit 1; fi'
ExecStart=/bin/echo "backup complete"
"""


def title(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


def run(*words: str, check: bool = True) -> str:
    """A command's standard output; its errors go where ours go, or nowhere when it may fail."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=None if check else subprocess.DEVNULL, text=True)
    if check and done.returncode:
        raise SystemExit(f"demo: `{' '.join(words)}` exited {done.returncode}")
    return done.stdout


def show(*words: str) -> None:
    print(f"$ {' '.join(words)}", flush=True)
    print(run(*words, check=False).rstrip(), flush=True)


class Story:
    """looop's entries in the systemd journal from now on, printed as they come."""

    def __init__(self) -> None:
        probe = run("journalctl", "--user", "--lines=1", "--output=json", check=False).strip()
        after = [f"--after-cursor={json.loads(probe)['__CURSOR']}"] if probe else ["--no-tail"]
        self.process = subprocess.Popen(
            ["journalctl", "--user", "--follow", "--output=json", *after, "--identifier=looop"], stdout=subprocess.PIPE
        )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def entries(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        rest = b""
        while select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise SystemExit("demo: journalctl ended; can this user read its journal? (looopctl doctor)")
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, lines)
        show("looopctl", "doctor")
        raise SystemExit(f"demo: nothing more happened within {PATIENCE_S:.0f} s; see journalctl --user -u looop")

    def until(self, event: str) -> dict[str, Any]:
        """Print the story up to this event of the demo's worker; others may be at work as well."""
        for entry in self.entries():
            name = entry.get("LOOOP_EVENT", "")
            clock = time.strftime("%H:%M:%S", time.localtime(int(entry["__REALTIME_TIMESTAMP"]) / 1e6))
            print(f"  {clock}  {name:<16} {entry.get('MESSAGE', '')}", flush=True)
            if name == event and entry.get("LOOOP_SESSION") == WORKER:
                return entry
        raise AssertionError("entries() does not end")


def forget() -> None:
    """What an earlier demo may have left: a worker that still asks, the answer "stop watching"."""
    run("looopctl", "kill", WORKER, check=False)
    ignored = DATA / "reports/ignored-units"
    if ignored.exists():
        ignored.write_text("".join(line for line in ignored.read_text().splitlines(True) if line.strip() != UNIT))


def break_unit() -> None:
    UNIT_FILE.parent.mkdir(parents=True, exist_ok=True)
    UNIT_FILE.write_text(UNIT_TEXT)
    run("systemctl", "--user", "daemon-reload")
    run("systemctl", "--user", "stop", UNIT, check=False)
    LOCK.touch()
    run("systemctl", "--user", "start", UNIT, check=False)


def answer(ask: dict[str, Any]) -> None:
    """The human's part; without a terminal we take it over and say so."""
    print(f"\n  {ask['prompt']}\n  options: {', '.join(ask['options'])}   report: {ask['reference']}")
    text = ANSWER
    if sys.stdin.isatty():
        with contextlib.suppress(EOFError):
            text = input(f"  your answer [{ANSWER}]: ").strip() or ANSWER
    else:
        print(f"  no terminal here, so the demo answers for you: {text}")
    run("looopctl", "answer", ask["id"], text)


def pending(ask_id: str) -> dict[str, Any]:
    asks: list[dict[str, Any]] = json.loads(run("looopctl", "asks", "--json"))
    return next(ask for ask in asks if ask["id"] == ask_id)


def demo() -> None:
    title("looop starts")
    run("looopctl", "up")
    show("looopctl", "status")
    forget()
    story = Story()
    try:
        title(f"{UNIT} fails; looop notices, and a worker looks into it")
        break_unit()
        ask = pending(story.until("ask_raised")["LOOOP_ASK"])
        title("the worker asks")
        answer(ask)
        title("the answer is carried out and verified")
        story.until("worker_verified")
    finally:
        story.close()
    title("what the worker wrote down")
    print(Path(ask["reference"]).read_text().rstrip() if ask["reference"] else "(no report)")
    title("what is true now")
    show("systemctl", "--user", "--no-pager", "--lines=0", "status", UNIT)
    show("looopctl", "journal")
    show("systemctl", "--user", "--no-pager", "--lines=0", "status", "looop")
    print("\nlooop goes on. Follow it: journalctl --user -u looop -f   Stop it: make stop")


def stop() -> None:
    run("systemctl", "--user", "stop", UNIT, check=False)
    run("systemctl", "--user", "reset-failed", UNIT, check=False)
    UNIT_FILE.unlink(missing_ok=True)
    LOCK.unlink(missing_ok=True)
    run("systemctl", "--user", "daemon-reload", check=False)
    if shutil.which("looopctl"):
        print(run("looopctl", "down").rstrip())


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make run | head`
    match sys.argv[1:]:
        case ["run"]:
            try:
                demo()
            except KeyboardInterrupt:
                raise SystemExit("\ndemo: interrupted; looop goes on. Stop it: make stop") from None
        case ["stop"]:
            stop()
        case _:
            raise SystemExit(__doc__)
