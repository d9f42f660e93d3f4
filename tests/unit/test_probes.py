"""The five readings of looop itself: identities and states wake, ages and counters do not."""

import json
from typing import Any

from looop import probes
from looop.clock import Stamp
from looop.paths import Paths

NOW = Stamp(1_000_000.0, "b" * 32, 5000.0)
LATER = Stamp(1_000_500.0, "b" * 32, 5500.0)
SESSION = {
    "id": "w", "state": "running", "alive": True, "exit_code": None, "health": "busy", "unit": "looop-worker-w.scope",
    "invocation": "i", "idle_s": 1.5, "uptime_s": 9.0, "ask_age_s": None, "verify": "", "verify_output": "",
    "note": "", "result": "",
}  # fmt: skip


def test_sessions_wake_by_state_not_by_age() -> None:
    blob = probes.sessions([SESSION, SESSION | {"id": "a"}])
    assert [row["id"] for row in blob["signal"]] == ["a", "w"]
    assert blob["signal"][1] == {"id": "w", "state": "running", "exit_code": None, "health": "busy"}
    older = probes.sessions([SESSION | {"idle_s": 400.0, "uptime_s": 999.0, "invocation": "j"}, SESSION | {"id": "a"}])
    assert older["signal"] == blob["signal"] and older["detail"] != blob["detail"]


def test_a_verdict_and_a_live_note_wake_a_pending_one_does_not() -> None:
    def signal(**more: Any) -> Any:
        return probes.sessions([SESSION | more])["signal"][0]

    assert "verify" not in signal(verify="pending")
    assert signal(verify="fail")["verify"] == "fail"
    assert signal(note="stuck on auth")["note"] == "stuck on auth"
    assert "note" not in signal(note="stuck on auth", alive=False)


def test_claims_wake_by_name_session_and_unit_only() -> None:
    row = {"name": "repo", "session": "w", "unit": "u.scope", "invocation": "i", "since": 999_000.0}
    again = row | {"invocation": "j", "since": 999_900.0, "nonce": "n"}
    assert probes.claims([row], NOW)["signal"] == probes.claims([again], NOW)["signal"]
    assert probes.claims([row], NOW)["signal"] == [{"name": "repo", "session": "w", "unit": "u.scope"}]
    nested = {"name": "repo", "session": "w", "holder": {"unit": "u.scope"}, "since": 999_000.0}
    assert probes.claims([nested], NOW) == probes.claims([row], NOW)
    assert probes.claims([{"name": "b", "broken": True}], NOW)["signal"] == [{"name": "b", "broken": True}]


def test_goals_never_wake() -> None:
    blob = probes.goals(["b", "a"], {"a": 999_000.0, "gone": 1.0}, NOW)
    assert blob["signal"] == {}
    assert blob["detail"]["goals"] == {
        "a": {"last_acted_unix": 999_000, "age_s": 1000},
        "b": {"last_acted_unix": None, "age_s": None},
    }


def test_asks_wake_when_raised_answered_or_stranded() -> None:
    ask: probes.Blob = {"id": "w-1", "worker": "w", "ts": 999_990.0, "state": "pending"}
    first: probes.Blob = {"id": "a-1", "worker": "a", "ts": 999_000.0, "state": "stranded"}
    blob = probes.asks([ask, first], NOW)
    assert blob["signal"] == {"pending": ["a-1", "w-1"], "stranded": ["a-1"]}
    assert probes.asks([ask, first], LATER)["signal"] == blob["signal"]
    answered = {**ask, "state": "answered", "answer": "yes"}
    gone = {**first, "answer": "too late"}
    assert probes.asks([answered, gone], NOW)["signal"] == {"pending": [], "stranded": ["a-1"]}


def test_schedules_keep_signal_and_detail_apart() -> None:
    blob = probes.schedules({"x": ("due", {"due_in_s": 0}), "a": ({"period": 2}, {"due_in_s": 9})})
    assert blob == {"signal": {"a": {"period": 2}, "x": "due"}, "detail": {"a": {"due_in_s": 9}, "x": {"due_in_s": 0}}}


def test_the_unknown_keeps_its_last_signal(paths: Paths) -> None:
    assert not probes.publish_unknown(paths, "sessions")
    blob = probes.sessions([SESSION])
    assert probes.publish(paths, "sessions", blob) and not probes.publish(paths, "sessions", blob)
    assert probes.publish_unknown(paths, "sessions")
    seen = json.loads((paths.snapshots / "sys-sessions.json").read_text())
    assert seen["signal"] == blob["signal"] and seen["detail"]["unknown"] is True
    assert probes.publish(paths, "sessions", blob)
