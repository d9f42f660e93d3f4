"""`watch` without a terminal: what it says, where it puts it, what keys do; and that no worker can break out of it."""

import argparse
import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

urwid = pytest.importorskip("urwid")

from looop import mailbox  # noqa: E402
from looop.clock import Stamp, age  # noqa: E402
from looop.errors import Unavailable  # noqa: E402
from looop.paths import Paths  # noqa: E402
from looop.sessions.control import Idle  # noqa: E402
from looop.sessions.fleet import Session  # noqa: E402
from looop.screens.screen import Screen  # noqa: E402
from looop.tui import follow, layout, panes, text, widgets  # noqa: E402
from looop.tui.follow import frame  # noqa: E402
from looop.tui.log import LogTail  # noqa: E402
from looop.tui.model import AskView, Filter, Look, Meter, View, headline, size  # noqa: E402
from looop.tui.panes import Facts  # noqa: E402
from looop.tui.state import Act, Draft, Pane, Send, State  # noqa: E402
from looop.tui.table import Table, rows  # noqa: E402

ROOT = Path(__file__).parents[2]
BOOT = "b" * 32
NOW = Stamp(1_700_000_000.0, BOOT, 5000.0)
ASK = AskView("asker-1", "asker", "pending", "Deploy it now?", ("yes", "no", "next week"), age_s=66.0)


def session(worker_id: str, up: float | None = 300.0, **changes: Any) -> Session:
    started = None if up is None else Stamp(NOW.wall - up, BOOT, NOW.mono - up)
    known: dict[str, Any] = {"state": "running", "alive": True, "health": "busy", "idle_s": 3.0}
    known |= {"unit": "u", "invocation": "i"} | changes
    return Session(id=worker_id, started=started, uptime_s=up, **known)


def dead(worker_id: str, ago: float, **changes: Any) -> Session:
    made = session(worker_id, up=ago + 10, alive=False, health="dead", state="exited", exit_code=0, idle_s=None)
    return replace(made, uptime_s=10.0, **changes)


FLEET = (
    session("asker", 500, health="waiting-ask", ask_age_s=66.0),
    session("busy", 40, memory_bytes=123_456_789, tasks=5),
    session("stuck", 9000, health="stuck", idle_s=4000.0),
    dead("failed", 60, exit_code=1, verify="fail"),
    dead("long-ago", 90_000),
    session("young", 2),
)
LOOK = Look(NOW, "active", "idle: nothing has changed", FLEET, (ASK,), ("- 2026-01-01 10:00 noop: all is well",))


def made(look: Look = LOOK, view: View | None = None) -> State:
    state = State(view or View(Filter.ALL))
    state.take(look, rows(look, state.view, {}, NOW))
    return state


def drawn(state: State, facts: Facts, cols: int, rows_: int, depth: int = 256) -> list[str]:
    """What urwid would put on a terminal of this size; every line has its width."""
    urwid.set_encoding("utf8")
    root = widgets.Root(state, lambda: facts, lambda key: None, depth)
    canvas = root.render((cols, rows_), True)
    lines = [b"".join(run for _, _, run in line).decode() for line in canvas.content()]
    assert len(lines) == rows_ and {text.columns(line) for line in lines} == {cols}
    return lines


# -- text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"), ("tab\tbed", "tab  bed"), ("\x1b[31mred\x07", " [31mred "), ("a\u202eb\u200bc", "a b c"),
        ("e\u0301\u0301\u0301\u0301", "e\u0301\u0301"), ("\U0001f44d\U0001f3fd", "\U0001f44d "), ("\x9b2J", " 2J"),
    ],
)  # fmt: skip
def test_nothing_but_what_can_be_shown_comes_out(given: str, shown: str) -> None:
    assert text.safe(given) == shown


@pytest.mark.parametrize("cols", range(1, 12))
def test_a_line_has_exactly_its_columns_whatever_is_in_it(cols: int) -> None:
    given_ = ("", "a", "\u5b57\u5b57\u5b57", "a\u5b57b\u0301\u5b57", "\U0001f680" * 9, "x" * 20, "\ufe0f\u200d\u1161")
    for given in given_:
        assert sum(text.columns(part) for _, part in text.fit([("", given)], cols)) == cols
        assert all(text.columns(line) <= max(cols, 2) for line in text.wrap(given, cols))


