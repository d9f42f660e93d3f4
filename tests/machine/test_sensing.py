"""Hostile sensors under the real looop-sense.service: one clear blob each, bounded time, and nothing left running."""

import asyncio
import json
import os
import select
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from looop import schedules, sensors
from looop.clock import Stamp, now
from looop.config import Config
from looop.environment import environment
from looop.paths import Paths
from looop.systemd.live import Live

SETTLE_S = 5.0


@pytest.fixture
def paths() -> Iterator[Paths]:
    """A data directory of its own, outside /tmp, which the sandbox replaces; the runtime directory is the unit's."""
    data = Path(tempfile.mkdtemp(prefix="sensing-", dir=Path.home()))
    made = Paths(data, data / "looop.toml", Path(f"/run/user/{os.getuid()}/looop"))
    made.create()
    yield made
    shutil.rmtree(data)


def sensor(paths: Paths, name: str, body: str, mode: int = 0o755) -> None:
    path = paths.sensors / f"{name}.sh"
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(mode)


def sense(paths: Paths, **settings: Any) -> sensors.Sensed:
    async def main() -> sensors.Sensed:
        config = Config(**settings)
        live = Live("user")
        await live.connect()
        try:
            return await sensors.sense(live, paths, config, environment(paths, config), now())
        finally:
            await live.aclose()

    return asyncio.run(main())


def snap(paths: Paths, name: str) -> Any:
    return json.loads((paths.snapshots / f"sensor-{name}.json").read_text())


def helper_cgroup() -> Path | None:
    groups = Path("/sys/fs/cgroup").glob(f"user.slice/user-*.slice/user@{os.getuid()}.service/looop.slice/*")
    return next((group for group in groups if group.name == "looop-helper.slice"), None)


def assert_nothing_left() -> None:
    """The helper slice empties by itself; its cgroup.events is pollable (cgroup-v2)."""
    group = helper_cgroup()
    if group is None:
        return
    try:
        with open(group / "cgroup.events") as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI | select.POLLERR)
            deadline = time.monotonic() + SETTLE_S
            while "populated 1" in file.read():
                left = deadline - time.monotonic()
                assert left > 0, f"still running in {group}"
                poll.poll(left * 1000)
                file.seek(0)
    except (FileNotFoundError, OSError) as error:
        assert not group.exists(), error


@pytest.mark.parametrize(
    ("body", "mode", "signal"),
    [
        ("sleep 600", 0o755, {"error": True, "exit_code": 124, "reason": "timeout"}),
        ("trap '' TERM INT HUP; while :; do :; done", 0o755, {"error": True, "exit_code": 124, "reason": "timeout"}),
        ("exec head -c 10G /dev/zero", 0o755, {"error": "too-large", "cap": 8192}),
        ("head -c 10G /dev/zero >&2 & sleep 600", 0o755, {"error": True, "exit_code": 124, "reason": "timeout"}),
        ("exit 124", 0o755, {"error": True, "exit_code": 124, "reason": "exit"}),
        ("kill -9 $$", 0o755, {"error": True, "exit_code": 137, "reason": "signal"}),
        ("echo '{}'", 0o644, {"error": True, "exit_code": 126, "reason": "spawn"}),
        (": > ~/written", 0o755, {"error": True, "exit_code": 1, "reason": "exit"}),
    ],
    ids=["hangs", "ignores signals", "floods 10 GB", "floods stderr", "exits 124", "kills itself",
         "not executable", "writes to home"],
)  # fmt: skip
def test_a_bad_sensor_costs_one_clear_blob_and_bounded_time(
    paths: Paths, body: str, mode: int, signal: dict[str, Any]
) -> None:
    sensor(paths, "bad", body, mode)
    sensor(paths, "good", "echo '{\"signal\": 1}'")
    began = time.monotonic()
    sensed = sense(paths, sensor_timeout=2)
    assert time.monotonic() - began < 12
    assert (sensed.failed, sensed.problems) == (("bad",), ())
    assert snap(paths, "bad")["signal"] == signal and snap(paths, "bad")["detail"]["message"]
    assert snap(paths, "good") == {"signal": 1}
    assert_nothing_left()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("(setsid bash -c 'trap \"\" TERM; exec sleep 600' &) & echo 1", b"1\n"),
        ("sleep 600 & echo 1", b"1\n"),
        ("cat; echo 1", b"1\n"),
        ("printf '\\377\\376'", b"\xff\xfe"),
        (":", b""),
    ],
    ids=["double-forks with setsid", "leaves a child", "reads stdin", "is not UTF-8", "says nothing"],
)
def test_an_odd_sensor_does_no_harm(paths: Paths, body: str, said: bytes) -> None:
    sensor(paths, "odd", body)
    for _ in range(2):
        began = time.monotonic()
        sensed = sense(paths)
        assert time.monotonic() - began < 8
        assert (sensed.failed, sensed.problems) == ((), ())
        assert (paths.snapshots / "sensor-odd.json").read_bytes() == said
    assert_nothing_left()


