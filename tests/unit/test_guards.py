"""The guards hold the loop back exactly when they should, whatever the clock or the disk does to their state."""

import json

import pytest

from looop import guards
from looop.clock import Stamp
from looop.guards import GO, GuardState, Spent
from looop.jsonutil import JsonError

BOOT = "a" * 32


def at(seconds: float, step: float = 0.0, boot: str = BOOT) -> Stamp:
    """`seconds` after the test's begin; `step` is how far the wall clock was moved meanwhile."""
    return Stamp(1_700_000_000.0 + seconds + step, boot, 1000.0 + seconds)


def failed(worlds: list[str], policy: str = "p", now: float = 0.0) -> GuardState:
    state = GuardState()
    for world in worlds:
        state = guards.record_failure(state, "run", "tick_failed", "no", world, policy, at(now))
    return state


def wait(state: GuardState, world: str, policy: str = "p", now: Stamp | None = None) -> int:
    return guards.backoff(state, world, policy, now or at(0)).retry_in_s or 0


def test_skip_holds_an_unchanged_world_unless_forced() -> None:
    assert not guards.skip("h", "h", "").allow
    assert guards.skip("h", "h", "first beat").allow and guards.skip("h", "", "").allow


def test_backoff_doubles_up_to_an_hour() -> None:
    waits = [wait(failed(["w"] * n), "w") for n in range(9)]
    assert waits == [0, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert wait(failed(["w"] * 2000), "w") == 3600


def test_a_new_world_gets_a_prompt_try_until_several_have_failed() -> None:
    assert wait(failed(["a"] * 5), "b") == 0
    assert wait(failed(["a", "b"]), "c") == 0
    assert wait(failed(["a", "b", "c"]), "d") == 240
    assert wait(failed([f"w{n}" for n in range(600)]), "new") == 3600


def test_only_success_ends_a_row_of_failures() -> None:
    state = guards.record_success(failed(["a", "b", "c"]), "c", False, at(1))
    assert wait(state, "c") == 0 and state.failure is None and state.total == 0


def test_backoff_ends_when_its_time_has_passed() -> None:
    state = failed(["w", "w"])
    assert wait(state, "w", now=at(119)) == 1
    assert guards.backoff(state, "w", "p", at(120)) == GO


def test_an_edited_policy_cuts_the_wait_but_not_the_count() -> None:
    state = failed(["w"] * 4)
    verdict = guards.backoff(state, "w", "edited", at(1))
    assert verdict.allow and verdict.event == "backoff_cut"
    again = guards.record_failure(state, "run", "tick_failed", "no", "w", "edited", at(2))
    assert wait(again, "w", "edited", at(2)) == 960


@pytest.mark.parametrize("step", [-3600.0, -86400.0, 3600.0, 86400.0])
def test_moving_the_wall_clock_moves_no_guard(step: float) -> None:
    state = guards.record_attempt(guards.record_success(failed(["w"]), "w", True, at(0)), at(0))
    state = guards.record_failure(state, "run", "tick_failed", "no", "w", "p", at(0))
    now = at(30, step)
    assert wait(state, "w", now=now) == 30
    assert guards.hourly(state, 1, now).retry_in_s == 3570
    assert guards.revisit(state, "w", 31, now) == "" != guards.revisit(state, "w", 30, now)


def test_a_stamp_from_the_future_of_an_earlier_boot_ages_from_now_on() -> None:
    kept = guards.record_attempt(GuardState(), at(0, 90_000, "0" * 32)).to_json()
    state = GuardState.from_json(kept, at(0))
    assert guards.hourly(state, 1, at(0)).retry_in_s == 3600
    assert guards.hourly(GuardState.from_json(state.to_json(), at(3601)), 1, at(3601)).allow


def test_hourly_cap_counts_attempts_of_the_last_hour() -> None:
    state = GuardState()
    for second in (0, 600, 1200):
        state = guards.record_attempt(state, at(second))
    assert guards.hourly(state, 3, at(1200)).retry_in_s == 2400
    assert guards.hourly(state, 4, at(1200)).allow and guards.hourly(state, 0, at(1200)).allow
    assert guards.hourly(state, 3, at(3600)).allow
    assert len(guards.record_attempt(state, at(4000)).attempts) == 3


def test_no_decision_about_an_unchanged_world_stands_for_ever() -> None:
    for noop, word in ((True, "noop"), (False, "decision")):
        state = guards.record_success(GuardState(), "w", noop, at(0))
        assert guards.revisit(state, "w", 100, at(99)) == ""
        assert word in guards.revisit(state, "w", 100, at(100))
        assert guards.revisit(state, "other", 100, at(200)) == "" == guards.revisit(state, "w", 0, at(200))


ROWS = [
    '{"ts": "2023-11-14T10:00:00Z", "cost_usd": 1.5, "id": "r"}',
    '{"ts": "2023-11-13T23:59:59Z", "cost_usd": 100}',
    "",
    '{"ts": "2023-11-14T10:00:00Z", "cost_usd": null, "source": "unknown"}',
    '{"ts": "2023-11-14T01:00:00+01:00", "cost_usd": 0.25}',
    '{"ts": "2023-11-15T00:00:00Z", "cost_usd": 1}',
]
MIDNIGHT = 1699920000.0  # 2023-11-14T00:00:00Z


def test_spending_is_summed_since_midnight() -> None:
    assert guards.spent_since(ROWS, MIDNIGHT) == Spent(2.75)


@pytest.mark.parametrize("row", [
    "x", "[]", '{"ts": "yesterday", "cost_usd": 1}', '{"ts": "2023-11-14T10:00:00", "cost_usd": 1}',
    '{"ts": "2023-11-14T10:00:00Z"}', '{"ts": "2023-11-14T10:00:00Z", "cost_usd": -1}',
    '{"ts": "2023-11-14T10:00:00Z", "cost_usd": NaN}',
])  # fmt: skip
def test_a_ledger_row_that_cannot_be_read_is_named(row: str) -> None:
    spent = guards.spent_since([*ROWS, row], MIDNIGHT)
    assert spent.usd == 2.75 and len(spent.bad) == 1 and spent.bad[0].startswith("line 7: ")


def test_money_stops_at_the_cap_until_midnight() -> None:
    verdict = guards.money(GuardState(), Spent(10.0), 10.0, "d", 120)
    assert (verdict.event, verdict.retry_in_s) == ("budget_exceeded", 120)
    assert guards.money(GuardState(), Spent(9.99), 10.0, "d", 120).allow
    assert guards.money(GuardState(), Spent(99.0), 0, "d", 120).allow


def test_three_unmetered_runs_stop_deciding_until_metered_or_changed() -> None:
    state = GuardState()
    for allowed in (True, True, True, False):
        assert guards.money(state, Spent(), 10.0, "d", 1).allow is allowed
        state = guards.record_cost(state, None, "d")
    assert guards.money(state, Spent(), 10.0, "d", 1).event == "budget_unmetered"
    assert guards.money(state, Spent(), 10.0, "other", 1).allow
    assert guards.money(guards.record_cost(state, 0.0, "d"), Spent(), 10.0, "d", 1).allow


def test_unreadable_ledger_rows_count_as_unmetered() -> None:
    verdict = guards.money(GuardState(), Spent(0.0, ("line 1: x", "line 2: x", "line 3: x")), 10.0, "d", 1)
    assert not verdict.allow and "line 1: x" in verdict.reason


def flap(states: list[str | None], streak: int = 3) -> tuple[GuardState, list[tuple[str, ...]]]:
    state, crossings = GuardState(), []
    for value in states:
        items = {"playbook": "x"} | ({} if value is None else {"snap:s": value})
        state, crossed = guards.record_items(state, items, streak)
        crossings.append(crossed)
    return state, crossings


def test_a_restless_snapshot_is_flagged_once() -> None:
    state, crossings = flap(["1", "2", "3", "4", "5", "5", "6"])
    assert guards.flapping(state, 3) == ("s",) and guards.flapping(state, 0) == ()
    assert [bool(c) for c in crossings] == [False, False, False, True, False, False, False]


def test_coming_and_going_counts_as_change() -> None:
    assert guards.flapping(flap(["1", None, "1", None, "1"])[0], 3) == ("s",)


def test_a_snapshot_that_calms_down_or_is_gone_is_forgotten() -> None:
    assert guards.flapping(flap(["1", "2", "3", "4", "4", "4", "4"])[0], 3) == ()
    assert flap(["1", None, None, None])[0].flaps == {}


def test_state_survives_its_file() -> None:
    state = guards.record_cost(guards.record_attempt(failed(["a", "b"]), at(5)), None, "d")
    state = guards.record_items(state, {"snap:s": "1"}, 3)[0]
    state = guards.record_failure(guards.record_success(state, "w", True, at(6)), "r", "c", "e", "w", "p", at(7))
    assert GuardState.from_json(json.loads(json.dumps(state.to_json())), at(8)) == state


@pytest.mark.parametrize("broken", [
    {"total": "x"}, {"attempts": 5}, {"attempts": [1]}, {"failure": {"run": "r"}}, {"flaps": {"s": 1}},
    {"failures": {"w": None}}, {"decided": {"at": {}}},
])  # fmt: skip
def test_a_corrupt_state_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(JsonError):
        GuardState.from_json(broken, at(0))


def test_the_state_after_corruption_waits_as_after_four_failures() -> None:
    state = guards.degraded(at(0), "p")
    assert wait(state, "any") == 480 and guards.backoff(state, "any", "p", at(480)) == GO
    assert wait(guards.record_failure(state, "r", "c", "e", "any", "p", at(480)), "any", now=at(480)) == 960
