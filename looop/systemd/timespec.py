"""What systemd.time(7) makes of a text a person wrote: a time span, a calendar expression, a timestamp.

systemd-analyze(1) is asked, because its grammar and its calendar are those of the timers; its own words are what a
refusal says. Used by verbs, and by the pulse when a schedule is written or was missed. It reads nothing but the
time zone (the caller's $TZ, else the host's) and is ended after `PATIENCE_S`.
"""

import datetime
import os
import re
import subprocess
from collections.abc import Iterator

from looop.errors import Unavailable, UsageError

PATIENCE_S = 10.0
LONGEST_TEXT = 1000
_INFINITY = 2**64 - 1
_MICROSECONDS = re.compile(r"^\s*(?:us|μs): (\d+)$", re.MULTILINE)
_UNIX = re.compile(r"^\s*UNIX seconds: @(-?\d+(?:\.\d+)?)$", re.MULTILINE)
_ELAPSE = re.compile(r"^\s*(Next elapse|Iter\. #\d+|Iteration #\d+|\(in UTC\)): (.+)$")
_UTC = re.compile(r"(?:[A-Z][a-z]{2} )?(\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? UTC\Z")


def span(text: str) -> float:
    """A time span such as "2h 30min" in seconds. Raises UsageError, also for one that never ends; Unavailable."""
    found = _MICROSECONDS.search(_ask("time span", "timespan", text))
    if found is None:
        raise UsageError(f"cannot use time span {text!r}: systemd-analyze has no figure for it")
    if int(found[1]) == _INFINITY:
        raise UsageError(f"cannot use time span {text!r}: it has no end")
    return int(found[1]) / 1e6


def timestamp(text: str) -> float:
    """A timestamp such as "tomorrow 9:00", "+2h" or "@1790000000" in Unix seconds. Raises UsageError, Unavailable."""
    found = _UNIX.search(_ask("timestamp", "timestamp", text))
    if found is None:
        raise UsageError(f"cannot use timestamp {text!r}: systemd-analyze has no figure for it")
    return float(found[1])


def calendar(spec: str, count: int = 3, base: float | None = None) -> list[float]:
    """The next instants of an OnCalendar= expression after `base` (Unix seconds, now by default), whole seconds.

    At most `count`; fewer when it ends before, none when it is past. Raises UsageError and Unavailable.
    """
    options = [f"--iterations={count}"]
    if base is not None:
        options.append(f"--base-time=@{base:.6f}")
    return list(_instants(_ask("calendar expression", "calendar", spec, *options)))[:count]


def _instants(output: str) -> Iterator[float]:
    """In the order printed. A line in local time is followed by one in UTC, unless local time is UTC."""
    local = ""
    for line in output.splitlines():
        match = _ELAPSE.match(line)
        if match is None:
            continue
        if match[1] == "(in UTC)":
            local = ""
        elif local:
            yield _unix(local)
        if match[1] == "(in UTC)":
            yield _unix(match[2])
        elif match[2] != "never":
            local = match[2]
    if local:
        yield _unix(local)


def _unix(text: str) -> float:
    match = _UTC.match(text)
    if match is None:
        raise Unavailable(f"cannot read the answer of systemd-analyze: {text!r} is no time in UTC")
    return datetime.datetime.fromisoformat(match[1] + "+00:00").timestamp()


def _ask(what: str, verb: str, text: str, *options: str) -> str:
    if "\0" in text or len(text) > LONGEST_TEXT or not text.strip():
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise UsageError(f"cannot use {what} {shown!r}: expected 1 to {LONGEST_TEXT} characters of systemd.time(7)")
    try:
        done = subprocess.run(
            ["systemd-analyze", verb, *options, "--", text],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=PATIENCE_S, env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot ask systemd-analyze about {what} {text!r}: {error}") from error
    if done.returncode != 0:
        words = next((line.strip() for line in done.stderr.splitlines() if line.strip()), "refused")
        raise UsageError(f"cannot use {what} {text!r}: {words}", hint="systemd.time(7) has the syntax")
    return done.stdout
