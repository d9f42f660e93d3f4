"""`looopctl log` shows every byte once, also when the transcript is cut short under it."""

import os
from pathlib import Path

import pytest

from looop.ctl.log import Reader
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