def test_wrapping_keeps_words_and_line_breaks() -> None:
    assert text.wrap("one two three\nfour", 9) == ["one two", "three", "four"]
    assert text.wrap("", 9) == [""]
    assert text.wrap("word " * 100, 9, limit=3) == ["word word"] * 3


@pytest.mark.parametrize("left", range(4))
def test_a_part_of_a_screen_has_its_columns_also_across_wide_characters(left: int) -> None:
    screen = Screen(1, 10)
    screen.feed("a\u5b57b\u5b57\U0001f680e\u0301".encode())
    for cols in range(1, 11):
        assert sum(text.columns(part) for _, part in text.drawn(screen.row(0), left, cols)) == cols


# -- the table


def test_the_pulse_is_first_then_the_youngest() -> None:
    found = rows(LOOK, View(Filter.ALL), {}, NOW)
    assert [row.id for row in found] == ["pulse", "young", "busy", "failed", "asker", "stuck", "long-ago"]
    assert {row.id: row.tone for row in found} == {
        "pulse": "", "young": "", "busy": "", "failed": "bad", "asker": "wait", "stuck": "bad", "long-ago": "dim",
    }  # fmt: skip
    assert [row.id for row in found if row.failed] == ["failed"]


def test_filters_hide_the_dead_and_say_how_many_but_never_whom_was_asked_for() -> None:
    living, recent = View(), View(Filter.RECENT, within=3600)
    assert "failed" not in [row.id for row in rows(LOOK, living, {}, NOW)] and living.hidden == 2
    assert [r.id for r in rows(LOOK, recent, {}, NOW) if r.cells["health"] == "dead"] == ["failed"]
    assert "long-ago" in [row.id for row in rows(LOOK, View(asked="long-ago"), {}, NOW)]
    assert "2 ended ones hidden" in headline(LOOK, living)


@pytest.mark.parametrize(("pulse", "word", "tone"), [
    ("active", "up", ""), ("failed", "down", "bad"), ("inactive", "down", "bad"), ("unknown", "unknown", "bad"),
    ("activating", "activating", "wait"),
])  # fmt: skip
def test_the_pulse_is_up_down_or_unknown(pulse: str, word: str, tone: str) -> None:
    row = rows(replace(LOOK, pulse=pulse), View(), {}, NOW)[0]
    assert (row.cells["health"], row.tone) == (word, tone)


def test_when_systemd_is_silent_the_last_known_fleet_stays_and_is_marked() -> None:
    later = Stamp(NOW.wall + 60, BOOT, NOW.mono + 60)
    look = Look(later, trouble=("cannot reach it",)).after(LOOK)
    assert look.stale and look.asks == LOOK.asks
    found = {row.id: row for row in rows(look, View(Filter.ALL), {"busy": 50.0}, later)}
    assert found["busy"].cells["health"] == "busy?" and found["busy"].cells["state"] == "unknown"
    assert found["busy"].cells["cpu"] == "-" and found["failed"].cells["health"] == "dead"
    assert headline(look, View()).startswith("4 live?")
    assert Look(later).after(None).sessions is None and "workers unknown" in headline(Look(later), View())
    assert not replace(LOOK, at=later).after(look).stale


@pytest.mark.parametrize("cols", [60, 70, 80, 100, 120, 200])
def test_every_width_has_the_columns_that_fit(cols: int) -> None:
    found = rows(LOOK, View(Filter.ALL), {}, NOW)
    table = Table.fitting(found, cols)
    header = table.header()
    assert len(header) <= cols and header.startswith("ID ") and "HEALTH" in header and "ASK" in header
    assert ("TASKS" in header) == (cols >= 80)


def test_long_ids_keep_their_ends() -> None:
    look = replace(LOOK, sessions=(session("w" * 60 + "-0001"), session("w" * 60 + "-0002")))
    shown = "\n".join(drawn(made(look), Facts(look), 80, 24))
    assert "..-0001" in shown and "..-0002" in shown


def test_processor_use_is_the_difference_of_two_readings() -> None:
    meter = Meter()
    meter.read([session("w", cpu_s=10.0)], 100.0)
    assert meter.percent == {}
    meter.read([session("w", cpu_s=11.0)], 102.0)
    assert meter.percent == {"w": 50.0}
    meter.read([session("w", cpu_s=11.0)], 102.1)  # too soon to say
    assert meter.percent == {"w": 50.0}
    meter.read([session("w", cpu_s=1.0, invocation="another")], 104.0)
    assert meter.percent == {}
    meter.read([session("w", cpu_s=None, invocation="another")], 106.0)
    assert meter.percent == {}


