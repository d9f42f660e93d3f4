"""Every change is told exactly once through a chain of cursors, whatever happened between two of them."""

import random
from pathlib import Path

import pytest

from looop import changes, store
from looop.changes import ITEMS_MAX, NOWHERE, Cursor, Item, Mark, Seen, compare, home, journal, since
from looop.clock import Stamp
from looop.ctl import wait_items
from looop.ctl.survey import Roll
from looop.errors import StateError, Unavailable, UsageError
from looop.mailbox import Ask
from looop.paths import Paths
from looop.sessions.fleet import Session
from looop.systemd.identity import Holder
from looop.systemd.manager import UnitState

HOME = home(Path("/data"))


def said(**things: str) -> dict[str, Item]:
    return {name: Item(key, {"id": name, "key": key}) for name, key in things.items()}


# -- the cursor


def test_a_cursor_survives_as_text() -> None:
    cursor = Cursor(HOME, "down", {"asks": {"w1-1": "abc"}, "goals": "digest"}, Mark(7, "x", "y"))
    text = cursor.encode()
    assert Cursor.decode(f" {text}\n", HOME) == cursor
    assert text.isascii() and not set(text) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize("cut", ["empty", "foreign word", "short", "other data", "flipped", "bomb", "not a mapping"])
def test_what_is_no_cursor_says_how_to_start_anew(cut: str) -> None:
    import base64
    import zlib

    text = Cursor(HOME, "up", {"asks": {"w1-1": "abc"}}).encode()

    def made(data: bytes) -> str:
        return "c1." + base64.urlsafe_b64encode(zlib.compress(data)).decode()

    bad = {
        "empty": "", "foreign word": "yesterday", "short": text[:-9], "other data": text,
        "flipped": text[:12] + ("A" if text[12] != "A" else "B") + text[13:],
        "bomb": made(b" " * 50_000_000), "not a mapping": made(b"[1]"),
    }[cut]  # fmt: skip
    with pytest.raises(UsageError, match="cursor") as error:
        Cursor.decode(bad, "elsewhere" if cut == "other data" else HOME)
    assert "looopctl state --json" in str(error.value)


def test_a_cursor_fits_into_one_word_whatever_there_is() -> None:
    known: dict[str, changes.Known] = {
        category: {f"{random.randbytes(24).hex()}-{n}": changes.short(str(n)) for n in range(size)}
        for category, size in (("asks", ITEMS_MAX), ("goals", ITEMS_MAX), ("workers", ITEMS_MAX + 1), ("claims", 3))
    }
    text = Cursor(HOME, "up", known).encode()
    assert len(text) < 128 * 1024
    again = Cursor.decode(text, HOME)
    assert again.known["workers"] == changes.collapse(known["workers"]) and again.known["claims"] == known["claims"]


# -- comparing


def test_items_come_change_and_go() -> None:
    known, news = compare({}, said(a="1", b="1"))
    assert news and [thing["id"] for thing in news.changed] == ["a", "b"]
    known, news = compare(known, said(a="2", c="1"))
    assert news and [thing["id"] for thing in news.changed] == ["a", "c"] and news.gone == ["b"]
    assert compare(known, said(a="2", c="1")) == (known, None)


def test_what_cannot_be_known_is_neither_changed_nor_gone() -> None:
    known, _ = compare({}, said(a="1"))
    assert compare(known, {"a": Item("?", {}, sure=False)}) == (known, None)
    cursor = Cursor(HOME, "up", {"workers": known})
    after, news, moved = since(cursor, Seen({}))
    assert (after, news, moved) == (cursor, {}, [])


def test_what_was_never_known_is_told_when_it_is() -> None:
    cursor = since(Cursor(HOME), Seen({"goals": {}}))[0]
    _, news, moved = since(cursor, Seen({"goals": {}, "workers": said(w1="running")}))
    assert moved == ["workers"] and [thing["id"] for thing in news["workers"].changed] == ["w1"]


def test_a_category_with_too_many_items_is_told_as_a_whole() -> None:
    many = {f"g{n}": Item("1", n) for n in range(ITEMS_MAX + 1)}
    cursor = since(Cursor(HOME), Seen({"goals": many}))[0]
    cursor = Cursor.decode(cursor.encode(), HOME)
    assert since(cursor, Seen({"goals": many}))[2] == []
    _, news, moved = since(cursor, Seen({"goals": {**many, "g7": Item("2", "new")}}))
    assert moved == ["goals"] and news["goals"].notes == {"collapsed": True}
    assert len(news["goals"].changed) == len(many)


