"""Times a person writes: what systemd-analyze of either release prints is read, and its refusals are quoted."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from looop.errors import Unavailable, UsageError
from looop.systemd import timespec

Answer = Callable[..., list[list[str]]]
TWO_ELAPSES = """  Original form: *-*-* 02:30
Normalized form: *-*-* 02:30:00
    Next elapse: Sat 2026-10-24 02:30:00 CEST
       (in UTC): Sat 2026-10-24 00:30:00 UTC
       From now: 3 weeks 6 days ago
   {again}: Mon 2026-10-26 02:30:00 CET
       (in UTC): Mon 2026-10-26 01:30:00 UTC
       From now: 3 weeks 4 days ago
"""
IN_UTC = """Normalized form: *-*-* *:*:00/10
    Next elapse: Mon 2026-09-21 14:13:30 UTC
       From now: 1 month 29 days ago
   {again}: Mon 2026-09-21 14:13:40 UTC
       From now: 1 month 29 days ago
"""


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """systemd-analyze says this; returns the commands it was asked with."""

    def use(stdout: str = "", stderr: str = "", code: int = 0) -> list[list[str]]:
        asked: list[list[str]] = []

        def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            asked.append(words)
            return subprocess.CompletedProcess(words, code, stdout, stderr)

        monkeypatch.setattr(subprocess, "run", run)
        return asked

    return use


@pytest.mark.parametrize("again", ["Iter. #2", "Iteration #2"])
def test_elapses_are_read_in_local_time_and_in_utc(answer: Answer, again: str) -> None:
    answer(TWO_ELAPSES.format(again=again))
    assert timespec.calendar("*-*-* 02:30") == [1792801800.0, 1792978200.0]
    assert timespec.calendar("*-*-* 02:30", count=1) == [1792801800.0]
    answer(IN_UTC.format(again=again))
    assert timespec.calendar("*:*:0/10") == [1790000010.0, 1790000020.0]


def test_what_is_past_has_no_instants(answer: Answer) -> None:
    answer("Normalized form: 2020-01-01 00:00:00\n    Next elapse: never\n")
    assert timespec.calendar("2020-01-01") == []


def test_spans_and_timestamps(answer: Answer) -> None:
    answer("Original: 2h 5min\n      μs: 7500000000\n   Human: 2h 5min\n")
    assert timespec.span("2h 5min") == 7500
    answer("Normalized form: Mon\n   UNIX seconds: @1790000000.25\n       From now: 1 month ago\n")
    assert timespec.timestamp("@1790000000.25") == 1790000000.25


def test_a_span_without_end_is_refused(answer: Answer) -> None:
    answer("Original: infinity\n      us: 18446744073709551615\n   Human: infinity\n")
    with pytest.raises(UsageError, match="it has no end"):
        timespec.span("infinity")


def test_a_refusal_quotes_systemd(answer: Answer) -> None:
    answer(stderr="Failed to parse time span 'soon': Invalid argument\nHint: none\n", code=1)
    with pytest.raises(UsageError, match="Failed to parse time span 'soon': Invalid argument"):
        timespec.span("soon")


def test_a_text_never_becomes_an_option(answer: Answer) -> None:
    asked = answer("us: 5\n")
    timespec.span("--version")
    assert asked == [["systemd-analyze", "timespan", "--", "--version"]]


@pytest.mark.parametrize("text", ["", "  ", "1h\0", "1" * 2000])
def test_what_cannot_be_asked_is_refused_without_asking(answer: Answer, text: str) -> None:
    asked = answer()
    with pytest.raises(UsageError):
        timespec.span(text)
    assert asked == []


def test_without_an_answer_it_is_unavailable_not_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(words: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(Unavailable, match="cannot ask systemd-analyze"):
        timespec.calendar("daily")