def test_what_shims_say_is_shown_without_another_look() -> None:
    later = Stamp(NOW.wall + 2, BOOT, NOW.mono + 2)
    look = LOOK.probed({"busy": Idle(7.0, 8.0, 1.5, 2048, 3)}, later)
    cells = {row.id: row.cells for row in rows(look, View(), {}, later)}
    assert (cells["busy"]["idle"], cells["busy"]["memory"], cells["busy"]["tasks"]) == ("7s", "2.0K", "3")
    assert cells["asker"]["ask"] == "68s" and cells["asker"]["idle"] == "-"
    assert look.asks is not None and look.asks[0].age_s == 68.0


@pytest.mark.parametrize(
    ("seconds", "word"), [(None, "-"), (0, "0s"), (89, "89s"), (90, "1m"), (5400, "1h"), (2e5, "2d")]
)
def test_ages(seconds: float | None, word: str) -> None:
    assert age(seconds) == word


@pytest.mark.parametrize(
    ("count", "word"), [(None, "-"), (5, "5B"), (2048, "2.0K"), (123 << 20, "123M"), (3 << 29, "1.5G")]
)
def test_sizes(count: int | None, word: str) -> None:
    assert size(count) == word


# -- the whole


@pytest.mark.parametrize(("cols", "rows_"), [(60, 15), (80, 24), (100, 30), (120, 24), (200, 50), (300, 100)])
def test_every_size_shows_the_pulse_the_selected_worker_the_question_and_the_keys(cols: int, rows_: int) -> None:
    state = made()
    state.select("stuck")
    screen = Screen(24, 80)
    screen.feed(b"the end of it\r\n$ ")
    lines = drawn(state, Facts(LOOK, frame("stuck", screen)), cols, rows_)
    shown = "\n".join(lines)
    assert lines[1].startswith("ID") and lines[2].startswith("pulse") and "? help  q quit" in lines[-1]
    for wanted in ("1 asking", "stuck: screen 80x24", "the end of it", "Deploy it now?", "\nstuck"):
        assert wanted in shown
    assert ("journal" in shown) == (cols >= 120)


def test_tab_reaches_every_pane_where_there_is_no_room_for_all() -> None:
    state = made()
    seen = set()
    for _ in Pane:
        state.press("tab")
        seen.add("journal" if "all is well" in "\n".join(drawn(state, Facts(LOOK), 80, 24)) else state.focus)
        state.press("z")
        assert {place.pane for place in layout.places(state, 80, 24)} == {state.focus}
        state.press("z")
    assert seen == {"fleet", "screen", "asks", "journal"}


@pytest.mark.parametrize(("cols", "rows_"), [(59, 24), (80, 14), (10, 3), (1, 1)])
def test_a_terminal_that_is_too_small_is_told_so(cols: int, rows_: int) -> None:
    shown = "\n".join(drawn(made(), Facts(LOOK), cols, rows_))
    assert cols < 30 or "needs 60x15" in shown and f"this is {cols}x{rows_}" in shown


@pytest.mark.parametrize("look", [None, Look(NOW), Look(NOW, "active", sessions=(), asks=())])
def test_little_or_no_knowledge_is_drawn_too(look: Look | None) -> None:
    state = State(View())
    if look:
        state.take(look, rows(look, state.view, {}, NOW))
    for key in ("", "tab", "a", "l", "z", "?", "down"):
        state.press(key)
        shown = "\n".join(drawn(state, Facts(look), 80, 24))
    assert "no workers" not in shown or look is not None and look.sessions == ()


def test_the_help_fits_the_usual_terminal() -> None:
    lines = panes.HELP.splitlines()
    assert len(lines) <= 21 and max(map(len, lines)) <= 80


def test_the_row_that_is_selected_is_seen_in_a_fleet_that_does_not_fit() -> None:
    look = replace(LOOK, sessions=tuple(session(f"w{n:03}", up=n) for n in range(200)))
    state = made(look)
    for key in ("end", "home", "page up", "down", "down"):
        state.press(key)
        lines = drawn(state, Facts(look), 80, 24)
        assert any(line.startswith(state.selected) for line in lines[2:12]) and lines[2].startswith("pulse")
        assert " of 200" in lines[1]


