"""A data directory as the newest version of the portable looop leaves it, laid out file by file."""

import json
import os
import time
from pathlib import Path
from typing import Any

START = 1_784_000_000  # when it was begun, Unix seconds


def lay_out(root: Path, config: dict[str, Any] | None = None) -> Path:
    """All kinds of files that version writes, in the forms it writes them; returns `root`."""
    for name in (
        "sensors", "snapshots", "claims", "reports", "asks", "answers", "tells/consumed", "schedules", "prompts",
        "runs", "goals/archive", "sessions", "verify", "playbook.d", ".lock",
    ):  # fmt: skip
        (root / name).mkdir(parents=True, exist_ok=True)
    now = int(time.time())
    policy(root, now)
    mail(root, now)
    workers(root, now)
    memory(root, now)
    lines = [f"- 2026-07-14 05:{minute:02d} write-goal roof" for minute in range(20)]
    (root / "journal.md").write_text("\n".join(lines[10:]) + "\n")
    (root / "journal.md.1").write_text("\n".join(lines[:10]) + "\n")
    chosen: dict[str, Any] = {"tick_command": "agent --print < {{prompt_file}}", "interval": 30, "session_ttl": 3600}
    chosen["worker_command"] = "agent --work {{prompt_file}}"
    put(root / "config.json", chosen if config is None else config)
    return root


