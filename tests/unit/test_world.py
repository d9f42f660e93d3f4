"""The world's hash moves when something that matters moves, and the diff says what."""

import json
from typing import Any

import pytest

from looop.clock import Stamp
from looop.world import (
    Asked, Baseline, Context, Policy, World, baseline, diff, policy, reading, to_json
)  # fmt: skip

NOW = Stamp(1_700_000_000.0, "b" * 32, 500.0)


def world(playbook: bytes | None = b"play\n", goals: dict[str, bytes] | None = None, **readings: Any) -> World:
    found = {name.replace("_", "-"): reading(name.replace("_", "-"), data) for name, data in readings.items()}
    return World(policy(playbook), {name: policy(data) for name, data in (goals or {}).items()}, found)


def test_only_the_signal_feeds_the_hash() -> None:
    one, two = (world(sensor_x=b'{"signal": 1, "detail": {"age": %d}}' % age) for age in (1, 2))
    assert one.hash == two.hash
    assert one.hash != world(sensor_x=b'{"signal": 2}').hash


def test_an_output_without_signal_counts_whole() -> None:
    assert world(sensor_x=b'{"a": 1}').hash != world(sensor_x=b'{"a": 2}').hash


def test_the_order_of_keys_is_no_change() -> None:
    assert world(sensor_x=b'{"a": 1, "b": 2}').hash == world(sensor_x=b'{"b": 2,\n "a": 1}').hash


@pytest.mark.parametrize("data", [
    b"", b"plain", b"{", b"\xff\xfe", b"NaN", b'{"a": 1e999}', b"[" * 100_000, b"1" * 5000, b'"\\ud800"',
], ids=lambda data: repr(data[:12]))  # fmt: skip
def test_any_output_is_a_reading(data: bytes) -> None:
    found = reading("sensor-x", data)
    assert found.raw is not None and found.signal is None
    assert world(sensor_x=data).hash != world(sensor_x=data + b"!").hash
    json.dumps(to_json(world(sensor_x=data), context())).encode()


def test_equal_bytes_under_other_names_are_another_world() -> None:
    assert world(sensor_a=b"1", sensor_b=b"2").hash != world(sensor_a=b"2", sensor_b=b"1").hash
    assert world(goals={"a": b"x"}).hash != world(goals={"b": b"x"}).hash


def test_policy_hash_ignores_readings_and_follows_goals() -> None:
    assert world(sensor_x=b"1").policy_hash == world(sensor_x=b"2").policy_hash
    assert world(goals={"a": b"x"}).policy_hash != world(goals={"a": b"y"}).policy_hash
    assert world().policy_hash != World(None, {}, {}).policy_hash


def test_a_policy_that_becomes_unreadable_is_a_change() -> None:
    assert len({world(b"x").hash, world(None).hash, World(None, {}, {}).hash}) == 3
    assert policy(None).note == "unreadable"
    assert policy(b"\xff") == Policy(None, policy(b"\xff").digest, "not UTF-8")


def test_file_names_that_are_not_utf_8_do_not_break_the_hash() -> None:
    assert world(goals={"a\udcff": b"x"}).hash != world(goals={"a": b"x"}).hash


def test_diff_names_what_appeared_changed_and_went() -> None:
    before = baseline(world(goals={"a": b"one\ntwo\n", "gone": b"x"}, sensor_x=b"1"))
    after = baseline(world(goals={"a": b"one\n2\n", "new": b"title\nrest"}, sensor_x=b"2"))
    assert diff(before, after) == (
        "~ goal:a edited:",
        "    @@ -1,3 +1,3 @@",
        "     one",
        "    -two",
        "    +2",
        "     ",
        "- goal:gone gone",
        "+ goal:new appeared: title",
        "~ snap:sensor-x: 1 -> 2",
    )


def test_diff_of_equal_worlds_is_empty_and_without_a_baseline_absent() -> None:
    assert diff(baseline(world()), baseline(world())) == ()
    assert diff(None, baseline(world())) is None


def test_diff_is_bounded() -> None:
    many: World = world(**{f"sensor_{n}": b'"%s"' % (b"x" * 2000) for n in range(300)}, goals={})
    lines = diff(baseline(World(None, {}, {})), baseline(many))
    assert lines is not None and len(lines) == 200 and all(len(line) < 300 for line in lines)
    assert "102 more lines" in lines[-1]  # 300 readings and the playbook, 199 shown
    long = diff(baseline(world(b"a\n" * 3000)), baseline(world(b"b\n" * 3000)))
    assert long is not None and len(long) < 60


def test_a_text_too_large_to_keep_is_said_to_be_edited() -> None:
    assert diff(baseline(world(b"x" * 100_000)), baseline(world(b"y" * 100_000))) == ("~ playbook edited",)


def test_a_baseline_survives_its_file() -> None:
    kept = baseline(world(goals={"a": b"x"}, sensor_x=b'"\xe2\x80\xa8"'))
    assert Baseline.from_json(json.loads(json.dumps(kept.to_json()))) == kept


def context(**more: object) -> Context:
    return Context(NOW, "2023-11-14 22:13 +0000", "/data", "tag", **more)  # type: ignore[arg-type]


def test_world_json_is_what_rules_need() -> None:
    seen = world(
        goals={"a": b"x"},
        sensor_disk=b'{"signal": {"full": true}, "detail": 9}',
        sys_sessions=b'{"signal": [{"id": "w", "state": "running"}, {"id": "v", "state": "exited"}],'
        b' "detail": {"workers": {"w": {"idle_s": 3}}}}',
        sys_claims=b'{"signal": [{"name": "repo"}]}',
        sys_schedules=b'{"signal": {"s": "due"}, "detail": {"s": {"kind": "one-shot"}}}',
    )
    data = to_json(seen, context(asks=(Asked("w-1", "w", "which?", "pending", NOW.wall - 60),), changed=("+ x",)))
    assert data["sensors"] == {"disk": {"signal": {"full": True}, "detail": 9}}
    assert data["goals"] == {"a": {"body": "x"}}
    assert [(s["id"], s["alive"], s.get("idle_s")) for s in data["sessions"]] == [("w", True, 3), ("v", False, None)]
    assert data["claims"] == [{"name": "repo"}]
    assert data["schedules"] == {"s": {"state": "due", "kind": "one-shot"}}
    assert data["asks"][0]["age_s"] == 60
    assert data["changed"] == ["+ x"]


@pytest.mark.parametrize("blob", [b"null", b"3", b"x", b'{"signal": {"error": 1}}', b'{"signal": [1], "detail": []}'])
def test_world_json_takes_any_shape_of_a_probe(blob: bytes) -> None:
    data = to_json(world(sys_sessions=blob, sys_claims=blob, sys_schedules=blob), context())
    assert data["sessions"] == []
