"""One page says what is known of a worker or a run, and says unknown where nothing is."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from looop import claims, ctl, mailbox, runs, store, why
from looop.clock import Stamp, boot_id, now
from looop.errors import Refused, Unavailable
from looop.paths import Paths
from looop.sessions import contract, records
from looop.systemd import journal
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit

INVOCATION, OTHER = "a" * 32, "b" * 32
STARTED = Stamp(1_700_000_000.0, "0" * 32, 100.0)
RUN = "beat-20231114-221320"


class FakeManager:
    """What lives, by unit; `down`: the bus is."""

    live_units: dict[str, str] = {}
    down = False
    scope = "user"

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def __enter__(self) -> "FakeManager":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def live(self, patterns: Sequence[str]) -> dict[str, str]:
        if self.down:
            raise Unavailable("cannot reach systemd: gone")
        return self.live_units


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> Iterator[None]:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    monkeypatch.setenv("LOOOP_CONFIG", str(paths.config))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(paths.runtime.parent))
    monkeypatch.setattr(FakeManager, "live_units", {})
    monkeypatch.setattr(FakeManager, "down", False)
    monkeypatch.setattr(why, "Manager", FakeManager)
    monkeypatch.setattr(journal, "read", read_journal)
    yield


def read_journal(since: float | None = None, match: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    [(field, value)] = (match or {}).items()
    yield {"ts": STARTED.wall, "event": "worker_started", "message": f"about {field}={value}"}


def session(paths: Paths, worker: str = "w1", invocation: str = INVOCATION, verify: str = "") -> Path:
    """A worker that a rule started."""
    folder = paths.sessions / worker
    folder.mkdir()
    meta = records.Meta(worker, invocation, worker_unit(worker), STARTED, "agent x", verify, "rules", RUN)
    records.write_meta(folder, meta)
    (folder / "output.log").write_bytes(b"\x1b[31mred\x1b[m\r\nhalf\rwhole\r\n\x07last\r\n")
    (paths.prompts / f"{worker}.md").write_text(contract.brief(worker, "Mend the roof.\nThen rest."))
    return folder


def ended(folder: Path, code: int | None = 0, signal: int | None = None, result: str = "success") -> None:
    at = Stamp(STARTED.wall + 60, STARTED.boot, 160.0).to_json()
    end: dict[str, Any] = {"v": 1, "invocation": INVOCATION, "ended": at}
    used: dict[str, Any] = {"cpu_s": 1.5, "memory_peak": 3 << 20}
    store.write_json(folder / "exit.json", {**end, **used, "code": code, "signal": signal})
    store.write_json(folder / "ended.json", {**end, "result": result})


def record(paths: Paths, run: str = RUN, **changes: Any) -> None:
    runs.folder(paths, run).mkdir()
    values: dict[str, Any] = {"state": "committed", "source": "rules", "at": STARTED}
    values |= {"rule": "roof", "journal": "it rains"}
    runs.save(paths, runs.Record(run, **values | changes))


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert ctl.main(["why", *words]) == 0
    return capsys.readouterr().out


def page(capsys: pytest.CaptureFixture[str], what: str, name: str) -> dict[str, Any]:
    document = json.loads(show(capsys, name, "--json"))
    [found] = document[what]
    assert isinstance(found, dict)
    return found


def test_a_dead_worker_has_its_whole_story(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    folder = session(paths, verify="test -e roof")
    ended(folder, code=None, signal=9, result="oom-kill")
    verdict = records.Verdict(INVOCATION, "fail", 3, 1, "no roof\n", STARTED)
    records.write_verdict(folder, verdict)
    record(paths, action={"action": "start_worker", "id": "w1"})
    holder = Holder(worker_unit("w1"), "user", INVOCATION, boot_id())
    asked = mailbox.raise_ask(paths, "w1", "Which roof?", now().wall, holder=holder)
    mailbox.answer(paths, asked.id, "the red one", now().wall)
    claims.take(paths, "ladder", holder, "w1", lambda h: False, now().wall)
    found = page(capsys, "workers", "w1")
    assert (found["state"], found["signal"], found["result"]) == ("killed", "SIGKILL", "oom-kill")
    assert found["cpu_s"] == 1.5 and found["memory_peak"] == 3 << 20
    assert found["started_by"] == {"source": "rules", "run": RUN, "rule": "roof", "reason": "it rains"}
    assert found["verify"]["state"] == "fail" and found["verify"]["output"] == "no roof\n"
    assert [(ask["id"], ask["answer"]) for ask in found["asks"]] == [("w1-1", "the red one")]
    assert [claim["name"] for claim in found["claims"]] == ["ladder"]
    assert found["prompt"]["head"] == ["Mend the roof.", "Then rest."], "the task, not the contract above it"
    assert found["output"]["tail"] == ["red", "whole", "last"]
    assert [move["run"] for move in found["moves"]] == [RUN]
    assert found["events"][0]["message"] == "about LOOOP_SESSION=w1"
    text = show(capsys, "w1")
    for piece in (
        "memory ran out", "the rule roof", "it rains", "3.0 MB", "1.50 s", "Which roof? -> the red one", "ladder",
        "Mend the roof.", "whole", "no roof", "test -e roof",
    ):  # fmt: skip
        assert piece in text, piece


def test_nothing_it_prints_drives_the_terminal(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    ended(session(paths))
    (paths.prompts / "w1.md").write_text("\x1b]0;owned\x07\x1b[2Jtask\n")
    record(paths, journal="a\x1b[2Jb\nforged line")
    text = show(capsys, "w1")
    assert all(char.isprintable() or char == "\n" for char in text)
    assert not any(line.startswith("forged") for line in text.splitlines())


def test_what_another_generation_did_is_not_told_of_this_one(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    ended(session(paths))
    first = records.close_generation(paths, "w1", Stamp(STARTED.wall + 100, STARTED.boot, 200.0))
    assert first is not None
    session(paths, invocation=OTHER)
    FakeManager.live_units = {worker_unit("w1"): OTHER}
    for invocation in (INVOCATION, OTHER):
        holder = Holder(worker_unit("w1"), "user", invocation, boot_id())
        mailbox.raise_ask(paths, "w1", f"I am {invocation[0]}", now().wall, holder=holder)
    living, dead = page(capsys, "workers", "w1"), page(capsys, "workers", first.name[:6])
    assert living["alive"] and not dead["alive"] and dead["id"] == "w1"
    assert [ask["prompt"] for ask in living["asks"]] == ["I am b"]
    assert [ask["prompt"] for ask in dead["asks"]] == ["I am a"]
    assert living["earlier"] == [first.name] and dead["earlier"] == []
    assert dead["exit_code"] == 0 and living["exit_code"] is None
    assert dead["prompt"]["head"] == ["Mend the roof.", "Then rest."]


def test_unknown_is_said_and_never_dead(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    folder = session(paths)
    FakeManager.down = True
    found = page(capsys, "workers", "w1")
    assert found["alive"] is None and found["state"] == "unknown" and "cannot reach systemd" in found["problem"]
    assert "unknown" in show(capsys, "w1")
    ended(folder, code=3)
    assert page(capsys, "workers", "w1")["exit_code"] == 3, "its own exit record is proof without systemd"


def test_a_broken_record_hides_nothing_else(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    folder = session(paths)
    (folder / "meta.json").write_text("{")
    found = page(capsys, "workers", "w1")
    assert found["state"] == "unknown" and "meta.json" in found["problem"] and found["output"]["tail"][-1] == "last"
    assert found["started_by"]["source"] == "unknown"
    (paths.prompts / "w1.md").unlink()
    (folder / "output.log").unlink()
    assert "unknown" in show(capsys, "w1")


def test_a_run_says_what_had_changed_and_what_came_of_it(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    record(
        paths, state="failed", source="decider", rule="", error="action: missing", journal="",
        action={"action": "start_worker", "id": "w1"},
    )  # fmt: skip
    folder = runs.folder(paths, RUN)
    store.write_json(folder / "world.json", {"forced": "a follow-up is due", "changed": ["~ sensor-disk: 1 -> 2"]})
    (folder / "prompt.md").write_text("Decide.\n")
    (folder / "output.log").write_text("thinking\nhm\n")
    runs.note_usage(paths, RUN, "decide", {"how": "exited 3", "cpu_s": 0.25, "memory_peak": None})
    runs.pay(paths, RUN, STARTED, 0.25, "reported")
    runs.pay(paths, f"{RUN}-2", STARTED, 9.0, "reported")
    store.append_line(paths.journal, f"- 2023-11-14 22:13 it rains [{RUN}]")
    store.append_line(paths.journal, f"- 2023-11-14 22:13 another [{RUN}-2]")
    found = page(capsys, "runs", RUN)
    assert found["why"]["forced"] == "a follow-up is due" and found["why"]["changed"] == ["~ sensor-disk: 1 -> 2"]
    assert [row["cost_usd"] for row in found["cost"]] == [0.25] and len(found["lines"]) == 1
    assert found["error"] == "action: missing" and found["worker"] == "w1"
    text = show(capsys, RUN)
    for piece in (
        "a follow-up is due", "sensor-disk", "action: missing", "thinking", "0.250000 USD", "exited 3", "Decide.",
        "memory peak unknown",
    ):  # fmt: skip
        assert piece in text, piece


@pytest.mark.parametrize(("folder", "asked"), [("w1", "w1"), (".old/w1.abc", "w1.abc"), (".old/w1", "w1")])
def test_a_worker_whose_record_cannot_be_read_is_unknown(
    paths: Paths, capsys: pytest.CaptureFixture[str], folder: str, asked: str
) -> None:
    (paths.sessions / folder).mkdir(parents=True)
    (paths.sessions / folder / "meta.json").write_text("{")
    os.mkfifo(paths.sessions / folder / "output.log")
    page = show(capsys, asked).splitlines()
    assert page[0] == "worker      w1  unknown"
    assert {"started     unknown", "ended       unknown", "output      none"} <= set(page)
    assert "unit        looop-worker-w1.scope  unknown" in page


def test_a_run_without_records_is_unknown_and_not_refused(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    runs.folder(paths, RUN).mkdir()
    text = show(capsys, RUN)
    assert "unknown" in text and "it left no record" in text
    (runs.folder(paths, RUN) / "record.json").write_text("[]")
    assert "cannot read" in show(capsys, RUN)


def test_a_name_that_is_both_shows_both_and_a_prefix_chooses(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    ended(session(paths, RUN))
    record(paths)

    def kinds(name: str) -> tuple[int, int]:
        document = json.loads(show(capsys, name, "--json"))
        return len(document["workers"]), len(document["runs"])

    assert kinds(RUN) == (1, 1) and kinds(f"worker:{RUN}") == (1, 0) and kinds(f"run:{RUN}") == (0, 1)


def test_an_unknown_id_is_refused_with_what_is_near(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    session(paths, "repair-disk")
    assert ctl.main(["why", "repair-dusk"]) == 1
    assert "near: repair-disk" in capsys.readouterr().err
    for name in ("", "../goals", "worker:", "run:repair-disk"):
        with pytest.raises(Refused):
            why.find(paths, name)
