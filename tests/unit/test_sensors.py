"""Sensors: when they are due, and what is published when things go well, badly or not at all."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from looop import sense_runner, sensors, store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import Unavailable
from looop.paths import Paths

NOW = Stamp(1_000_000.0, "b" * 32, 5000.0)
ENV = {"PATH": "/usr/bin:/bin"}


def later(seconds: float) -> Stamp:
    return Stamp(NOW.wall + seconds, NOW.boot, NOW.mono + seconds)


class Unit:
    """Stands in for looop-sense.service: a restart runs the real runner in a process of its own."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.starts = 0
        self.stops = 0
        self.word = "done"
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def restart(self, unit: str) -> str:
        assert unit == "looop-sense.service"
        self.starts += 1
        return "/job/1"

    def stop(self, unit: str) -> str:
        self.stops += 1
        return ""

    async def run_job(self, job: str, unit: str, timeout: float) -> str:
        self.before()
        subprocess.run([sys.executable, "-IS", sense_runner.__file__, self.paths.sense], check=True)
        self.after()
        return self.word


@pytest.fixture
def unit(paths: Paths) -> Unit:
    return Unit(paths)


def sensor(paths: Paths, name: str, body: str = "echo '{}'", mode: int = 0o755) -> Path:
    path = paths.sensors / f"{name}.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


def sense(unit: Unit, now: Stamp = NOW, only: set[str] | None = None, **settings: Any) -> sensors.Sensed:
    return asyncio.run(sensors.sense(unit, unit.paths, Config(**settings), ENV, now, only))


def snap(paths: Paths, name: str) -> Any:
    return json.loads((paths.snapshots / f"sensor-{name}.json").read_text())


