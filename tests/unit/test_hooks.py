"""Hooks get their input, end in time with all they started, and cannot flood."""

import os
import resource
import time
from pathlib import Path

import pytest

from looop.notifications import hooks

ENV = {"PATH": os.environ["PATH"]}


def run(cwd: Path, *commands: str, timeout: float = 10.0, given: bytes = b"{}\n") -> dict[str, hooks.Result]:
    return hooks.run(commands, given, ENV, cwd, timeout)


def test_each_hook_gets_the_whole_input(tmp_path: Path) -> None:
    given = b"x" * 300_000
    found = run(tmp_path, "wc -c", "cat >/dev/null; echo done", "true", given=given)
    assert {hook: (result.error, result.output.strip()) for hook, result in found.items()} == {
        "wc -c": ("", "300000"), "cat >/dev/null; echo done": ("", "done"), "true": ("", ""),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        ("exit 3", "exited 3"),
        ("echo one; echo why >&2; exit 1", "exited 1: why"),
        ("no-such-program", "exited 127: "),
        ("kill -9 $$", "was killed by SIGKILL"),
    ],
)
def test_a_failure_is_told_with_its_last_words(tmp_path: Path, hook: str, error: str) -> None:
    assert run(tmp_path, hook)[hook].error.startswith(error)


def test_a_hook_that_hangs_is_ended_and_holds_up_no_other(tmp_path: Path) -> None:
    began = time.monotonic()
    found = run(tmp_path, "sleep 1000 & sleep 1000", "echo fast", timeout=0.5)
    assert time.monotonic() - began < 8
    assert found["sleep 1000 & sleep 1000"].error == "did not end within 0.5 s"
    assert found["echo fast"].error == "" and found["echo fast"].seconds < 0.5


def test_what_a_hook_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    assert run(tmp_path, "sleep 1000 & echo $!")["sleep 1000 & echo $!"].error == ""


def test_a_flood_is_read_to_its_end_and_kept_in_part(tmp_path: Path) -> None:
    flood = "echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo; echo last"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [result] = run(tmp_path, flood, timeout=60).values()
    assert result.error == "" and result.output.startswith("first\n") and result.output.endswith("last\n")
    assert len(result.output) < 3 * hooks.KEPT and "bytes left out" in result.output
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_hook_that_cannot_be_started_is_one_failure_of_many(tmp_path: Path) -> None:
    found = hooks.run(["true"], b"", ENV, tmp_path / "gone", 5)
    assert found["true"].error == "cannot be started: No such file or directory"
    [odd, good] = hooks.run(["echo \0", "true"], b"", ENV, tmp_path, 5).values()
    assert odd.error == "cannot be started: embedded null byte" and good.error == ""
