"""`looopctl log` shows every byte once, also when the transcript is cut short under it."""

import os
from pathlib import Path

import pytest

from looop.ctl import attach
from looop.ctl.log import Reader
from looop.errors import UsageError
from looop.screens import replay
from looop.sessions.transcript import Transcript


def test_a_follower_finds_its_place_in_a_shortened_transcript(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "output.log"
    transcript, reader = Transcript(str(path), 1000), Reader(path, raw=True)
    for n in range(500):
        transcript.write(b"line %d\n" % n)
        if n % 20 == 0:
            reader.copy()
    reader.copy(last=True)
    os.close(transcript.fd)
    assert capfdbinary.readouterr().out.split(b"\n") == [*(b"line %d" % n for n in range(500)), b""]


def test_a_reader_that_was_too_slow_is_told_what_is_missing(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "output.log"
    transcript, reader = Transcript(str(path), 1000), Reader(path, raw=False)
    for n in range(500):
        transcript.write(b"line %d\r\n" % n)
    transcript.write(b"no newline")
    reader.copy(last=True)
    os.close(transcript.fd)
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0].endswith("earlier bytes dropped]") and lines[1].startswith("line ")
    assert lines[-2:] == ["line 499", "no newline"]


def written(tmp_path: Path, data: bytes, limit: int = 0) -> Path:
    transcript = Transcript(str(tmp_path / "output.log"), limit)
    for at in range(0, len(data), 100):
        transcript.write(data[at : at + 100])
    os.close(transcript.fd)
    return tmp_path / "output.log"


@pytest.mark.parametrize("limit", [0, 2000])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"tail"])
def test_the_last_lines_are_found_from_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, block: int, end: bytes
) -> None:
    monkeypatch.setattr(replay, "_BLOCK", block)
    data = b"".join(b"line %d\n" % n for n in range(500)) + end
    with replay.Log(written(tmp_path, data, limit)) as log:
        assert log.end == len(data) and (log.missing > 0) == (limit > 0)
        for count in (1, 2, 30):
            expected = b"".join(data.splitlines(keepends=True)[-count:])
            assert log.read(replay.lines_back(log, count), 1 << 20) == expected
        assert replay.lines_back(log, 0) == log.end
        assert replay.lines_back(log, 10000) == log.missing


def test_a_time_is_a_place_that_leaves_nothing_out(tmp_path: Path) -> None:
    entries = [replay.Entry(place, wall, 24, 80) for place, wall in ((0, 100.0), (14, 110.0), (28, 50.0), (42, 60.0))]
    with replay.Log(written(tmp_path, b"line 1\n" * 10)) as log:
        assert replay.place_at(log, entries[:2], 99) == 0
        assert replay.place_at(log, entries[:2], 100) == 0
        assert replay.place_at(log, entries[:2], 111) == 14
        assert replay.place_at(log, entries, 105) == 0  # the clock was set back since
        assert replay.place_at(log, entries, 120) == 42
        assert replay.place_at(log, [], 120) == 0


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = written(tmp_path, b"")
    path.write_bytes(b"x" * 5_000_000)
    reader = Reader(path, raw=False)
    reader.copy()
    assert len(reader.partial) <= 2 << 20
    reader.copy(last=True)
    assert capfdbinary.readouterr().out == b"x" * 5_000_000 + b"\n"


def test_raw_output_holds_no_word_of_ours(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    data = b"".join(b"line %d\n" % n for n in range(500))
    Reader(written(tmp_path, data, 2000), raw=True).copy(last=True)
    out, err = capfdbinary.readouterr()
    assert data.endswith(out) and len(out) >= 1000 and b"earlier bytes dropped" in err


@pytest.mark.parametrize(
    "text, key, shown",
    [("^]", b"\x1d", "Ctrl-]"), ("ctrl-a", b"\x01", "Ctrl-A"), ("Ctrl-?", b"\x7f", "Ctrl-?"), ("q", b"q", "q")],
)
def test_detach_keys(text: str, key: bytes, shown: str) -> None:
    assert attach.detach_key(text) == key and attach.shown_key(key) == shown


@pytest.mark.parametrize("text", ["", "F1", "^^^", "\u00e4", "\n", "Ctrl-", "^\n"])
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        attach.detach_key(text)
