"""A lease has one holder, lives as long as that does, and is never given away on a guess."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from looop import claims, store
from looop.claims import Claim, Held
from looop.clock import boot_id
from looop.ctl import main
from looop.errors import StateError, TryAgain, Unavailable, UsageError
from looop.paths import Paths
from looop.systemd.identity import Holder
from looop.systemd.names import worker_of, worker_unit

NOW = 1000.0


def holder(name: str, invocation: str = "1" * 32) -> Holder:
    return Holder(worker_unit(name), "user", invocation, boot_id())


A, B = holder("a"), holder("b")


def dead(who: Holder) -> bool:
    return False


def live(who: Holder) -> bool:
    return True


def unknown(who: Holder) -> bool:
    raise Unavailable("cannot reach systemd: no bus")


def never(who: Holder) -> bool:
    raise AssertionError("nobody had to be judged")


def once(judge: claims.Judge) -> claims.Snapshot:
    return lambda holders: judge


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(claims, "_tell", lambda event, claim: seen.append((event, claim.name)))
    yield seen


def take(paths: Paths, who: Holder = A, judge: claims.Judge = never, name: str = "repo-x") -> bool:
    return claims.take(paths, name, who, worker_of(who.unit) or who.unit, judge, NOW)


def test_a_free_lease_is_taken_and_says_by_whom(paths: Paths, events: list[tuple[str, str]]) -> None:
    assert take(paths)
    claim = claims.read(paths, "repo-x")
    assert claim == Claim("repo-x", "a", A, NOW)
    record = json.loads((paths.claims / "repo-x.json").read_text())
    assert record == {"v": 1, "name": "repo-x", "session": "a", **A.to_json(), "since": NOW}
    assert events == [("claim_taken", "repo-x")]


def test_taking_it_again_writes_nothing(paths: Paths, events: list[tuple[str, str]]) -> None:
    take(paths)
    before = (paths.claims / "repo-x.json").stat()
    assert not take(paths)
    after = (paths.claims / "repo-x.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(events) == 1


def test_a_live_holder_keeps_it_and_is_named(paths: Paths) -> None:
    take(paths)
    with pytest.raises(Held, match=r"held by live a \(looop-worker-a.scope\) since 1970-01-01T00:16:40Z") as caught:
        take(paths, B, live)
    assert caught.value.claim.holder == A and caught.value.code == 1
    assert claims.read(paths, "repo-x") == Claim("repo-x", "a", A, NOW)


def test_a_dead_holder_is_replaced(paths: Paths, events: list[tuple[str, str]]) -> None:
    take(paths)
    assert take(paths, B, dead)
    claim = claims.read(paths, "repo-x")
    assert claim and claim.holder == B
    assert events[1:] == [("claim_reaped", "repo-x"), ("claim_taken", "repo-x")]


def test_the_next_generation_does_not_inherit(paths: Paths) -> None:
    take(paths)
    again = holder("a", "2" * 32)
    with pytest.raises(Held):
        take(paths, again, live)
    assert take(paths, again, dead)


def test_a_holder_that_cannot_be_judged_keeps_it(paths: Paths) -> None:
    take(paths)
    with pytest.raises(Unavailable) as caught:
        take(paths, B, unknown)
    assert caught.value.code == 69
    with pytest.raises(Unavailable):
        claims.release(paths, "repo-x", ("user", B.unit), unknown)
    with pytest.raises(Unavailable):
        claims.reap(paths, once(unknown))
    claim = claims.read(paths, "repo-x")
    assert claim and claim.holder == A


def ruin_truncated(path: Path) -> None:
    path.write_text('{"v": 1, "name": "rep')


def ruin_empty(path: Path) -> None:
    path.write_text("")


def ruin_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def ruin_link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def ruin_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def ruin_types(path: Path) -> None:
    path.write_text('{"session": "a", "invocation": 7, "unit": [], "since": "x"}')


def ruin_binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{}")


RUINS = [ruin_folder, ruin_truncated, ruin_empty, ruin_link, ruin_fifo, ruin_types, ruin_binary]


@pytest.mark.parametrize("ruin", RUINS, ids=[r.__name__ for r in RUINS])
def test_a_broken_record_is_named_shown_and_never_free(paths: Paths, ruin: Callable[[Path], None]) -> None:
    take(paths)
    take(paths, name="other")
    path = paths.claims / "repo-x.json"
    ruin(path)
    with pytest.raises(StateError, match=r"repo-x.json.*unclaim --force repo-x"):
        take(paths, B, dead)
    with pytest.raises(StateError):
        claims.release(paths, "repo-x", ("user", A.unit), dead)
    assert [(c.name, bool(c.broken)) for c in claims.listing(paths)] == [("other", False), ("repo-x", True)]
    assert [c.name for c in claims.reap(paths, once(dead))] == ["other"]
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("ruin", RUINS[1:], ids=[r.__name__ for r in RUINS[1:]])
def test_force_clears_a_broken_record(paths: Paths, ruin: Callable[[Path], None]) -> None:
    take(paths)
    ruin(paths.claims / "repo-x.json")
    assert claims.release(paths, "repo-x", None, never, force=True)
    assert take(paths, B)


def test_a_folder_in_its_place_is_left_for_the_human(paths: Paths) -> None:
    (paths.claims / "repo-x.json").mkdir()
    with pytest.raises(StateError, match="move it away"):
        claims.release(paths, "repo-x", None, never, force=True)


def test_a_planted_link_is_neither_followed_nor_written_through(paths: Paths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(store.dump_json(Claim("x", "a", A, NOW).to_json()))
    (paths.claims / "repo-x.json").symlink_to(outside)
    with pytest.raises(StateError, match="not a regular file"):
        take(paths, A)
    assert claims.release(paths, "repo-x", None, never, force=True)
    assert outside.exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "a\nb", "a\0b", "ä", "x" * 65, "x" * 300])
def test_a_bad_name_is_refused(paths: Paths, name: str) -> None:
    with pytest.raises(UsageError):
        take(paths, name=name)
    with pytest.raises(UsageError):
        claims.release(paths, name, None, never, force=True)


def test_a_file_that_is_no_claim_is_shown_as_broken(paths: Paths) -> None:
    (paths.claims / "not a name.json").write_text("{}")
    assert [(c.name, "cannot use" in c.broken) for c in claims.listing(paths)] == [("not a name", True)]
    assert claims.reap(paths, once(dead)) == []


@pytest.mark.parametrize("record", [
    {"session": "a", "name": "repo-x"},
    {"session": "a", "name": "repo-x", "ts": 5, "nonce": "12-1"},
])  # fmt: skip
def test_a_record_without_an_invocation_is_judged_by_its_session(paths: Paths, record: dict[str, object]) -> None:
    (paths.claims / "repo-x.json").write_text(json.dumps(record))
    with pytest.raises(Held, match="held by live a"):
        take(paths, B, lambda who: who.unit == worker_unit("a"))
    assert take(paths, B, dead)


def test_a_record_without_a_holder_is_broken(paths: Paths) -> None:
    (paths.claims / "repo-x.json").write_text('{"session": "", "name": "repo-x"}')
    with pytest.raises(StateError, match="session"):
        take(paths, B, dead)


def test_release(paths: Paths, events: list[tuple[str, str]]) -> None:
    me, other = ("user", A.unit), ("user", B.unit)
    assert not claims.release(paths, "repo-x", me, never)
    take(paths)
    assert claims.release(paths, "repo-x", me, never)
    take(paths)
    with pytest.raises(Held, match="cannot release repo-x: held by live a"):
        claims.release(paths, "repo-x", other, live)
    with pytest.raises(Held):
        claims.release(paths, "repo-x", None, live)
    with pytest.raises(Held):
        claims.release(paths, "repo-x", ("system", A.unit), live)
    assert claims.release(paths, "repo-x", other, dead)
    take(paths)
    assert claims.release(paths, "repo-x", None, never, force=True)
    assert [e for e, _ in events].count("claim_released") == 3


def test_reaping_takes_the_dead_and_only_them(paths: Paths, events: list[tuple[str, str]]) -> None:
    take(paths, A, name="one")
    take(paths, B, name="two")
    take(paths, A, name="three")
    asked: list[Sequence[Holder]] = []

    def look(holders: Sequence[Holder]) -> claims.Judge:
        asked.append(holders)
        with pytest.raises(TryAgain), store.lock(paths.claims / ".lock", 0):
            pass  # the view is taken under the lock
        return lambda who: who == B

    assert [c.name for c in claims.reap(paths, look)] == ["one", "three"]
    assert asked == [[A, A, B]]
    assert [c.name for c in claims.listing(paths)] == ["two"]
    assert events[-2:] == [("claim_reaped", "one"), ("claim_reaped", "three")]


def test_reaping_nothing_asks_nobody_and_a_busy_lock_is_try_again(paths: Paths) -> None:
    def look(holders: Sequence[Holder]) -> claims.Judge:
        raise AssertionError

    assert claims.reap(paths, look) == []
    take(paths)
    with store.lock(paths.claims / ".lock"), pytest.raises(TryAgain):
        claims.reap(paths, look)


def test_state(paths: Paths) -> None:
    claim = Claim("x", "a", A, NOW)
    assert [claims.state(claim, j) for j in (live, dead, unknown)] == ["live", "dead", "unknown"]
    assert claims.state(Claim("x", broken="cannot read"), live) == "broken"


class FakeManager:
    """Answers `live` from a table; counts the questions."""

    def __init__(self, scope: str, units: dict[str, str] | None) -> None:
        self.scope = scope
        self.units = units
        self.asked: list[list[str]] = []

    def live(self, patterns: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(patterns))
        if self.units is None:
            raise Unavailable("cannot reach systemd")
        return self.units


def test_one_question_per_manager_judges_them_all() -> None:
    user = FakeManager("user", {A.unit: A.invocation, B.unit: "9" * 32})
    system = FakeManager("system", {})
    old = Holder(A.unit, "user", A.invocation, "0" * 32)
    legacy = Holder(A.unit, "user", "", "")
    judge = claims.snapshot(user, system)([A, B, old, legacy])  # type: ignore[arg-type]
    assert [judge(who) for who in (A, B, old, legacy)] == [True, False, False, True]
    assert len(user.asked) == 1 and system.asked == []


def test_one_look_without_a_bus_says_unknown_for_each() -> None:
    judge = claims.one_look(FakeManager("user", None), FakeManager("system", {}), [A])  # type: ignore[arg-type]
    assert claims.state(Claim("x", "a", A, NOW), judge) == "unknown"


def racer(paths: Paths, n: int, start: Barrier, out: str) -> None:
    start.wait(30)
    try:
        won = claims.take(paths, "repo-x", holder(f"r{n}"), f"r{n}", lambda who: who != A, NOW)
    except Held:
        won = False
    with open(out, "a") as file:
        file.write(f"{n} {int(won)}\n")


def test_of_many_racers_for_a_dead_holders_lease_one_wins(paths: Paths, tmp_path: Path) -> None:
    take(paths)
    out = tmp_path / "out"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(16)
    racers = [context.Process(target=racer, args=(paths, n, start, str(out))) for n in range(16)]
    for process in racers:
        process.start()
    for process in racers:
        process.join(30)
    results = [line.split() for line in out.read_text().splitlines()]
    assert len(results) == 16
    winners = [n for n, won in results if won == "1"]
    claim = claims.read(paths, "repo-x")
    assert claim and [f"r{n}" for n in winners] == [claim.session]


@pytest.mark.parametrize("words", [
    ["claim"],
    ["claim", "--wait"],
    ["claim", "--wait", "5"],
    ["claim", "--wait=soon", "x"],
    ["claim", "--wait=-1", "x"],
    ["claim", "x", "y"],
    ["claim", "--session"],
    ["claim", "a/b"],
    ["claim", "x", "--session", "../x"],
    ["claim", "x", "--session", "w", "--", "true"],
    ["unclaim"],
    ["unclaim", ".."],
])  # fmt: skip
def test_misuse_is_exit_64_and_leaves_nothing(
    words: list[str], paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    assert main(words) == 64
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err
    assert store.names(paths.claims, ".json") == []
