"""What a session is: systemd's word and its records, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from looop import clock, probes, store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import Refused, StateError
from looop.paths import Paths
from looop.sessions import fleet, records
from looop.sessions.control import Idle
from looop.systemd import journal

CONFIG = Config(stuck_after=900, session_ttl=100)
NOW = Stamp(2000.0, "b", 2000.0)
UNIT = "looop-worker-w.scope"


def session(paths: Paths, worker_id: str = "w", invocation: str = "i1", **changes: Any) -> Path:
    folder = paths.session(worker_id)
    folder.mkdir()
    started = Stamp(1000.0, "b", 1000.0)
    meta = records.Meta(worker_id, invocation, fleet.unit_name(worker_id), started, "c", "", "human", "r1")
    records.write_meta(folder, replace(meta, **changes))
    return folder


def ended(folder: Path, code: int | None = 0, signal: int | None = None, invocation: str = "i1") -> None:
    at = Stamp(1500.0, "b", 1500.0).to_json()
    store.write_json(folder / "exit.json", {"invocation": invocation, "code": code, "signal": signal, "ended": at})


def one(paths: Paths, live: dict[str, str] | None = None, **given: Any) -> fleet.Session:
    found = fleet.read(paths, CONFIG, live or {}, NOW, given.pop("waiting", {}), **given)
    assert len(found) == 1
    return found[0]


def test_a_scope_with_the_recorded_invocation_is_running(paths: Paths) -> None:
    session(paths)
    seen = one(paths, {UNIT: "i1"})
    assert (seen.state, seen.alive, seen.health, seen.uptime_s, seen.run) == ("running", True, "busy", 1000.0, "r1")
    assert seen.to_json()["started"] == "1970-01-01T00:16:40Z"


def test_it_lives_while_its_scope_does_even_with_an_exit_record(paths: Paths) -> None:
    ended(session(paths))
    assert one(paths, {UNIT: "i1"}).alive


@pytest.mark.parametrize(
    "code, number, state, name", [(0, None, "exited", ""), (3, None, "exited", ""), (None, 9, "killed", "SIGKILL")]
)
def test_the_exit_record_tells_how_it_ended(
    paths: Paths, code: int | None, number: int | None, state: str, name: str
) -> None:
    ended(session(paths), code, number)
    seen = one(paths)
    assert (seen.state, seen.exit_code, seen.signal, seen.alive, seen.health) == (state, code, name, False, "dead")
    assert seen.uptime_s == 500.0


def test_what_it_uses_is_told_while_it_lives_and_what_it_used_afterwards(paths: Paths) -> None:
    folder = session(paths)
    seen = one(paths, {UNIT: "i1"}, idle={"w": Idle(1, 1, 2.5, 4096, 3)})
    assert (seen.cpu_s, seen.memory_bytes, seen.tasks, seen.memory_peak) == (2.5, 4096, 3, None)
    wakes = probes.sessions([seen.to_json()])["signal"]
    assert wakes == probes.sessions([one(paths, {UNIT: "i1"}, idle={"w": Idle(2, 2, 9, 8192, 4)}).to_json()])["signal"]
    unknown = one(paths, {UNIT: "i1"})
    assert (unknown.cpu_s, unknown.memory_bytes, unknown.tasks) == (None, None, None)
    ended(folder)
    assert (one(paths).cpu_s, one(paths).memory_peak) == (None, None)
    record = json.loads((folder / "exit.json").read_text()) | {"cpu_s": 3.5, "memory_peak": 9000}
    store.write_json(folder / "exit.json", record)
    seen = one(paths)
    assert (seen.cpu_s, seen.memory_peak, seen.memory_bytes, seen.tasks) == (3.5, 9000, None, None)


def test_a_scope_that_went_without_a_record_was_killed(paths: Paths) -> None:
    folder = session(paths)
    ended(folder, invocation="another generation")
    assert one(paths).state == "killed"
    assert fleet.record_verdict(paths, UNIT, "i1", "oom-kill", NOW)
    assert not fleet.record_verdict(paths, UNIT, "i1", "again", NOW)
    assert one(paths).result == "oom-kill"
    assert fleet.how_ended(one(paths)) == "gone without an exit record (oom-kill)"


def test_a_verdict_on_an_earlier_generation_changes_nothing(paths: Paths) -> None:
    session(paths)
    assert not fleet.record_verdict(paths, UNIT, "older", "timeout", NOW)
    assert not fleet.record_verdict(paths, "looop-hold-1.scope", "x", "timeout", NOW)
    assert one(paths, {UNIT: "i1"}).result == ""


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"id": 1}', "\xff"])
def test_a_record_that_cannot_be_read_never_hides_a_live_scope(paths: Paths, content: str | None) -> None:
    paths.session("w").mkdir()
    if content is not None:
        (paths.session("w") / "meta.json").write_text(content, encoding="latin-1")
    assert (one(paths).state, one(paths).alive) == ("unknown", False)
    seen = one(paths, {UNIT: "i1"})
    assert (seen.state, seen.alive, seen.health) == ("unknown", True, "busy") and seen.problem
    assert fleet.prune(paths, CONFIG, {}, NOW) == []


def test_a_scope_without_any_record_is_listed(paths: Paths) -> None:
    seen = one(paths, {UNIT: "i9", "looop-shell-1.service": "x"})
    assert (seen.id, seen.state, seen.alive, seen.invocation) == ("w", "unknown", True, "i9")


def test_a_scope_of_another_generation_is_not_taken_for_this_one(paths: Paths) -> None:
    ended(session(paths))
    seen = one(paths, {UNIT: "i2"})
    assert (seen.state, seen.alive, seen.exit_code) == ("unknown", True, None)


def test_a_start_that_was_cut_short_is_dead(paths: Paths) -> None:
    session(paths, invocation="")
    seen = one(paths)
    assert (seen.state, seen.alive) == ("killed", False)
    assert fleet.how_ended(seen) == "never started" and fleet.run_of(paths, "w") == ""


def test_an_unreadable_sessions_folder_is_an_error_not_an_empty_fleet(paths: Paths) -> None:
    paths.sessions.rmdir()
    paths.sessions.write_text("")
    with pytest.raises(StateError):
        fleet.read(paths, CONFIG, {}, NOW, {})


@pytest.mark.parametrize(
    "idle, waiting, health",
    [
        (Idle(1000, 1000), {}, "stuck"),
        (Idle(1000, 10), {}, "busy"),
        (Idle(10, 1000), {}, "busy"),
        (Idle(1000, None), {}, "busy"),
        (Idle(), {}, "busy"),
        (Idle(1000, 1000), {"w": 5.0}, "waiting-ask"),
    ],
)
def test_health_takes_the_first_that_holds(paths: Paths, idle: Idle, waiting: dict[str, float], health: str) -> None:
    session(paths)
    assert one(paths, {UNIT: "i1"}, waiting=waiting, idle={"w": idle}).health == health


def test_stuck_can_be_turned_off(paths: Paths) -> None:
    session(paths)
    idle = {"w": Idle(1e6, 1e6)}
    assert fleet.read(paths, Config(stuck_after=0), {UNIT: "i1"}, NOW, {}, idle)[0].health == "busy"


def test_a_note_counts_while_the_worker_lives(paths: Paths) -> None:
    with pytest.raises(Refused):
        fleet.set_note(paths, "w", "x")
    session(paths)
    fleet.set_note(paths, "w", "")
    assert one(paths, {UNIT: "i1"}).note == fleet.DEFAULT_NOTE
    fleet.set_note(paths, "w", "look\nhere")
    assert one(paths, {UNIT: "i1"}).note == "look here" and one(paths).note == ""
    fleet.clear_note(paths, "w")
    fleet.clear_note(paths, "w")
    assert one(paths, {UNIT: "i1"}).note == ""


def test_verify_is_of_this_generation(paths: Paths) -> None:
    folder = session(paths, verify="true")
    records.write_verdict(folder, records.Verdict("older", "pass", 1, 0, "", NOW))
    assert one(paths).verify == "pending"
    records.write_verdict(folder, records.Verdict("i1", "fail", 3, 1, "why", NOW))
    assert (one(paths).verify, one(paths).verify_output) == ("fail", "why")


def test_retention_counts_from_the_recorded_end(paths: Paths) -> None:
    ended(session(paths))
    (paths.prompts / "w.md").write_text("prompt")
    assert fleet.prune(paths, CONFIG, {UNIT: "i1"}, NOW) == []
    assert fleet.prune(paths, CONFIG, {}, Stamp(1599, "b", 1599)) == []
    assert fleet.prune(paths, CONFIG, {}, Stamp(1600, "b", 1600)) == ["w"]
    assert not paths.session("w").exists() and not (paths.prompts / "w.md").exists()


def test_retention_of_an_end_nobody_recorded_starts_when_it_is_first_seen(paths: Paths) -> None:
    session(paths)
    assert fleet.prune(paths, CONFIG, {}, NOW) == []
    assert fleet.prune(paths, CONFIG, {}, Stamp(2101, "b", 2101)) == ["w"]


def test_what_still_waits_to_be_verified_stays(paths: Paths) -> None:
    ended(session(paths, verify="true"))
    assert fleet.prune(paths, Config(session_ttl=0), {}, NOW) == []


def test_an_earlier_generation_is_kept_as_long_as_any_other(paths: Paths) -> None:
    ended(session(paths))
    (paths.prompts / "w.md").write_text("prompt")
    closed = records.close_generation(paths, "w", NOW)
    assert closed is not None and (closed / "prompt.md").read_text() == "prompt"
    assert fleet.read(paths, CONFIG, {}, NOW, {}) == []
    assert fleet.prune(paths, CONFIG, {}, Stamp(2099, "b", 2099)) == [] and closed.exists()
    assert fleet.prune(paths, CONFIG, {}, Stamp(2100, "b", 2100)) == ["w.i1"] and not closed.exists()


def test_close_reports_once(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(session(paths), 3)
    told: list[str] = []
    monkeypatch.setattr(journal, "emit", lambda event, **fields: told.append(f"{event} {fields['text']}"))
    for _ in range(2):
        fleet.close(paths, one(paths), "", clock.now())
    assert told == ["worker_ended w: exited 3"]