def test_the_starter_sensor_sees_a_failed_unit_by_its_invocation(paths: Paths) -> None:
    starter = Path(sensors.__file__).parent / "starter/sensors/failed-units.sh"
    (paths.sensors / "failed-units.sh").write_bytes(starter.read_bytes())
    (paths.sensors / "failed-units.sh").chmod(0o755)
    unit = r"sensing-test\x2dfails.service"
    run = ["systemd-run", "--user", "-q", f"--unit={unit}", "-p", "RemainAfterExit=yes", "--", "/bin/false"]
    try:
        for _ in range(2):
            asyncio.run(_call(*run))
            asyncio.run(_until_failed())
            found = asyncio.run(_output("systemctl", "--user", "show", "-P", "InvocationID", "--", unit))
            assert sense(paths).failed == ()
            assert {"unit": unit, "invocation": found} in snap(paths, "failed-units")["signal"]["failed"]
            asyncio.run(_call("systemctl", "--user", "reset-failed", "--", unit))
        (paths.reports / "ignored-units").write_text(unit + "\n")
        asyncio.run(_call(*run))
        asyncio.run(_until_failed())
        sense(paths)
        assert all(row["unit"] != unit for row in snap(paths, "failed-units")["signal"]["failed"])
    finally:
        asyncio.run(_call("systemctl", "--user", "reset-failed", "--", unit))


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode().strip()


async def _call(*command: str) -> None:
    await _output(*command)


async def _until_failed() -> None:
    live = Live("user", patterns=("sensing-test*",))
    changed = asyncio.Event()
    live.on_change = changed.set
    await live.connect()
    try:
        async with asyncio.timeout(10):
            while all(state.active != "failed" for state in live.list_units(["sensing-test*"]).values()):
                await changed.wait()
                changed.clear()
    finally:
        await live.aclose()


def test_schedules_are_real_timers_that_agree_with_their_records(paths: Paths) -> None:
    names = ["sensing-at", "sensing-every", "sensing-calendar"]

    async def main() -> None:
        live = Live("user")
        await live.connect()
        try:
            schedules.write(paths, names[0], 500, None, None, "", now())
            schedules.write(paths, names[1], None, 60, None, "", now())
            schedules.write(paths, names[2], None, None, "*-*-* 03:00:00", "", now())
            assert await schedules.arm(live, paths, now()) == []
            before = {name: live.next_elapse(schedules.timer(name)) for name in names}
            assert all(before.values())
            assert await schedules.arm(live, paths, now()) == []
            assert {name: live.next_elapse(schedules.timer(name)) for name in names} == before
            moved = now()
            assert await schedules.arm(live, paths, Stamp(moved.wall + 60, moved.boot, moved.mono + 60)) == []
            assert live.next_elapse(schedules.timer(names[1])) != before[names[1]]
            schedules.write(paths, "sensing-bad", None, None, "every now and then", "", now())
            assert await schedules.arm_one(live, paths, "sensing-bad", now())
            schedules.drop(paths, "sensing-bad")
            for name in names:
                schedules.drop(paths, name)
            assert await schedules.arm(live, paths, now()) == []
            assert all(live.next_elapse(schedules.timer(name)) is None for name in names)
        finally:
            for name in names:
                schedules.disarm(live, name)
            await live.aclose()

    asyncio.run(main())