HOSTILE = [
    b"\x1b]0;title\x07\x1b[2J\x1b[999;999H\x1b[?1049hX" + "\u202e\u200d\u2066".encode(),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467" * 40).encode(),
    ("Z" + "\u0335" * 500).encode() * 30,
    "\u1112\u1161\u11ab".encode() * 100,
    bytes(range(256)) * 20,
    "\ufe0f\u2764\ufe0f".encode() * 90,
]


@pytest.mark.parametrize("output", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("size_", [(80, 24), (200, 50)])
def test_no_output_breaks_the_layout_or_reaches_the_terminal_raw(output: bytes, size_: tuple[int, int]) -> None:
    screen = Screen(24, 80)
    screen.feed(output)
    said = output.decode(errors="replace")
    ask = replace(ASK, prompt=said, options=(said, said))
    look = replace(LOOK, asks=(ask,), journal=(said,) * 9, status=said, trouble=(said,), sessions=(
        *FLEET, session("note", note=said), session("odd", state="unknown", problem=said)))  # fmt: skip
    state = made(look)
    state.select("busy")
    for keys in ((), ("l",), ("a",), ("x",)):
        for key in keys:
            state.press(key)
        lines = drawn(state, Facts(look, frame("busy", screen), log=said.split("\n")), *size_)
        assert all(char.isprintable() for line in lines for char in line)
        assert not set("\u202e\u200d\u2066\ufe0f") & set("".join(lines))


def test_ascii_terminals_get_ascii() -> None:
    state = made()
    urwid.set_encoding("ascii")
    try:
        canvas = widgets.Root(state, lambda: Facts(LOOK), lambda key: None, 16).render((80, 24), True)
        assert all(run.isascii() for line in canvas.content() for _, _, run in line)
    finally:
        urwid.set_encoding("utf8")


# -- colours


@pytest.mark.parametrize(("env", "depth"), [
    ({"TERM": "xterm-256color"}, 256), ({"TERM": "xterm"}, 16), ({"TERM": "dumb"}, 1), ({}, 1), ({"TERM": "vt220"}, 1),
    ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, 1 << 24), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, 1),
    ({"TERM": "xterm", "NO_COLOR": ""}, 16),
])  # fmt: skip
def test_how_many_colours_a_terminal_has(env: dict[str, str], depth: int) -> None:
    assert widgets.depth(env) == depth


@pytest.mark.parametrize("depth", [1, 16, 256, 1 << 24])
@pytest.mark.parametrize("name", ["", "idx0", "idx9", "idx21", "idx250", "#102030", "#ffffff"])
def test_every_colour_of_a_worker_can_be_drawn(depth: int, name: str) -> None:
    spec = widgets.attribute(text.Pen(name, name, True, True, True, True), depth)
    if depth == 1:
        assert spec.foreground_basic is False and spec.background == "default" and spec.bold and spec.standout
    assert widgets.attribute(text.Pen(), depth) is None
    assert widgets.attribute(text.Pen("idx1"), 1) is None and widgets.attribute(text.Pen("", "idx4"), 1).standout


# -- keys


def press(state: State, *keys: str) -> Any:
    result = None
    for key in keys:
        result = state.press(key)
    return result


def test_no_key_but_a_confirmed_answer_leads_to_a_change() -> None:
    state = made()
    keys = [chr(n) for n in range(32, 127)] + ["enter", "esc", "tab", "up", "down", "delete", "page up", "home", "f1"]
    for focus in Pane:
        for key in keys:
            state.focus, state.draft, state.help = focus, None, False
            assert not isinstance(state.press(key), Send), key


def test_an_answer_is_a_number_or_a_text_and_is_sent_by_enter() -> None:
    state = made()
    assert press(state, "a", "3") is None and state.draft and state.draft.text == "next week"
    assert press(state, "enter") == Send("asker-1", "next week") and state.draft.sending
    assert press(state, "x", "enter") is None, "while it is on its way no key counts"
    state.draft = None
    assert press(state, "a", *"no 2 of") is None and state.draft and state.draft.text == "no 2 of"
    keys = ("ctrl w", "ctrl a", "backspace", "delete", "N", "end", "left", "enter")
    assert press(state, *keys) == Send("asker-1", "No 2")