def test_the_pulse_is_told_of_once() -> None:
    cursor = Cursor(HOME)
    cursor, _, moved = since(cursor, Seen({}, "down"))
    assert moved == ["pulse-down"]
    cursor, _, moved = since(cursor, Seen({}, ""))  # starting, or not known: neither
    assert moved == []
    cursor, _, moved = since(cursor, Seen({}, "down"))
    assert moved == []
    cursor, _, moved = since(cursor, Seen({}, "up"))
    assert moved == ["pulse-up"]


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_edits_is_told_exactly_once(seed: int, paths: Paths) -> None:
    """A model reader that applies what it is told always holds what is there, and nothing is told it holds already."""
    chance = random.Random(seed)
    cursor = Cursor(home(paths.data))
    held: dict[str, dict[str, str]] = {"goals": {}, "snapshots": {}, "playbook": {}}
    lines: list[str] = []
    written: list[str] = []
    mark = journal(paths.journal, paths.journal.with_name("journal.md.1"), None)[0]
    cursor = Cursor(cursor.home, "up", cursor.known, mark)
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            _edit(chance, paths, written)
        if chance.random() < 0.2:
            cursor = Cursor.decode(cursor.encode(), home(paths.data))
        mark, told = wait_items.journal_since(paths, cursor.journal)
        readers = {"goals": wait_items.goals, "snapshots": wait_items.snapshots, "playbook": wait_items.playbook}
        seen = {name: read(paths) for name, read in readers.items()}
        if chance.random() < 0.1:
            del seen["goals"]  # it could not be read this time
        before = {name: dict(values) for name, values in held.items()}
        cursor, news, moved = since(cursor, Seen(seen, "up", mark, told))
        assert set(moved) == set(news)
        for category in held:
            for thing in news[category].changed if category in news else []:
                name = thing.get("id") or thing.get("name") or "PLAYBOOK.md"
                value = str(thing.get("body") or thing.get("value"))
                assert before[category].get(name) != value, "told again"
                held[category][name] = value
            for name in news[category].gone if category in news else []:
                del held[category][name]
            if category in seen:
                there = {
                    n: str(i.shown.get("body") or i.shown.get("value")) for n, i in seen[category].items()
                }  # fmt: skip
                assert held[category] == there
        lines += [str(line) for line in news["journal"].changed] if "journal" in news else []
        assert lines == written


def _edit(chance: random.Random, paths: Paths, written: list[str]) -> None:
    what, n, value = chance.randrange(5), chance.randrange(4), str(chance.randrange(3))
    if what == 0:
        store.write(paths.goal(f"g{n}"), f"body {value}")
    elif what == 1:
        store.remove(paths.goal(f"g{n}"))
    elif what == 2:
        store.write(paths.snapshots / f"s{n}.json", f'{{"signal":{value}}}')
    elif what == 3:
        store.write(paths.playbook, f"play {value}")
    else:
        line = f"- line {len(written)}"
        store.append_line(paths.journal, line, max_bytes=200)  # more than is written between two looks
        written.append(line)


# -- the journal


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "journal.md", tmp_path / "journal.md.1"


def test_lines_are_told_when_they_are_finished(files: tuple[Path, Path]) -> None:
    mark, news = journal(*files, None)
    assert news is None
    files[0].write_text("one\ntwo")
    mark, news = journal(*files, mark)
    assert news and news.changed == ["one"]
    assert journal(*files, mark) == (mark, None)
    with files[0].open("a") as file:
        file.write(" and a half\nthree\n")
    mark, news = journal(*files, mark)
    assert news and news.changed == ["two and a half", "three"]


@pytest.mark.parametrize("at_first", ["", "one\n", "one\ntwo"])
def test_a_rotation_loses_nothing(files: tuple[Path, Path], at_first: str) -> None:
    if at_first:
        files[0].write_text(at_first)
    mark, _ = journal(*files, None)
    files[0].write_text(at_first + "\nthree\n")
    files[0].rename(files[1])
    mark, news = journal(*files, mark)
    assert news and news.changed[-1] == "three"
    files[0].write_text("four\n")
    mark, news = journal(*files, mark)
    assert news and news.changed == ["four"]


def test_a_rewritten_journal_is_said_to_be_one_and_its_tail_is_told(files: tuple[Path, Path]) -> None:
    files[0].write_text("".join(f"line {n}\n" for n in range(100)))
    mark, _ = journal(*files, None)
    files[0].write_text("".join(f"other {n}\n" for n in range(90)))
    mark, news = journal(*files, mark)
    assert news and news.notes == {"rewritten": True} and news.changed == [f"other {n}" for n in range(70, 90)]
    assert journal(*files, mark)[1] is None


def test_a_journal_that_could_not_be_read_is_told_of_by_its_tail(files: tuple[Path, Path]) -> None:
    files[0].write_text("one\ntwo\n")
    _, news = journal(*files, NOWHERE)
    assert news and news.changed == ["one", "two"] and news.notes["rewritten"]
    files[0].unlink()
    files[0].mkdir()
    with pytest.raises(StateError, match="journal.md"):
        journal(*files, NOWHERE)


# -- what is news


class Fixed:
    """Stands for a manager: these units live."""

    def __init__(self, scope: str = "user", **alive: str) -> None:
        self.scope = scope
        self.alive = alive
        self.away = False

    def list_units(self, patterns: object) -> dict[str, UnitState]:
        if self.away:
            raise Unavailable("cannot reach the user manager")
        return {unit: UnitState(unit, "active", "running", "/") for unit in self.alive}

    def invocations(self, units: object) -> dict[str, str]:
        return dict(self.alive)


