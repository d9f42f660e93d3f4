"""Follow-ups: durable, several at once, and due by the boot clock."""

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import pytest

from looop import nudges, store
from looop.clock import Stamp
from looop.errors import Unavailable
from looop.paths import Paths
from tests.unit.fakes import Clock, FakeLive


@pytest.fixture
def live() -> FakeLive:
    return FakeLive()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def arm(live: FakeLive, paths: Paths, seconds: float, now: Stamp, name: str = "") -> None:
    asyncio.run(nudges.arm(cast(Any, live), paths, seconds, now, name))


def test_several_wait_beside_each_other_and_each_is_due_once(paths: Paths, live: FakeLive, clock: Clock) -> None:
    for seconds in (10, 20):
        arm(live, paths, seconds, clock())
    assert len(live.timers) == 2 and nudges.due(paths, clock()) == []
    clock.pass_(15)
    [first] = nudges.due(paths, clock())
    nudges.done(paths, [first])
    assert nudges.due(paths, clock()) == []
    clock.pass_(10)
    assert len(nudges.due(paths, clock())) == 1


def test_a_named_one_replaces_its_predecessor_and_is_not_made_again_for_the_same_wait(
    paths: Paths, live: FakeLive, clock: Clock
) -> None:
    arm(live, paths, 60, clock(), "retry")
    arm(live, paths, 60, clock(), "retry")
    assert live.stopped == ["looop-nudge@retry.timer"], "made once, its name cleared before that"
    arm(live, paths, 120, clock(), "retry")
    assert live.seconds("retry") == 120
    clock.pass_(61)
    assert nudges.due(paths, clock()) == []


def test_after_a_restart_the_timers_are_made_again_with_what_is_left(
    paths: Paths, live: FakeLive, clock: Clock
) -> None:
    arm(live, paths, 60, clock(), "a")
    clock.pass_(20)
    fresh = FakeLive()
    assert asyncio.run(nudges.rearm(cast(Any, fresh), paths, clock())) == []
    assert fresh.seconds("a") == pytest.approx(40)
    clock.pass_(100)
    assert asyncio.run(nudges.rearm(cast(Any, fresh), paths, clock())) == []
    assert 0 < fresh.seconds("a") < 1


def test_a_clock_that_is_set_moves_nothing_and_a_reboot_uses_the_wall_clock(
    paths: Paths, live: FakeLive, clock: Clock
) -> None:
    arm(live, paths, 60, clock())
    now = clock()
    assert nudges.due(paths, replace(now, wall=now.wall + 3600)) == []
    assert nudges.due(paths, replace(now, wall=now.wall - 3600, mono=now.mono + 61)) != []
    assert nudges.due(paths, Stamp(now.wall + 59, "another", 3.0)) == []
    assert nudges.due(paths, Stamp(now.wall + 61, "another", 3.0)) != []


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"wall": "x"}}'])
def test_a_damaged_list_stands_for_one_that_is_due_now(paths: Paths, clock: Clock, content: str) -> None:
    paths.nudges.write_text(content)
    assert nudges.due(paths, clock()) == ["lost"]
    assert store.read_json(paths.nudges) is not None
    nudges.done(paths, ["lost"])
    assert nudges.due(paths, clock()) == []


@pytest.mark.parametrize("same_boot", [True, False])
def test_one_that_lies_beyond_all_reason_is_looked_at_within_a_week(
    paths: Paths, live: FakeLive, clock: Clock, same_boot: bool
) -> None:
    at = Stamp(1e300, clock().boot if same_boot else "another", 1e300)
    paths.nudges.write_text(json.dumps({"a": at.to_json()}))
    assert asyncio.run(nudges.rearm(cast(Any, live), paths, clock())) == []
    assert live.seconds("a") == nudges.LONGEST


def test_without_the_bus_the_follow_up_is_kept_all_the_same(paths: Paths, live: FakeLive, clock: Clock) -> None:
    live.down = True
    with pytest.raises(Unavailable):
        arm(live, paths, 10, clock(), "a")
    assert list(json.loads(paths.nudges.read_text())) == ["a"]
    [problem] = asyncio.run(nudges.rearm(cast(Any, live), paths, clock()))
    assert "cannot arm follow-up a" in problem


def test_what_is_pending_can_be_looked_at(paths: Paths, live: FakeLive, clock: Clock) -> None:
    assert nudges.pending(paths, clock()) == {}
    for name, seconds in (("b", 20), ("a", 10)):
        arm(live, paths, seconds, clock(), name)
    clock.pass_(15)
    found = nudges.pending(paths, clock())
    assert list(found) == ["a", "b"] and found == pytest.approx({"a": -5, "b": 5})


def test_each_is_waited_for_again_after_a_reboot(paths: Paths, live: FakeLive, clock: Clock) -> None:
    for name, seconds in (("a", 60), ("b", 600), ("retry", 30)):
        arm(live, paths, seconds, clock(), name)
    booted = Stamp(clock().wall + 40, "another", 5.0)
    fresh = FakeLive()
    assert asyncio.run(nudges.rearm(cast(Any, fresh), paths, booted)) == []
    assert [round(fresh.seconds(name), 1) for name in ("a", "b", "retry")] == [20, 560, 0.1]
    assert nudges.due(paths, booted) == ["retry"]
