"""Ages do not follow a wall clock that is set back or forth."""

from looop.clock import Stamp


def test_within_one_boot_the_wall_clock_does_not_matter() -> None:
    then = Stamp(wall=10_000, boot="b", mono=100)
    assert then.age(Stamp(wall=10_000 - 3600, boot="b", mono=130)) == 30
    assert then.age(Stamp(wall=99_999, boot="b", mono=130)) == 30


def test_across_a_boot_the_wall_clock_is_used_and_the_future_is_clamped() -> None:
    then = Stamp(wall=10_000, boot="b", mono=100)
    assert then.age(Stamp(wall=10_050, boot="c", mono=1)) == 50
    assert then.age(Stamp(wall=9_000, boot="c", mono=1)) == 0


def test_a_stamp_survives_json() -> None:
    stamp = Stamp(1.5, "b", 2.5)
    assert Stamp.from_json(stamp.to_json()) == stamp
