"""Everything `looopctl status` tells, as one JSON document. Reads only, and works with no pulse.

null stands for what could not be learned, and `trouble` says why.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from looop import guards, notifications, nudges, runs, schedules, store
from looop.clock import Stamp, now
from looop.ctl.command import Context
from looop.ctl.survey import Survey, snapshots, survey
from looop.errors import LooopError, StateError
from looop.instants import END
from looop.jsonutil import JsonError, get_bool, get_int, get_num, get_str
from looop.systemd.manager import Manager

TIMERS = ("looop-beat.timer", "looop-nudge@*.timer", "looop-schedule@*.timer", "looop-notify@*.timer")
BEAT = TIMERS[0]
UNCHANGED = "the world is unchanged"
T = TypeVar("T")


def overview(context: Context) -> dict[str, Any]:
    """The status. `summary` is the whole of it in one line."""
    at, found = now(), survey(context)
    trouble = list(found.trouble)

    def known(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except LooopError as error:
            trouble.append(str(error))
            return None

    last = known(lambda: last_beat(context))
    pending = known(timers)
    guard = known(lambda: guard_state(context, at))
    status = {
        "v": 1,
        "summary": "",
        "pulse": found.pulse,
        "pulse_alive": found.pulse_alive,
        "doing": found.status,
        "last_beat": last,
        "idle": idle(found, last),
        "next_beat": (pending or {}).get(BEAT),
        "timers": pending,
        "schedules": known(lambda: schedule_rows(context, at)),
        "follow_ups": known(lambda: follow_ups(context, at)),
        "workers": None if found.sessions is None else [session.to_json() for session in found.sessions],
        "asks": found.asks,
        "money": known(lambda: money(context)),
        "decides": guard and decides(context, guard, at),
        "sensors": sensors(context, guard),
        "notifications": notifications.problems(context.paths),
        "interrupted": known(lambda: interrupted(context)),
        "trouble": trouble,
    }
    status["trouble"] = list(dict.fromkeys(trouble))
    return status | {"summary": summary(status)}


def last_beat(context: Context) -> dict[str, Any] | None:
    """What the pulse left about its last beat; None before the first one. Raises StateError."""
    path = context.paths.last_beat
    obj = store.read_json(path)
    try:
        return None if obj is None else {
            "number": get_int(obj, "number"), "started": _instant(obj, "started"), "ended": _instant(obj, "ended"),
            "outcome": get_str(obj, "outcome"), "acted": get_bool(obj, "acted"), "forced": get_str(obj, "forced"),
            "why": get_str(obj, "why"), "since": _instant(obj, "since"),
        }  # fmt: skip
    except JsonError as error:
        raise StateError(f"cannot use {path}: {error}") from error


def _instant(obj: dict[str, Any], key: str) -> float:
    value = get_num(obj, key)
    if not 0 <= value < END:
        raise JsonError(f"{key}: expected Unix seconds")
    return value


def timers() -> dict[str, float | None]:
    """Pending timers and when they fire next (Unix seconds). Raises Unavailable."""
    with Manager("user") as user:
        found = user.list_units(TIMERS)
        return {name: user.next_elapse(name) for name, unit in sorted(found.items()) if unit.alive}


def idle(found: Survey, last: dict[str, Any] | None) -> dict[str, Any] | None:
    """Why nothing is being decided and since when; None while something is, or when there is no pulse."""
    if not found.pulse_alive or not found.status.startswith("idle"):
        return None
    said = found.status.removeprefix("idle: ").partition("; ")[0]
    return {"why": last and last["why"] or said, "since": last and last["since"]}


def schedule_rows(context: Context, at: Stamp) -> list[dict[str, Any]]:
    """Each schedule as the decider sees it; `looopctl schedule list --json` says more. Raises StateError."""
    return [{"name": name, **detail} for name, (_, detail) in schedules.readings(context.paths, at).items()]


def follow_ups(context: Context, at: Stamp) -> list[dict[str, Any]]:
    """Beats that will decide whatever the world is then, by the clock of this boot. Raises StateError."""
    return [{"name": name, "at": at.wall + left} for name, left in nudges.pending(context.paths, at).items()]


def money(context: Context) -> dict[str, Any]:
    """Money since local midnight. Raises StateError."""
    today = time.localtime()
    midnight = time.mktime((today.tm_year, today.tm_mon, today.tm_mday, 0, 0, 0, 0, 0, -1))
    spent = guards.spent_since(runs.ledger(context.paths), midnight)
    return {"today_usd": spent.usd, "max_daily_usd": context.config.max_daily_usd, "bad_rows": list(spent.bad)}


def guard_state(context: Context, at: Stamp) -> guards.GuardState:
    """What the guards remember. Raises StateError."""
    path = context.paths.guards
    try:
        obj = store.read_json(path)
        return guards.GuardState() if obj is None else guards.GuardState.from_json(obj, at)
    except JsonError as error:
        raise StateError(f"cannot use {path}: {error}") from error


def decides(context: Context, guard: guards.GuardState, at: Stamp) -> dict[str, Any]:
    """Decider runs of the last hour, and what failed since the last success."""
    recent = sum(attempt.age(at) < guards.HOUR_S for attempt in guard.attempts)
    failure = guard.failure if guard.total else None
    return {
        "last_hour": recent,
        "max_per_hour": context.config.max_decides_per_hour,
        "failures": guard.total,
        "last_failure": failure and {"run": failure.run, "error": failure.error, "at": at.wall - failure.at.age(at)},
    }


def sensors(context: Context, guard: guards.GuardState | None) -> dict[str, Any]:
    """The sensors whose last run failed, and the readings that change all the time."""
    failing = []
    for name, blob in snapshots(context).items():
        signal, detail = (blob.get("signal"), blob.get("detail")) if isinstance(blob, dict) else (None, None)
        if name.startswith("sensor-") and isinstance(signal, dict) and "error" in signal:
            message = str(detail.get("message", "")) if isinstance(detail, dict) else ""
            reason = signal.get("reason") or signal["error"]
            failing.append({"name": name.removeprefix("sensor-"), "reason": str(reason), "message": message})
    flapping = None if guard is None else sorted(
        name.removeprefix("sensor-") for name, flap in guard.flaps.items() if flap.warned
    )  # fmt: skip
    return {"failing": failing, "flapping": flapping}


def interrupted(context: Context) -> list[dict[str, Any]]:
    """Moves that were cut short. Raises StateError."""
    if not context.paths.runs.exists():
        return []
    cut, _ = runs.in_states(context.paths, "interrupted")
    return [{"run": run.run, "error": run.error, "seen": run.seen} for run in cut]


def summary(status: dict[str, Any]) -> str:
    """One line that says whether anything wants attention."""
    said = {True: "looop is running", None: "nobody knows whether looop is running"}
    other = {"failed": "looop has failed", "activating": "looop is starting", "deactivating": "looop is stopping"}
    words = [said.get(status["pulse_alive"]) or other.get(status["pulse"]) or "looop is stopped"]
    if status["workers"] is None:
        words.append("workers unknown")
    else:
        count = sum(bool(worker["alive"]) for worker in status["workers"])
        words.append(f"{count} worker" + ("" if count == 1 else "s"))
    asks = [ask["state"] for ask in status["asks"] or ()]
    waiting = sum(state in ("pending", "unknown", "broken") for state in asks)
    if waiting:
        words.append(f"{waiting} ask{'s' if waiting == 1 else ''} you")
    if "stranded" in asks:
        words.append(f"{asks.count('stranded')} stranded")
    failing = len(status["sensors"]["failing"])
    if failing:
        words.append(f"{failing} sensor{'' if failing == 1 else 's'} failing")
    if status["idle"]:
        words.append(f"idle: {reason(status['idle'])}")
    elif status["pulse_alive"] and status["doing"]:
        words.append(status["doing"].partition("; ")[0])
    return ", ".join(words)


def reason(why: dict[str, Any]) -> str:
    """Why it is idle, and since when."""
    said = "nothing changed" if why["why"] == UNCHANGED else str(why["why"])
    if why["since"] is None:
        return said
    then, today = time.localtime(why["since"]), time.localtime()
    return f"{said} since " + time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)