def test_an_answer_can_be_left_and_cannot_be_empty() -> None:
    state = made()
    assert press(state, "a", " ", "enter") is None and state.draft and "empty" in state.draft.error
    assert press(state, "q") is None and state.draft, "letters are text here"
    assert press(state, "esc") is None and state.draft is None
    assert press(state, "q") is Act.QUIT
    assert press(made(), "a", "ctrl c") is Act.QUIT


def test_the_question_of_the_selected_worker_goes_first() -> None:
    other = AskView("busy-1", "busy", "pending", "Which one?")
    look = replace(LOOK, asks=(ASK, other))
    state = made(look)
    state.select("busy")
    press(state, "a")
    assert state.draft and state.draft.ask.id == "busy-1"
    state = made(look)
    press(state, "tab", "tab", "enter")
    assert state.draft and state.draft.ask.id == "asker-1"
    state = made(replace(look, asks=(replace(ASK, state="answered"),)))
    press(state, "a")
    assert state.draft is None and state.said == "nobody asks anything"


def test_what_went_wrong_with_an_answer_is_said_where_it_was_typed() -> None:
    state = made()
    press(state, "a")
    state.draft = Draft(ASK, "no", 2, error="cannot answer asker-1: already answered")
    shown = "\n".join(drawn(state, Facts(LOOK), 80, 24))
    assert "> no" in shown and "already answered" in shown and "Esc leave" in shown
    stranded = Draft(replace(ASK, state="stranded"))
    state.draft = stranded
    assert "nobody will read" in "\n".join(drawn(state, Facts(LOOK), 80, 24))


def test_selection_survives_news_and_moves_on_when_its_worker_is_gone() -> None:
    state = made()
    state.select("stuck")
    state.take(LOOK, rows(LOOK, View(), {}, NOW))
    assert state.selected == "stuck"
    look = replace(LOOK, sessions=(session("other"),))
    state.take(look, rows(look, View(), {}, NOW))
    assert state.selected == "other"


def test_a_screen_larger_than_its_pane_shows_the_cursor_and_can_be_panned() -> None:
    screen = Screen(50, 200)
    screen.feed(b"first line" + b"\r\n" * 48 + b"last line" + b" " * 150 + b"cursor")
    state = made()
    state.select("busy")
    facts = Facts(LOOK, frame("busy", screen))
    assert "cursor" in "\n".join(drawn(state, facts, 80, 24))
    state.focus = Pane.SCREEN
    press(state, "home", *["left"] * 30)
    assert "first line" in "\n".join(drawn(state, facts, 80, 24))
    press(state, "end")
    assert "cursor" in "\n".join(drawn(state, facts, 80, 24))


def test_the_log_scrolls_stays_put_and_follows_again() -> None:
    state = made()
    state.select("busy")
    log = [f"line {n}" for n in range(100)]
    press(state, "l")
    assert "line 99" in "\n".join(drawn(state, Facts(LOOK, log=log), 80, 24))
    press(state, "page up")
    before = drawn(state, Facts(LOOK, log=log), 80, 24)
    assert "line 99" not in "\n".join(before)
    grown = drawn(state, Facts(LOOK, log=[*log, *log]), 80, 24)
    assert [line for line in grown if "line" in line] == [line for line in before if "line" in line]
    state.focus = Pane.SCREEN
    assert press(state, "home") is Act.OLDER
    press(state, "end")
    assert "line 99" in "\n".join(drawn(state, Facts(LOOK, log=log), 80, 24))


def test_a_log_is_read_from_its_end_and_further_back_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    tail = LogTail(path)
    assert not tail.read() and tail.lines == []
    path.write_bytes(b"".join(b"\x1b[31mline %d\x1b[0m\r\n" % n for n in range(3000)) + b"unfin")
    assert tail.read() and tail.lines[-2:] == ["line 2999", "unfin"] and 400 < len(tail.lines) < 600
    assert not tail.read()
    before = len(tail.lines)
    added = tail.older()
    assert added == len(tail.lines) - before > 1000 and tail.lines[-1] == "unfin"
    with path.open("ab") as file:
        file.write(b"ished\r\nmore\r\n")
    assert tail.read() and tail.lines[-2:] == ["unfinished", "more"]
    path.write_bytes(b"[looop: 90000 earlier bytes dropped]\nanew\n")
    assert tail.read() and tail.lines == ["anew"]