def put(path: Path, value: object) -> None:
    """A record, as that program prints them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def policy(root: Path, now: int) -> None:
    (root / "PLAYBOOK.md").write_text("# Orders\n\nKeep the roof tight. Ask with `looop ask` before buying.\n")
    (root / "goals/roof.md").write_text("---\nevery: day\n---\nThe roof does not leak.\n")
    (root / "goals/garden.md").write_text("The garden is watered.\n")
    (root / "goals/archive/fence.md").write_text("The fence stands.\n")
    (root / "goals/archive/fence-1.md").write_text("The fence stands again.\n")
    script = root / "sensors/today.sh"
    script.write_text('#!/usr/bin/env bash\nprintf \'{"date":"%s"}\\n\' "$(date +%F)"\n')
    script.chmod(0o755)
    slow = root / "sensors/rain.sh"
    slow.write_text('#!/bin/sh\n# looop:interval=600\necho \'{"signal":{"rain":false},"detail":{"mm":0}}\'\n')
    slow.chmod(0o755)
    (root / "playbook.d/20260714-081500.md").write_text("# Orders, the first\n")
    (root / "playbook.d/20260714-081500-0001.md").write_text("# Orders, the second\n")
    put(root / "schedules/weekly.json", {"v": 1, "every_s": 168 * 3600, "anchor": START, "note": "look at the gutters"})
    put(root / "schedules/once.json", {"v": 1, "at": now + 604800})
    (root / ".gitignore").write_text("snapshots/\n")


def mail(root: Path, now: int) -> None:
    """One question answered, one open; one message delivered, one not."""
    setup = {"worker": "setup", "prompt": "What shall I do?", "reference": "goals/setup.md", "ts": START}
    roof = {"worker": "roof", "prompt": "Tiles or slate?", "options": ["tiles", "slate"], "ts": now - 60}
    tell = {"worker": "roof", "msg": "Use the ladder.", "ts": now - 30}
    record(root / "asks/setup-1.json", "setup-1", setup)
    put(root / "answers/setup-1.json", {"answer": "mend the roof", "ts": START + 60})
    record(root / "asks/roof-1.json", "roof-1", roof)
    record(root / "tells/roof-1.json", "roof-1", tell)
    record(root / "tells/consumed/roof-1.4711.1.json", "roof-1", tell)


def record(path: Path, name: str, fields: dict[str, Any]) -> None:
    put(path, {"id": name, **fields, "v": 1})


def workers(root: Path, now: int) -> None:
    put(root / "claims/ladder.json", {"session": "roof", "name": "ladder", "ts": now - 600, "nonce": "4711-3"})
    put(root / "sessions/roof/meta.json", {"id": "roof", "cmd": ["bash"], "babysit_pid": 4711, "started_at": now - 900})
    status = {"state": "running", "child_pid": 4712, "exit_code": None, "last_change": now}
    put(root / "sessions/roof/status.json", status)
    (root / "sessions/roof/output.log").write_bytes(b"\x1b[1mclimbing\x1b[m\r\n")
    (root / "prompts/roof.md").write_text("contract\n---\nMend the roof.\n")
    (root / "verify/roof.cmd").write_text("test -e reports/roof.md\n")
    (root / "reports/roof.md").write_text("Two tiles are broken.\n")
    (root / "reports/pictures").mkdir()
    (root / "reports/pictures/tile 1.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")


def memory(root: Path, now: int) -> None:
    """What it remembers for itself."""
    put(root / "snapshots/sensor-today.json", {"date": "2026-07-15"})
    put(root / "snapshots/sys-asks.json", {"signal": {"pending": ["roof-1"]}})
    (root / "runs/tick-20260714-081500").mkdir()
    (root / "runs/tick-20260714-081500/prompt.md").write_text("decide\n")
    (root / ".last-tick-hash").write_text("0" * 32 + "\n")
    put(root / ".last-world.json", {"playbook": "1" * 32})
    put(root / ".tick-backoff", {"v": 1, "hash": "2" * 32, "fails": 1, "ts": now})
    put(root / ".noop-at.json", {"v": 1, "ts": now, "hash": "0" * 32})
    put(root / ".decide-ledger.json", {"v": 1, "ts": [now]})
    put(root / ".next-wake.json", {"v": 1, "due": now + 300})
    put(root / ".goal-activity.json", {"roof": now - 3600, "gone": now})
    begun = {"kind": "shell", "fingerprint": "3" * 32, "ts": now, "shell_timeout_secs": 300}
    put(root / ".action-wal.4711-0.json", begun)
    (root / "tick.log").write_text("thinking\n")
    (root / "events.jsonl").write_text('{"ts":"2026-07-14T05:00:00.000Z","event":"tick_start"}\n')
    (root / ".lock/lock").touch()
    (root / ".lock/pid").write_text("4711\n")
    for folder in ("asks", "answers", "tells", "claims", "goals", "schedules"):
        (root / folder / ".dirlock").touch()


def awkward(root: Path) -> dict[str, str]:
    """Things that must not be taken: name in the directory -> a word of the reason."""
    os.symlink("/etc/passwd", root / "goals/link.md")
    os.mkfifo(root / "goals/fifo.md")
    (root / "goals/folder.md").mkdir()
    (root / "goals/big.md").write_bytes(b"x" * ((1 << 20) + 1))
    (root / "goals/two words.md").write_text("no\n")
    (root / "goals/latin.md").write_bytes(b"\xe9t\xe9\n")
    (root / "goals/empty.md").write_text(" \n")
    (root / "goals/note.txt").write_text("no goal\n")
    (root / "sensors/naked.sh").write_text("echo {}\n")
    put(root / "schedules/both.json", {"v": 1, "at": 5, "every_s": 60})
    put(root / "schedules/fast.json", {"v": 1, "every_s": 30, "anchor": 0})
    put(root / "schedules/far.json", {"v": 1, "at": 2 * START})
    (root / "schedules/garbage.json").write_text("{")
    os.symlink("roof.md", root / "reports/alias.md")
    return {
        "goals/link.md": "link", "goals/fifo.md": "regular", "goals/folder.md": "folder", "goals/big.md": "larger",
        "goals/two words.md": "names are", "goals/latin.md": "UTF-8", "goals/empty.md": "empty",
        "goals/note.txt": ".md", "sensors/naked.sh": "interpreter", "schedules/both.json": "exactly one",
        "schedules/far.json": "ten years", "schedules/fast.json": "every_s", "schedules/garbage.json": "JSON",
        "reports/alias.md": "link",
    }  # fmt: skip