def test_output_is_published_as_it_was_printed(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", """printf '{"signal": 1,   "detail":2}'""")
    sensor(paths, "b", "printf '\\377 not json'")
    sensor(paths, "empty", ":")
    sensed = sense(unit)
    assert (sensed.ok, sensed.total, sensed.skipped, sensed.failed, sensed.problems) == (3, 3, 0, (), ())
    assert (paths.snapshots / "sensor-a.json").read_bytes() == b'{"signal": 1,   "detail":2}'
    assert (paths.snapshots / "sensor-b.json").read_bytes() == b"\xff not json"
    assert (paths.snapshots / "sensor-empty.json").read_bytes() == b""


@pytest.mark.parametrize(
    ("body", "reason", "code"),
    [
        ("echo no >&2; exit 3", "exit", 3),
        ("exit 124", "exit", 124),
        ("kill -SEGV $$", "signal", 139),
        ("sleep 600", "timeout", 124),
    ],
)
def test_a_failure_has_a_stable_signal_that_says_how(
    paths: Paths, unit: Unit, body: str, reason: str, code: int
) -> None:
    sensor(paths, "a", "echo '{}'")
    sense(unit)
    sensor(paths, "a", body)
    sensed = sense(unit, sensor_timeout=1)
    assert sensed.failed == ("a",) and sensed.results[0].reason == reason
    assert snap(paths, "a")["signal"] == {"error": True, "exit_code": code, "reason": reason}
    assert snap(paths, "a")["detail"]["message"]


def test_a_script_that_cannot_be_started_is_a_failure_with_a_hint(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", mode=0o644)
    sense(unit)
    assert snap(paths, "a")["signal"]["reason"] == "spawn"
    assert "chmod +x" in snap(paths, "a")["detail"]["message"]


def test_oversize_has_the_same_signal_whatever_the_size(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "head -c 3000000 /dev/zero")
    sense(unit, sensor_max_bytes=100)
    assert snap(paths, "a")["signal"] == {"error": "too-large", "cap": 100}


def test_no_unit_is_started_when_nothing_is_due(paths: Paths, unit: Unit) -> None:
    assert sense(unit) == sensors.Sensed(secs=sense(unit).secs)
    sensor(paths, "a", "# looop:interval=100\necho 1")
    sense(unit)
    assert sense(unit, later(99)).skipped == 1
    assert unit.starts == 1


@pytest.mark.parametrize(
    ("comment", "seconds"),
    [
        ("# looop:interval=300", 300),
        ("   # looop:interval= 7 ", 7),
        ("# looop:interval=soon\n# looop:interval=5", 0),
        ("# looop:interval=-5", 0),
        ("\n" * 20 + "# looop:interval=300", 0),
        ("", 0),
    ],
)
def test_the_cadence_comment_is_read_from_the_first_twenty_lines(paths: Paths, comment: str, seconds: int) -> None:
    assert sensors.interval(sensor(paths, "a", comment)) == seconds


def test_a_fifo_among_the_sensors_does_not_block(paths: Paths) -> None:
    os.mkfifo(paths.sensors / "f.sh")
    assert sensors.interval(paths.sensors / "f.sh") == 0


def test_an_edit_makes_a_sensor_due_and_so_does_a_lost_snapshot(paths: Paths, unit: Unit) -> None:
    path = sensor(paths, "a", "# looop:interval=9999\necho 1")
    sense(unit)
    path.chmod(0o755)  # moves the ctime
    assert sense(unit, later(1)).skipped == 0
    (paths.snapshots / "sensor-a.json").unlink()
    assert sense(unit, later(2)).skipped == 0
    assert sense(unit, later(3)).skipped == 1


def test_a_failed_sensor_is_retried_with_growing_waits_up_to_its_cadence(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "# looop:interval=200\nexit 1")
    at, waits = 0.0, []
    sense(unit)
    for _ in range(4):
        wait = next(w for w in range(1, 400) if sensors.is_due(past(paths), 200, past(paths).changed, later(at + w)))
        waits.append(wait)
        at += wait
        assert sense(unit, later(at)).failed == ("a",)
    assert waits == [60, 120, 200, 200]


def past(paths: Paths) -> sensors.Past:
    return sensors.Past.from_json(json.loads(paths.sensor_state.read_text())["sensors"]["a"])


def test_a_clock_set_back_does_not_park_a_sensor(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "# looop:interval=100\necho 1")
    sense(unit)
    assert sense(unit, Stamp(NOW.wall - 3600, NOW.boot, NOW.mono + 100)).skipped == 0


def test_a_damaged_memory_runs_everything_and_mends_itself(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "# looop:interval=100\necho 1")
    paths.sensor_state.write_text("{")
    assert len(sense(unit).problems) == 1
    assert replace(sense(unit, later(1)), secs=0.0) == sensors.Sensed(1, 1, 1)


def test_the_snapshot_of_a_removed_sensor_goes_and_others_stay(paths: Paths, unit: Unit) -> None:
    path = sensor(paths, "a")
    sense(unit)
    (paths.snapshots / "sys-claims.json").write_text("{}")
    (paths.snapshots / "sensor-a.err").write_text("of another program")
    path.unlink()
    sense(unit)
    assert [p.name for p in paths.snapshots.iterdir()] == ["sys-claims.json"]


def test_what_a_stopped_unit_finished_is_published_and_the_rest_keeps_its_last_word(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "echo 1")
    sensor(paths, "b", "echo 1")
    sense(unit)

    def lose_b() -> None:
        (results,) = paths.sense.glob("*.jsonl")
        lines = [line for line in results.read_text().splitlines() if '"b"' not in line]
        results.write_text("\n".join(lines) + '\n{"name": "b", "co')

    sensor(paths, "a", "echo 2")
    sensor(paths, "b", "echo 2")
    sensor(paths, "c", "echo 2")
    unit.word, unit.after = "failed", lose_b
    sensed = sense(unit)
    assert sensed.failed == ("b",) and "failed" in sensed.problems[0]
    assert (snap(paths, "a"), snap(paths, "b"), snap(paths, "c")) == (2, 1, 2)


def test_a_lost_bus_keeps_the_snapshots_and_is_said_once(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "echo 1")
    sense(unit)

    def gone() -> None:
        raise Unavailable("cannot reach systemd: gone")

    unit.before = gone
    sensed = sense(unit)
    assert snap(paths, "a") == 1 and len(sensed.problems) == 1


def test_a_cancelled_round_stops_the_unit(
    paths: Paths, unit: Unit, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor(paths, "a")

    async def main() -> None:
        async def forever(job: str, unit: str, timeout: float) -> str:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        monkeypatch.setattr(unit, "run_job", forever)
        task = asyncio.create_task(sensors.sense(unit, paths, Config(), ENV, NOW))
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert unit.stops == 1


def test_only_runs_the_named_one_even_if_it_is_not_due(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "# looop:interval=999\necho 1")
    sensor(paths, "b")
    sense(unit)
    sensed = sense(unit, later(1), only={"a"})
    assert [result.name for result in sensed.results] == ["a"] and (sensed.total, sensed.skipped) == (1, 0)


def test_two_rounds_never_run_at_once(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a")
    with store.lock(paths.sense / "lock"):
        sensed = sense(unit)
    assert unit.starts == 0 and "looopctl sensor run" in sensed.problems[0]


def test_an_unusable_name_is_reported_and_does_not_stop_the_others(paths: Paths, unit: Unit) -> None:
    sensor(paths, "my sensor")
    sensor(paths, "a")
    sensed = sense(unit)
    assert [result.name for result in sensed.results] == ["a"] and "my sensor" in sensed.problems[0]


def test_an_unreadable_folder_is_trouble_not_an_empty_world(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "echo 1")
    sense(unit)
    paths.sensors.rename(paths.data / "elsewhere")
    paths.sensors.write_text("a file")
    assert sense(unit).problems
    assert snap(paths, "a") == 1


def test_an_unchanged_reading_is_not_written_again(paths: Paths, unit: Unit) -> None:
    sensor(paths, "a", "echo 1")
    sense(unit)
    before = (paths.snapshots / "sensor-a.json").stat()
    sense(unit)
    assert (paths.snapshots / "sensor-a.json").stat().st_ino == before.st_ino
