"""The five readings looop takes of itself: sys-sessions, sys-claims, sys-goals, sys-schedules and sys-asks.

Plain data in, {"signal": ..., "detail": ...} out; the pulse gathers the data and calls `publish`. A signal holds
identities and states only, because a change of it wakes the decider: ages, counters and nonces go to the detail.
What cannot be known is never shown as empty: `publish_unknown` keeps the last signal and says so in the detail.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from looop import store
from looop.clock import Stamp
from looop.errors import StateError
from looop.jsonutil import JsonError, as_object
from looop.paths import Paths

Blob = dict[str, Any]
_SESSION_DETAIL = (
    "alive", "unit", "signal", "reason", "idle_s", "uptime_s", "ask_age_s", "pending_tells", "verify_output", "result",
    "cpu_s", "memory_bytes", "memory_peak", "tasks",
)  # fmt: skip


def sessions(rows: Iterable[Mapping[str, Any]]) -> Blob:
    """From Session.to_json() rows."""
    rows = sorted(rows, key=lambda row: str(row["id"]))
    signal: list[Blob] = []
    for row in rows:
        entry = {key: row.get(key) for key in ("id", "state", "exit_code", "health")}
        if row.get("verify") in ("pass", "fail"):
            entry["verify"] = row["verify"]
        if row.get("alive") and row.get("note"):
            entry["note"] = row["note"]
        signal.append(entry)
    workers = {
        str(row["id"]): {key: _whole(row[key]) for key in _SESSION_DETAIL if row.get(key) not in (None, "")}
        for row in rows
    }
    return {"signal": signal, "detail": {"count": len(signal), "workers": workers}}


def claims(rows: Iterable[Mapping[str, Any]], now: Stamp) -> Blob:
    """From Claim.to_json() rows; a claim whose record is broken is a row with its `name` and `broken` only."""
    rows = sorted(rows, key=lambda row: str(row["name"]))
    signal: list[Blob] = []
    for row in rows:
        if row.get("broken"):
            signal.append({"name": row["name"], "broken": True})
            continue
        holder = row.get("holder") or row
        signal.append({"name": row["name"], "session": row.get("session") or "", "unit": holder.get("unit") or ""})
    ages = {str(row["name"]): {"age_s": _age(now, row["since"])} for row in rows if row.get("since") is not None}
    return {"signal": signal, "detail": {"claims": ages}}


def goals(ids: Iterable[str], activity: Mapping[str, float], now: Stamp) -> Blob:
    """Which goal was acted for when; the signal is empty, for the bodies are part of the world themselves."""
    found: Blob = {}
    for goal_id in sorted(ids):
        acted = activity.get(goal_id)
        found[goal_id] = {
            "last_acted_unix": None if acted is None else int(acted),
            "age_s": None if acted is None else _age(now, acted),
        }
    return {"signal": {}, "detail": {"goals": found}}


def schedules(readings: Mapping[str, tuple[Any, Blob]]) -> Blob:
    """From looop.schedules.readings()."""
    ordered = sorted(readings.items())
    return {"signal": {name: s for name, (s, _) in ordered}, "detail": {name: d for name, (_, d) in ordered}}


def asks(rows: Iterable[Mapping[str, Any]], now: Stamp) -> Blob:
    """Open asks: rows of {id, worker, ts, state, answer}. `pending` are those without an answer, stranded ones too.

    One that is answered but not delivered is in neither list: delivery, a moment later, then wakes nobody.
    """
    rows = sorted(rows, key=lambda row: (row["ts"], str(row["id"])))
    pending = [row["id"] for row in rows if row.get("answer") is None]
    stranded = [row["id"] for row in rows if row["state"] == "stranded"]
    detail = {
        str(row["id"]): {"worker": row["worker"], "age_s": _age(now, row["ts"]), "state": row["state"]} for row in rows
    }
    return {"signal": {"pending": pending, "stranded": stranded}, "detail": detail}


def path(paths: Paths, name: str) -> Path:
    return paths.snapshots / f"sys-{name}.json"


def publish(paths: Paths, name: str, blob: Blob) -> bool:
    """Write snapshots/sys-NAME.json unless it says so already; True if written. Raises StateError."""
    return store.write_changed(path(paths, name), store.dump_json(blob).encode())


def publish_unknown(paths: Paths, name: str) -> bool:
    """Keep the last signal and detail, marked `unknown`. With no last snapshot there is nothing to say."""
    try:
        blob = as_object(json.loads(store.read_bytes(path(paths, name)) or b"null"))
        detail = as_object(blob["detail"])
    except (JsonError, ValueError, KeyError, StateError):
        return False
    return publish(paths, name, {**blob, "detail": {**detail, "unknown": True}})


def _age(now: Stamp, wall: float) -> int:
    return int(max(0.0, now.wall - wall))


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) else value