def roll(manager: Fixed, *asks: Ask) -> Roll:
    return Roll(manager, manager, [ask.holder for ask in asks if ask.holder])  # type: ignore[arg-type]


def test_a_held_ask_is_told_once_and_once_more_when_it_is_stranded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("looop.ctl.survey.boot_id", lambda: "b")
    unit = "looop-worker-w1.scope"
    ask = Ask("w1-1", "w1", "Deploy?", ts=100.0, holder=Holder(unit, "user", "i" * 32, "b"))
    manager = Fixed(**{unit: "i" * 32})
    first = wait_items.asks([ask], roll(manager, ask), 101.0)
    known, news = compare({}, first)
    assert news
    assert compare(known, wait_items.asks([ask], roll(manager, ask), 9999.0))[1] is None, "its age is no news"
    manager.away = True
    assert compare(known, wait_items.asks([ask], roll(manager, ask), 9999.0)) == (known, None)
    manager.away = False
    manager.alive = {}
    known, news = compare(known, wait_items.asks([ask], roll(manager, ask), 9999.0))
    assert news and news.changed[0]["state"] == "stranded"
    manager.away = True
    assert compare(known, wait_items.asks([ask], roll(manager, ask), 9999.0)) == (known, None)


def test_an_ask_raised_while_the_bus_is_away_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("looop.ctl.survey.boot_id", lambda: "b")
    unit = "looop-worker-w1.scope"
    ask = Ask("w1-1", "w1", "Deploy?", ts=100.0, holder=Holder(unit, "user", "i" * 32, "b"))
    manager = Fixed(**{unit: "i" * 32})
    manager.away = True
    known, news = compare({}, wait_items.asks([ask], roll(manager, ask), 101.0))
    assert news and news.changed[0]["state"] == "unknown"
    manager.away = False
    assert compare(known, wait_items.asks([ask], roll(manager, ask), 101.0)) == (known, None)


def worker(**changed: object) -> Session:
    fields = {"id": "w1", "state": "running", "alive": True, "health": "busy", "unit": "u", "invocation": "i"}
    return Session(**{**fields, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "is_news"),
    [
        ({"idle_s": 900.0}, False),
        ({"uptime_s": 9.0, "ask_age_s": 3.0}, False),
        ({"health": "waiting-ask"}, False),
        ({"started": Stamp(1.0, "b", 1.0)}, False),
        ({"state": "exited", "alive": False, "exit_code": 0}, True),
        ({"invocation": "j"}, True),
        ({"verify": "pass"}, True),
        ({"note": "look at me"}, True),
    ],
)
def test_what_is_news_about_a_worker(change: dict[str, object], is_news: bool, paths: Paths) -> None:
    known, _ = compare({}, wait_items.workers([worker()], paths))
    assert (compare(known, wait_items.workers([worker(**change)], paths))[1] is not None) == is_news


def test_being_stuck_is_news_when_the_pulse_says_so(paths: Paths) -> None:
    known, _ = compare({}, wait_items.workers([worker()], paths))
    stuck = '{"signal":[{"id":"w1","health":"stuck"}],"detail":{"count":1}}'
    store.write(paths.snapshots / "sys-sessions.json", stuck)
    known, news = compare(known, wait_items.workers([worker()], paths))
    assert news
    store.write(paths.snapshots / "sys-sessions.json", stuck.replace('"count":1', '"count":2'))
    assert compare(known, wait_items.workers([worker()], paths))[1] is None


def test_the_detail_of_a_snapshot_is_no_news(paths: Paths) -> None:
    path = paths.snapshots / "s.json"
    store.write(path, '{"signal":{"a":1,"b":2},"detail":"x"}')
    known, _ = compare({}, wait_items.snapshots(paths))
    store.write(path, '{"signal":{"b":2,"a":1},"detail":"y"}')
    assert compare(known, wait_items.snapshots(paths))[1] is None
    store.write(path, "no JSON")
    known, news = compare(known, wait_items.snapshots(paths))
    assert news and news.changed == [{"name": "s", "value": None, "note": "not JSON", "raw": "no JSON"}]


def test_a_schedule_is_news_when_it_is_written_and_when_it_has_fired(paths: Paths) -> None:
    store.write_json(paths.schedules / "s.json", {"v": 1, "every_s": 60, "anchor": 0})
    known, news = compare({}, wait_items.schedules(paths))
    assert news
    store.write(paths.snapshots / "sys-schedules.json", '{"signal":{"s":{"period":1}},"detail":{}}')
    known, news = compare(known, wait_items.schedules(paths))
    assert news and news.changed[0]["state"] == {"period": 1}
    store.write(paths.schedules / "s.json", "{")
    assert compare(known, wait_items.schedules(paths))[1]


def test_an_unreadable_goal_keeps_what_is_known_of_it(paths: Paths) -> None:
    store.write(paths.goal("g"), "body")
    known, _ = compare({}, wait_items.goals(paths))
    paths.goal("g").unlink()
    paths.goal("g").mkdir()
    assert compare(known, wait_items.goals(paths)) == (known, None)
