"""The systemd journal: every event looop writes, in one table, and reading them back.

An entry has a constant MESSAGE, a MESSAGE_ID with a catalog text, a PRIORITY and LOOOP_* fields. Event names are
fixed: scripts match on LOOOP_EVENT=. Everything is written by default (three debug entries a beat are the price
of `looopctl events -f` showing each one); SYSTEMD_LOG_LEVEL=info or stricter drops the rest. Used by every
process. Writing never raises and never waits.
"""

import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

IDENTIFIER = "looop"
_SOCKET = "/run/systemd/journal/socket"
_LEVELS = {"emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
_FIELD_MAX = 4096


@dataclass(frozen=True)
class Event:
    """One kind of entry."""

    id: str
    priority: int
    message: str


EVENTS: dict[str, Event] = {
    "pulse_started": Event("a38c623c58ac492dbb11d6d867ba981b", 6, "Pulse started"),
    "pulse_stopped": Event("89cfceb1eb1748eda824e9e64a20cc7c", 6, "Pulse stopped"),
    "pulse_failed": Event("0f605f0f497b4c409569f6c079022f83", 3, "Pulse failed"),
    "pulse_reloaded": Event("df15acf492484c7082afa3c033b195bd", 6, "Settings read again"),
    "config_error": Event("f3e638ced2c247ea88cb755bc4def533", 3, "Settings cannot be used"),
    "tick_start": Event("d4ab10b31d444edfb5c45b19d9f61b61", 7, "Beat started"),
    "sense_done": Event("91ce41650d80484498c56ad8ab27d1be", 7, "Sensing done"),
    "world_unchanged": Event("fc8f970aa0644f6d8162d7a1ef6851c3", 7, "World unchanged"),
    "noop_revisit": Event("178a11a653824f6fbc77a76939b5eb44", 6, "An old noop is decided again"),
    "tick_backoff": Event("798d53d7b7d444ba902c377ac0435644", 5, "Waiting after failures"),
    "backoff_cut": Event("24b8ad1586be4c209e21c923785c112d", 6, "No longer waiting"),
    "tick_capped": Event("8b466bce0acf4a6f96648559ef4b7328", 4, "Hourly cap of decisions reached"),
    "decide_start": Event("c136ba698ebe4d8cb54904a8f67c6d19", 6, "Deciding"),
    "decided": Event("4e4c12e6dc0f4e83b76a169a99f6eed4", 6, "Decided"),
    "moved": Event("20a0f46faebe4f089f5a32c82949e95d", 5, "Move made"),
    "tick_failed": Event("30aed93015ca4124bb4a2ca4ad7aa6b3", 4, "Deciding or moving failed"),
    "tick_interrupted": Event("e29892603c6a4707a5a08e18dbb0367d", 4, "A move was interrupted"),
    "beat_failed": Event("52193ed0e97046dda84221f2a77f89b9", 4, "Beat failed"),
    "sensor_failed": Event("818375db67894e22803a7f593a8e73f9", 4, "A sensor failed"),
    "sense_degraded": Event("d0fb87f620bf4de5b2dc480cb940b910", 4, "Sensing was not complete"),
    "sensor_flapping": Event("96ff819b2ccf42b0a964b1d3c11af485", 4, "A sensor is flapping"),
    "fleet_unknown": Event("d16372c6d1e0419383be3782c51b2c27", 4, "The workers cannot be listed"),
    "guard_degraded": Event("b7eb8d311b25471894b72d92089969b8", 4, "A guard's memory was unreadable"),
    "state_degraded": Event("30edc5fed6de446fb6c40fbd628114e3", 4, "A state file is bad"),
    "journal_degraded": Event("776922f8e6f04402a4fdd79e5df12ca6", 4, "The audit journal could not be written"),
    "budget_exceeded": Event("bcad7ab9ba3a4fbd9fe7ef50d500df93", 4, "Daily budget spent"),
    "budget_unmetered": Event("35aba185f56147cba94806ad0db44b56", 4, "Deciders do not say what they cost"),
    "rule_broken": Event("1b383acbfe424cc786f2084c80b087f7", 4, "A rule cannot be used"),
    "worker_started": Event("25ad3661f7d34cb98a5e8b50c710d59b", 5, "Worker started"),
    "worker_ended": Event("419ce0af4ade4da5b49edecb48a1c5b8", 5, "Worker ended"),
    "worker_killed": Event("add38068feea4c85ad741aa4551f7202", 4, "Worker killed"),
    "worker_verified": Event("05fb8631e0be46f38c823042dbbe468f", 5, "Worker's result verified"),
    "worker_verify_deferred": Event("01d02b5a1825498f9f78ba0647054055", 6, "Verifying is put off"),
    "stopped_workers": Event("849bb0faaed44ee19980c4b8ad219f9b", 5, "Workers stopped"),
    "attached": Event("3a2cb0cc1e9647648abde368cf2b85dd", 5, "A terminal was attached for writing"),
    "flagged": Event("42b0d484b0a44149aa0d83145cefd828", 5, "Worker flagged"),
    "claim_taken": Event("7108d21896ca4575ad59b9488684efac", 6, "Claim taken"),
    "claim_released": Event("ba994410178e4b2a86e0ca4bb92f08c4", 6, "Claim released"),
    "claim_reaped": Event("1a68c3bc2aef4f699d1f52c609bc2110", 5, "Claim reaped"),
    "claim_reap_skipped": Event("2ef400664cdf4a99aa75ac50f6a2f224", 4, "A claim's holder cannot be judged"),
    "ask_raised": Event("adb4c05340864e959a316cd61da6bf81", 5, "A worker asks"),
    "ask_answered": Event("d570cc2e5a5d4906a028cdcb2f2e8bb8", 5, "Ask answered"),
    "ask_delivered": Event("f0310ac51f1e459e8d50a4188d1ed30a", 6, "Answer delivered"),
    "ask_expired": Event("b229dfa9454947448056fdbbd78ef760", 5, "Ask expired"),
    "ask_redispatched": Event("2ac9f681bd5f408eaeb1bd859150b851", 5, "Ask redispatched"),
    "ask_withdrawn": Event("3ee6a866c0314da0adb9e93a2240cbd8", 5, "Ask withdrawn"),
    "tell_queued": Event("544be8b3af3b48e19e54ab900efec4fb", 6, "Message left for a worker"),
    "schedule_fired": Event("9edbb5b144484d17a9471c801e7bab0d", 6, "Schedule fired"),
    "notified": Event("1f475c04aeff49e7955e3d433673ce7f", 6, "You were told"),
    "notify_failed": Event("40ce73cfa44042b7b9512fa7c69d18c9", 4, "A notification was not delivered"),
    "ask_escalated": Event("5a251bc408d9486c8fabc0de85948f95", 5, "An ask still waits"),
    "button_pressed": Event("b3bd6db6ca1e408cb4bdcc31f5fa0845", 6, "A button was pressed"),
    "notify": Event("f974940bb938480c9e49bca8a72f9797", 5, "Message for you"),
    "bus_lost": Event("d4d147e6082d42ba9fb360dec1617d4a", 4, "The bus to systemd is gone"),
    "bus_back": Event("89749ce479d74ce397deb55a4489f93a", 5, "The bus to systemd is back"),
    "sandbox_measured": Event("21038b33097a4b5fae8858c458a5a8d0", 6, "Confinement measured"),
    "sandbox_missing": Event("5ae45082311e4b8f8f8182e132c32389", 3, "This host does not confine"),
}

_context: ContextVar[Mapping[str, object]] = ContextVar("fields", default={})


@contextlib.contextmanager
def context(**fields: object) -> Iterator[None]:
    """Add these fields to every entry written inside."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def emit(event: str, *, text: str = "", trace: bool = False, **fields: object) -> None:
    """Write one entry; an unknown event is a KeyError. Fields that are None or "" are left out.

    `session="w1"` becomes LOOOP_SESSION=w1. `text` is what a person following the journal wants to see beside the
    constant message; it is appended to MESSAGE, on one line, and is LOOOP_DETAIL or, for a warning or worse,
    LOOOP_ERROR where no such field is given: that is what the catalog texts quote. `trace` adds the traceback of
    the exception being handled.
    """
    kind = EVENTS[event]
    if kind.priority > max_level():
        return
    values = {name.upper(): _plain(value) for name, value in {**_context.get(), **fields}.items()}
    message = kind.message
    if text:
        message += ": " + one_line(text)
        for name in ("DETAIL", "ERROR") if kind.priority <= 4 else ("DETAIL",):
            values.setdefault(name, text[:_FIELD_MAX])
    if trace:
        values["TRACE"] = _traceback()
    entry = {f"LOOOP_{name}": value[:_FIELD_MAX] for name, value in values.items() if value}
    _send({
        "MESSAGE": message, "MESSAGE_ID": kind.id, "PRIORITY": str(kind.priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER, "LOOOP_EVENT": event, **entry,
    })  # fmt: skip


def one_line(text: str, limit: int = 300) -> str:
    """`text` without control characters, cut to `limit`."""
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return flat if len(flat) <= limit else flat[:limit - 3] + "..."


def _traceback() -> str:
    import traceback  # only where something has gone wrong already

    return traceback.format_exc()


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@cache
def max_level() -> int:
    """The highest priority number that is written, by $SYSTEMD_LOG_LEVEL."""
    level = os.environ.get("SYSTEMD_LOG_LEVEL", "").strip().lower()
    return int(level) if level.isdigit() else _LEVELS.get(level, 7)


def _send(entry: Mapping[str, str]) -> None:
    if not os.path.exists(_SOCKET):  # sd_journal_sendv(3) says nothing when nobody listens
        with contextlib.suppress(OSError, ValueError):
            print(f"{IDENTIFIER}: {entry['MESSAGE']}", file=sys.stderr, flush=True)
        return
    # systemd.journal costs 15 ms to import, for logging and the reader; this is the part of it that writes
    from systemd._journal import sendv

    with contextlib.suppress(OSError):
        sendv(*(f"{name}={value}".encode(errors="replace") for name, value in entry.items()))


def read(
    follow: bool = False,
    since: float | None = None,
    limit: int | None = None,
    uid: int | None = None,
    match: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The events of one user's looop (default: this user's), oldest first.

    `since` is in Unix seconds; `limit` starts at the last so many; with `follow` it then waits for more, forever.
    `match` gives fields the values they must have.
    Each is {"ts", "event", "priority", "message", "unit", ...}, the LOOOP_ fields by their name in lower case.
    """
    from systemd.journal import APPEND, Reader

    with Reader() as reader:
        reader.add_match(SYSLOG_IDENTIFIER=IDENTIFIER)
        reader.add_match(_UID=str(os.getuid() if uid is None else uid))
        for name, value in (match or {}).items():
            reader.add_match(**{name: value})
        if since is not None:
            reader.seek_realtime(since)
        found = _events(reader)
        yield from found if limit is None else deque(found, maxlen=limit)
        # The reader now stands behind the last entry there is. It must not be put there by seek_tail(): where
        # nothing matches yet, systemd 257 then never sees what comes later.
        while follow:
            if reader.wait(1.0) == APPEND:
                yield from _events(reader)


def has(event: str, since: float, **fields: object) -> bool:
    """Whether the journal has such an event of this user's looop since then. False also when it cannot be read."""
    from systemd.journal import Reader

    with contextlib.suppress(OSError), Reader() as reader:
        reader.add_match(SYSLOG_IDENTIFIER=IDENTIFIER, _UID=str(os.getuid()), LOOOP_EVENT=event)
        reader.add_match(**{f"LOOOP_{name.upper()}": _plain(value) for name, value in fields.items()})
        reader.seek_realtime(since)
        return bool(reader.get_next())
    return False


def _events(reader: Any) -> Iterator[dict[str, Any]]:
    for raw in reader:
        entry = {name[6:].lower(): _str(value) for name, value in raw.items() if name.startswith("LOOOP_")}
        event = entry.pop("event", "")
        if event:  # workers' output lines have none
            yield {
                "ts": raw["__REALTIME_TIMESTAMP"].timestamp(), "event": event, "priority": raw.get("PRIORITY", 6),
                "message": _str(raw.get("MESSAGE", "")),
                "unit": _str(raw.get("_SYSTEMD_USER_UNIT") or raw.get("_SYSTEMD_UNIT") or ""), **entry,
            }  # fmt: skip


def _str(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