def test_a_worker_whose_shim_hangs_up_is_looked_at_all_the_same(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "DEAF_S", 0.01)
    (paths.sessions / "w").mkdir(parents=True)
    log = paths.sessions / "w" / "output.log"
    log.write_text("one")

    async def look() -> None:
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), paths.control("w"))
        changed = asyncio.Event()

        async def pause(seconds: float) -> bool:
            await asyncio.sleep(0)
            return False

        followed = follow.Follow(paths, changed.set, pause)
        followed.choose(session("w"), log=False)
        for text_ in ("one", "one and two"):
            log.write_text(text_)
            async with asyncio.timeout(10):
                while followed.frame is None or not text.drawn(followed.frame.rows[0], 0, 20)[0][1].startswith(text_):
                    await changed.wait()
                    changed.clear()
        await followed.close()
        server.close()
        await server.wait_closed()

    asyncio.run(look())


# -- the program on a terminal

PROGRAM = """
import sys
from looop import mailbox
from looop.clock import now
from looop.errors import LooopError
from looop.paths import Paths
from looop.tui import app
from looop.tui.model import AskView, Filter, Look

paths = Paths.from_env()

def look(sent):
    if sys.argv[1] == "raise":
        raise ZeroDivisionError("a mistake of ours")
    asks = tuple(AskView(a.id, a.worker, "pending", a.prompt, a.options) for a in mailbox.pending(paths))
    return Look(now(), "active", "fine", (), asks, fates={ask: "delivered" for ask in sent})

def answer(ask, text):
    mailbox.answer(paths, ask, text, now().wall)
    return "answered"

sys.exit(app.run(paths, app.Hooks(look, answer), "", Filter.LIVING, 0.0, 0.0))
"""


class Terminal:
    """PROGRAM on a pseudo-terminal."""

    def __init__(self, paths: Paths, word: str) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24, 80))
        self.before = termios.tcgetattr(self.slave)
        self.screen = Screen(24, 80)
        env = {
            **os.environ, "LOOOP_DATA_DIR": str(paths.data), "XDG_RUNTIME_DIR": str(paths.runtime), "TERM": "xterm",
            "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, word], stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE, env=env
        )

    def until(self, wanted: str) -> str:
        deadline = time.monotonic() + 20
        while wanted not in self.screen.plain():
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], self.screen.plain()
            self.screen.feed(os.read(self.master, 65536))
        return self.screen.plain()

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=20)
        while select.select([self.master], [], [], 0)[0]:
            self.screen.feed(os.read(self.master, 65536))
        assert termios.tcgetattr(self.slave) == self.before
        assert not self.screen.alternate and not self.screen.cursor[2]
        os.close(self.master)
        os.close(self.slave)
        return self.process.returncode, said.decode()


def test_an_answer_typed_here_is_in_the_mailbox(paths: Paths) -> None:
    mailbox.raise_ask(paths, "w", "Which colour?", 1.0, options=("red", "green"))
    terminal = Terminal(paths, "look")
    terminal.until("Which colour?")
    os.write(terminal.master, b"a2\r")
    terminal.until("the answer was read")
    found = mailbox.read_answer(paths, "w-1")
    assert found is not None and found.text == "green"
    mailbox.raise_ask(paths, "w", "And now?", 2.0)  # inotify tells
    terminal.until("And now?")
    mailbox.answer(paths, "w-2", "by another", 3.0)
    terminal.until("0 asking")
    os.write(terminal.master, b"q")
    assert terminal.end()[0] == 0


def test_a_mistake_of_ours_leaves_the_terminal_as_it_was(paths: Paths) -> None:
    code, said = Terminal(paths, "raise").end()
    assert code == 1 and "a mistake of ours" in said


def test_a_signal_leaves_the_terminal_as_it_was(paths: Paths) -> None:
    terminal = Terminal(paths, "look")
    terminal.until("q quit")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize(("module", "package"), [("urwid", "python3-urwid"), ("pyte", "python3-pyte")])
def test_a_missing_library_is_named_by_its_package(
    module: str, package: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("looop.tui", "looop.screens.terminal", "pyte"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("looop.ctl.watch", "looop.screens.screen", "looop.screens.pictures"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    loaded: dict[str, Any] = sys.modules
    monkeypatch.setitem(loaded, module, None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    from looop.ctl.command import Context
    from looop.ctl.watch import command

    parser = argparse.ArgumentParser()
    command.configure(parser)
    with pytest.raises(Unavailable, match=f"{module} is missing") as caught:
        command.run(parser.parse_args([]), Context(paths))
    assert caught.value.code == 69 and package in str(caught.value)
