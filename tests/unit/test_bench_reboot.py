"""What bench/reboot.py holds against what fired: its verdicts have to be able to be bad."""

import pytest

from bench.reboot import Phase, Plan, Row, compare

ONCE = Plan("s", "once", 0, (100.0,), 100)
SKIP = Plan("s", "skip", 0, (100.0,), 100)


def rows(plan: Plan, *phases: tuple[float, float, list[float]]) -> list[Row]:
    return compare(plan, [Phase(up, down, [("s", instant) for instant in fired]) for up, down, fired in phases])


def test_what_was_seen_fires_once_each() -> None:
    assert rows(ONCE, (0, 250, [100, 200])) == [Row("s", "seen", 2, 2, 2, True)]


@pytest.mark.parametrize("fired", ([100], [100, 200, 200], [100, 150], [100, 200, 300]), ids=str)
def test_one_too_few_or_too_many_or_another_is_wrong(fired: list[float]) -> None:
    assert not all(row.right for row in rows(ONCE, (0, 250, fired)))


@pytest.mark.parametrize(("plan", "fired", "right"), [
    (ONCE, [300.0], True), (ONCE, [200.0], True), (ONCE, [], False), (ONCE, [200.0, 300.0], False),
    (SKIP, [], True), (SKIP, [300.0], False),
])  # fmt: skip
def test_what_was_missed_fires_as_its_catch_up_says(plan: Plan, fired: list[float], right: bool) -> None:
    late = Plan(plan.name, plan.catch_up, 0, (100.0, 200.0, 300.0))
    found = rows(late, (0, 150, [100]), (500, 600, fired))
    assert [row.right for row in found] == [True, right] and found[1].when == "missed"


def test_a_short_absence_is_no_absence() -> None:
    assert rows(SKIP, (0, 150, [100]), (260, 290, [200]))[1] == Row("s", "missed (back in time)", 1, 1, 1, True)


def test_a_clock_set_back_fires_nothing_again() -> None:
    assert rows(ONCE, (0, 150, [100]), (50, 150, [])) == [Row("s", "seen", 1, 1, 1, True)]
    assert not all(row.right for row in rows(ONCE, (0, 150, [100]), (50, 150, [100])))
