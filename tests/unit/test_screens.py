"""A worker's screen: what a terminal would show, whatever the output holds and however it is cut."""

import json
import os
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from looop.ctl.attach_view import View
from looop.paths import Paths
from looop.screens import replay, screen as screens
from looop.sessions import records
from looop.screens.escapes import BODY_MAX, Splitter
from looop.screens.screen import Cell, Follower, Screen
from looop.sessions.transcript import INDEX, Index, Transcript
from tests.unit.test_sessions_fleet import session

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def shown(data: str | bytes, rows: int = 4, cols: int = 10) -> Screen:
    screen = Screen(rows, cols)
    screen.feed(data.encode() if isinstance(data, str) else data)
    return screen


@pytest.mark.parametrize(
    "data, text, cursor",
    [
        ("ab\r\ncd", "ab\ncd\n", (1, 2)),
        ("0123456789x", "0123456789\nx\n", (1, 1)),
        ("0123456789\r\nx", "0123456789\nx\n", (1, 1)),
        ("0123456789\bX", "01234567X9\n", (0, 9)),
        ("1\r\n2\r\n3\r\n4\r\n5", "2\n3\n4\n5\n", (3, 1)),
        ("a\tb", "a       b\n", (0, 9)),
        ("abc\x1b[2D\x1b[K", "a\n", (0, 1)),
        ("abc\x1b[2D\x1b[1K", "  c\n", (0, 1)),
        ("one\r\ntwo\x1b[H\x1b[2Jx", "x\n", (0, 1)),
        ("\x1b[3;4Hx\x1b[2dy\x1b[7Gz", "\n    y z\n   x\n", (1, 7)),
        ("abcdef\x1b[3G\x1b[2P", "abef\n", (0, 2)),
        ("abcdef\x1b[3G\x1b[2@", "ab  cdef\n", (0, 2)),
        ("abcdef\x1b[3G\x1b[2X", "ab  ef\n", (0, 2)),
        ("abc\x1b[1G\x1b[4hxy\x1b[4lz", "xyzbc\n", (0, 3)),
        ("a\r\nb\r\nc\x1b[2;1H\x1b[L", "a\n\nb\nc\n", (1, 0)),
        ("a\r\nb\r\nc\x1b[2;1H\x1b[M", "a\nc\n", (1, 0)),
        ("a\r\n\r\nc\r\nd\x1b[1;1H\x1b[M", "\nc\nd\n", (0, 0)),
        ("a\r\nb\r\nc\r\nd\x1b[2;3r\x1b[3;1H\nx", "a\nc\nx\nd\n", (2, 1)),
        ("a\r\nb\r\nc\x1b[S", "b\nc\n", (2, 1)),
        ("a\r\nb\r\nc\x1b[T", "\na\nb\nc\n", (2, 1)),
        ("a\x1b[3bx", "aaaax\n", (0, 5)),
        ("\x1b[?7l0123456789xyz", "012345678z\n", (0, 10)),
        ("a\x1b7\x1b[3;3Hb\x1b8c", "ac\n\n  b\n", (0, 2)),
        ("\x1b(0lqk\x1b(B q", "┌─┐ q\n", (0, 5)),
        ("x\x1b[?6h\x1b[2;3r\x1b[1;1Hy", "x\ny\n", (1, 1)),
        ("x\x1b[?6h\x1b[2;3r\x1b[2dy", "x\n\ny\n", (2, 1)),
        ("\x1b[20lab\x1b[999;999Hz", "ab\n\n\n         z\n", (3, 10)),
        ("漢字", "漢字\n", (0, 4)),
        ("012345678漢", "012345678\n漢\n", (1, 2)),
        ("漢字\x1b[2Gx", " x字\n", (0, 2)),
        ("漢字\x1b[1Gx", "x 字\n", (0, 1)),
        ("漢字\x1b[3G\x1b[P", "漢\n", (0, 2)),
        ("e\u0301a\u0308", "éä\n", (0, 2)),
        ("漢\u0301x", "漢\u0301x\n", (0, 3)),
        ("a\x1b]0;title\x07b\x1bP1;2qpixels\x1b\\c\x1b_apc\x1b\\d", "abcd\n", (0, 4)),
        ("a\x1b]52;c;aGk=\x9cb\x9d0;x\x07c", "abc\n", (0, 3)),
        ("a\x1b[>4;2mb\x1b[?4mc\x1b[=5ud\x1b[4:3me", "abcde\n", (0, 5)),
        ("a\x1b[1\x18b\x1b[3\x1b[Cc\x1b[\x1b", "ab c\n", (0, 4)),
        ("a\x1b[\n2Cb", "a\n   b\n", (1, 4)),
        ("\x1b#8\x1b[2J", "", (0, 0)),
        ("abc\x1bc", "", (0, 0)),
    ],
)
def test_it_shows_what_a_terminal_would(data: str, text: str, cursor: tuple[int, int]) -> None:
    screen = shown(data)
    assert (screen.plain(), screen.cursor[:2]) == (text, (cursor[0], min(cursor[1], 9)))


def test_the_alternate_screen_comes_and_goes() -> None:
    screen = shown("shell\r\n$ \x1b[?1049h\x1b[?25l\x1b[2;2Hfull")
    assert (screen.plain(), screen.alternate, screen.cursor) == ("\n full\n", True, (1, 5, True))
    screen.feed(b"\x1b[?1049l\x1b[?25h")
    assert (screen.plain(), screen.alternate, screen.cursor) == ("shell\n$\n", False, (1, 2, False))
    screen.feed(b"\x1b[?1049h")
    assert screen.plain() == ""
    screen.feed(b"\x1bc")
    assert (screen.plain(), screen.alternate) == ("", False)


@pytest.mark.parametrize(
    "sgr, cell",
    [
        ("1;3;4;7", Cell("x", bold=True, italic=True, underline=True, inverse=True)),
        ("1;4;22;24", Cell("x")),
        ("31;42", Cell("x", "idx1", "idx2")),
        ("91;102", Cell("x", "idx9", "idx10")),
        ("38;5;200;48;5;17", Cell("x", "idx200", "idx17")),
        ("38;2;1;2;3;48;2;255;254;253", Cell("x", "#010203", "#fffefd")),
        ("38:2::1:2:3;48:5:9", Cell("x", "#010203", "idx9")),
        ("38:2:1:2:3;1", Cell("x", "#010203", bold=True)),
        ("31;39;42;49", Cell("x")),
        ("31;0;1", Cell("x", bold=True)),
        ("38;5;256;1", Cell("x", bold=True)),
        ("38;5", Cell("x")),
        ("38;2;1;2", Cell("x")),
        ("58;5;1;4:3", Cell("x", underline=True)),
        ("4:0", Cell("x")),
        ("999999999999999999999;1", Cell("x", bold=True)),
    ],
)
def test_colours_and_styles(sgr: str, cell: Cell) -> None:
    assert shown(f"\x1b[{sgr}mx").row(0)[0] == cell


def test_erasing_takes_the_background_and_no_other_style() -> None:
    screen = shown("\x1b[44;4;7m\x1b[2J\x1b[0m")
    assert set(screen.row(3)) == {Cell(bg="idx4")}


def test_a_screen_the_other_way_round() -> None:
    screen = shown("a\x1b[7mb\x1b[0m\x1b[?5h")
    assert [cell.inverse for cell in screen.row(0)[:3]] == [True, False, True]


def test_a_smaller_terminal_keeps_the_cursors_row_a_larger_one_keeps_all() -> None:
    screen = shown("1\r\n2\r\n3\r\nlong line")
    screen.resize(2, 4)
    assert (screen.plain(), screen.cursor) == ("3\nlong\n", (1, 3, False))
    screen.resize(4, 10)
    screen.feed(b"\r\nx")
    assert screen.plain() == "3\nlong\nx\n"
    screen.feed(b"\x1b[?1049h")
    screen.resize(3, 5)
    screen.feed(b"\x1b[?1049l")
    assert screen.plain() == "3\nlong\nx\n"
    screen.resize(0, 99999)
    assert (screen.rows, screen.cols) == (1, 1000)


def noise(seed: int, length: int = 3000) -> bytes:
    """Output that holds everything: text, wide characters, sequences whole, cut and absurd, bytes that are no text."""
    dice = random.Random(seed)
    pieces: list[Callable[[], bytes]] = [
        lambda: bytes(dice.randrange(256) for _ in range(dice.randrange(1, 8))),
        lambda: "".join(dice.choices("ab \u00e9漢🙂\u0301\u200b─", k=dice.randrange(1, 30))).encode(),
        lambda: b"\x1b[" + bytes(dice.choices(b"0123456789;:?>= !\"$'", k=dice.randrange(8)))
        + bytes([dice.randrange(0x40, 0x7F)]),
        lambda: b"\x1b[%d%s" % (dice.randrange(30), bytes([dice.choice(b"ABCDEFGHJKLMPSTXZ@`abdefgrsuhlm")])),
        lambda: b"\x1b[?%d%s" % (dice.choice([5, 6, 7, 25, 47, 1047, 1048, 1049]), dice.choice([b"h", b"l"])),
        lambda: b"\x1b" + bytes([dice.randrange(0x20, 0x7F)]),
        lambda: dice.choice([b"\x1b]0;x", b"\x1bPq", b"\x1b^", b"\xc2\x9d", b"\xc2\x9b1"]),
        lambda: dice.choice([b"\x1b\\", b"\x07", b"\x18", b"\r\n", b"\n", b"\r", b"\b", b"\t", b"\x0e", b"\x0f"]),
    ]  # fmt: skip
    out = b""
    while len(out) < length:
        out += dice.choice(pieces)()
    return out


@pytest.mark.parametrize("seed", range(25))
def test_it_does_not_matter_how_the_output_is_cut(seed: int) -> None:
    data = noise(seed)
    whole, bytewise, pieces = Screen(7, 23), Screen(7, 23), Screen(7, 23)
    whole.feed(data)
    for at in range(len(data)):
        bytewise.feed(data[at : at + 1])
    dice, at = random.Random(seed), 0
    while at < len(data):
        size = dice.randrange(1, 60)
        pieces.feed(data[at : at + size])
        at += size
    assert whole.to_json() == bytewise.to_json() == pieces.to_json()
    assert whole.modes == bytewise.modes


def test_every_cut_of_a_known_picture_is_the_same_picture() -> None:
    data = "a\x1b[1;38;2;1;2;3mb\x1b[0m\x1b]0;t\x1b\\漢é\x1b[?1049h\x1b[2;2H\x1b(0q\x1b(Bz\x1b[?25l".encode()
    expected = shown(data).to_json()
    for at in range(len(data) + 1):
        screen = shown(data[:at])
        screen.feed(data[at:])
        assert screen.to_json() == expected, at


@pytest.mark.parametrize("seed", range(25, 60))
def test_nothing_but_cells_comes_out(seed: int) -> None:
    dice, screen = random.Random(seed), Screen(5, 17)
    for _ in range(3):
        screen.feed(noise(dice.randrange(10**9)))
        screen.resize(dice.randrange(1, 30), dice.randrange(1, 60))
        screen.feed(noise(dice.randrange(10**9)))
        assert not CONTROL.search(screen.plain(trim=False))
        rest = re.sub(r"\x1b\[[0-9;]*m", "", screen.ansi(trim=False))
        assert not CONTROL.search(rest)
        root = ElementTree.fromstring(screen.svg())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert all(len(screen.row(y)) == screen.cols for y in range(screen.rows))
        assert json.loads(json.dumps(screen.to_json()))["rows"] == screen.rows
        row, col, _ = screen.cursor
        assert 0 <= row < screen.rows and 0 <= col < screen.cols


def test_a_coloured_picture_shows_the_same_again() -> None:
    for seed in range(20):
        screen = Screen(7, 23)
        screen.feed(noise(seed) + b"\x18\x1b[?5l")
        again = Screen(7, 23)
        again.feed(screen.ansi(trim=False).rstrip("\n").replace("\n", "\r\n").encode())
        strip = [[cell for cell in screen.row(y) if not cell.blank] for y in range(7)]
        assert [[cell for cell in again.row(y) if not cell.blank] for y in range(7)] == strip


def test_ansi_ends_every_line_in_the_terminals_own_colours() -> None:
    assert shown("\x1b[31mr\x1b[0mx\r\n\x1b[44my").ansi() == "\x1b[0;31mr\x1b[0mx\x1b[0m\n\x1b[0;44my\x1b[0m\n"


def test_json_has_the_visible_cells_and_a_hash_of_the_text_alone() -> None:
    found = shown("a \x1b[1;31m漢\x1b[0m\x1b[44m \x1b[?25l").to_json()
    assert found["cells"] == [
        {"row": 0, "col": 0, "char": "a"},
        {"row": 0, "col": 2, "char": "漢", "fg": "idx1", "bold": True},
        {"row": 0, "col": 4, "char": " ", "bg": "idx4"},
    ]
    assert (found["rows"], found["cols"], found["alternate_screen"]) == (4, 10, False)
    assert found["cursor"] == {"row": 0, "col": 5, "hidden": True}
    assert found["screen_hash"] == shown("a \x1b[32m漢").to_json()["screen_hash"] != shown("a").to_json()["screen_hash"]


def test_svg_lines_up_and_escapes() -> None:
    text = shown("<&\"'>\x1b[4;31m  u\x1b[0m漢\r\n\x1b[7mi", 2, 20).svg()
    root = ElementTree.fromstring(text)
    runs = {run.text: run.attrib for run in root.iter("{http://www.w3.org/2000/svg}text")}
    assert runs["<&\"'>"]["textLength"] == str(5 * 9) and runs["漢"]["textLength"] == str(2 * 9)
    underlined = runs["\u00a0\u00a0u"]
    assert (underlined["text-decoration"], underlined["textLength"]) == ("underline", str(3 * 9))
    assert runs["i"]["fill"] == "#1b1f27" and "href" not in text and "url(" not in text


def test_what_is_kept_of_an_endless_sequence_is_bounded() -> None:
    splitter = Splitter()
    for opening in (b"\x1b]0;", b"\x1bP", b"\x1b[", b"\x1b("):
        for _ in range(100):
            splitter.feed(opening)
            for _ in range(20):
                splitter.feed(b"1" * 1000)
            assert len(splitter._held) <= BODY_MAX
    screen = Screen(3, 3)
    screen.feed(b"e" + "\u0301".encode() * 10000 + b"\x1b7" * 10000)
    assert len(screen.row(0)[0].char) <= 8


# -- following a transcript


class Shim:
    """Writes what the real one writes: transcript and index."""

    def __init__(self, folder: Path, limit: int = 0) -> None:
        self.transcript = Transcript(str(folder / "output.log"), limit)
        self.index = Index(str(folder / INDEX), 24, 80, 0)
        self.index.noted = -1e9

    def write(self, data: bytes) -> None:
        self.index.output(data, self.transcript.written)
        self.transcript.write(data)

    def resize(self, rows: int, cols: int) -> None:
        self.index.resize(rows, cols, self.transcript.written)

    def close(self) -> None:
        os.close(self.transcript.fd)
        os.close(self.index.fd)


def test_a_follower_takes_what_is_new_and_every_size(paths: Paths) -> None:
    shim, follower = Shim(session(paths)), Follower(paths, "w")
    assert follower.advance() and not follower.advance()
    shim.write(b"one")
    assert follower.advance() and follower.screen.plain() == "one\n"
    shim.resize(5, 20)
    assert follower.advance() and (follower.screen.rows, follower.screen.cols) == (5, 20)
    shim.write(b"\r\n" + b"x" * 25)
    shim.resize(6, 30)
    shim.write(b"y" * 31)
    screen = follower.screen
    assert follower.advance() and follower.screen is screen
    assert screen.plain() == "one\n" + "x" * 20 + "\n" + "x" * 5 + "y" * 25 + "\n" + "y" * 6 + "\n"
    anew = Follower(paths, "w")
    anew.advance()
    assert anew.screen.to_json() == screen.to_json()
    shim.close()


def test_a_session_without_an_index_has_the_size_of_its_record(paths: Paths) -> None:
    folder = session(paths, rows=7, cols=33)
    (folder / "output.log").write_bytes(b"hello")
    follower = Follower(paths, "w")
    assert (follower.screen.rows, follower.screen.cols) == (7, 33)
    assert follower.advance() and (follower.screen.rows, follower.screen.plain()) == (7, "hello\n")


def test_damaged_lines_of_an_index_are_left_out(paths: Paths) -> None:
    folder = session(paths)
    (folder / INDEX).write_bytes(b"0 1.0 10 20 -\nx\n\xff\n3 1.0 10\n2 1.0 11 21 ah\n1 1.0 5 5 -\n9 1.0 12 2")
    assert replay.read_index(folder) == [
        replay.Entry(0, 1.0, 10, 20, False, False), replay.Entry(2, 1.0, 11, 21, True, True),
    ]  # fmt: skip


def test_a_follower_outlives_truncation_and_begins_anew_for_the_next_session(paths: Paths) -> None:
    folder = session(paths)
    shim, follower = Shim(folder, limit=5000), Follower(paths, "w")
    for n in range(2000):
        shim.write(b"line %d\r\n" % n)
        if n % 50 == 0:
            follower.advance()
    follower.advance()
    assert follower.screen.plain().splitlines()[-1] == "line 1999"
    assert "dropped" not in follower.screen.plain()
    assert follower.screen.position == shim.transcript.written
    late = Follower(paths, "w")
    late.advance()
    assert late.screen.to_json() == follower.screen.to_json()
    shim.close()
    for name in ("output.log", INDEX):
        (folder / name).unlink()
    records.write_meta(folder, replace(records.read_meta(folder), invocation="i2"))
    shim = Shim(folder)
    shim.write(b"second")
    assert follower.advance() and follower.screen.plain() == "second\n"
    shim.close()


def test_a_follower_that_was_away_for_long_looks_at_the_end_only(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "WINDOW", 1000)
    monkeypatch.setattr(replay, "TAIL", 500)
    shim, follower = Shim(session(paths)), Follower(paths, "w")
    follower.advance()
    shim.write(b"".join(b"line %d\r\n" % n for n in range(1000)) + b"end")
    fed: list[int] = []
    monkeypatch.setattr(Screen, "feed", lambda self, data: fed.append(len(data)))
    monkeypatch.setattr(Screen, "position", property(lambda self: 10**9, lambda self, value: None), raising=False)
    follower.advance()
    assert sum(fed) <= 500
    shim.close()


def test_a_flood_is_taken_in_steps_by_who_has_keys_to_look_at(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "_CHUNK", 100)
    shim, follower = Shim(session(paths)), Follower(paths, "w")
    shim.write(b"x" * 950)
    places = []
    while follower.advance(300):
        places.append(follower.screen.position)
        assert follower.behind == (places[-1] < 950)
    assert places == [300, 600, 900, 950] and not follower.behind
    shim.write(b"y" * 950)
    assert follower.advance() and follower.screen.position == 1900 and not follower.behind
    shim.close()


@pytest.mark.parametrize(
    "tail",
    [
        b"\x1b[H\x1b[2Jtop\x1b[3;3Hx",
        b"\x1bcafter reset",
        b"\x1b[?1049h\x1b[H\x1b[2Jvim\x1b[5;5Hx",
        b"\x1b[?1049h\x1b[?25l\x1b[Hvim" + b"\x1b[2;2Hredraw" * 50,
        b"\x1b[?1049hvim\x1b[?1049l" + b"".join(b"\r\nshell %d" % n for n in range(90)),
        b"\x1b[H\x1b[2Jfirst\x1b[?1049hvim\x1b[?1049l second",
        b"".join(b"\r\nline %d" % n for n in range(100)),
    ],
    ids=["wiped", "reset", "full", "redrawn", "left", "left short", "lines"],
)
@pytest.mark.parametrize(
    "before", [b"", b"\x1b[?1049h\x1b[?25lold\x1b[?25h\x1b[?1049l", b"\x1b[?25l"], ids=["", "been full", "hidden"]
)
def test_a_late_start_shows_the_same_screen(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tail: bytes, before: bytes
) -> None:
    monkeypatch.setattr(replay, "WINDOW", 3000)
    monkeypatch.setattr(replay, "TAIL", 1000)
    shim = Shim(session(paths))
    data = before + b"".join(b"filler %d\r\n" % n for n in range(1000)) + tail
    shim.write(data)
    shim.close()
    follower, whole = Follower(paths, "w"), Screen()
    follower.advance()
    whole.feed(data)
    assert follower.screen.to_json() == whole.to_json()


def test_modes_switched_on_long_ago_are_known_from_the_index(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "WINDOW", 2000)
    monkeypatch.setattr(replay, "TAIL", 1000)
    monkeypatch.setattr(replay, "LOOKBACK", 3000)
    shim = Shim(session(paths), limit=20000)
    shim.write(b"\x1b[?1049h\x1b[?25l")
    frame = b"\x1b[H" + b"".join(b"row %d\x1b[K\r\n" % n for n in range(20))
    for _ in range(300):
        shim.write(frame)
        shim.index.noted = -1e9
    follower = Follower(paths, "w")
    follower.advance()
    assert follower.screen.alternate and follower.screen.cursor[2]
    assert follower.screen.plain().splitlines() == [f"row {n}" for n in range(20)]
    shim.close()


# -- the view of `attach`


def seen(view: View, screen: Screen, terminal: Screen, notice: str = "") -> str:
    terminal.feed(view.paint(screen, notice).encode())
    return terminal.plain()


def test_a_view_paints_what_changed_and_ends_where_the_cursor_is() -> None:
    screen, terminal, view = Screen(5, 20), Screen(5, 20), View(5, 20, writable=False)
    screen.feed("a\x1b[31mred\x1b[0m 漢字\r\n".encode() + b"0" * 20 + b"\r\nprompt> ")
    assert seen(view, screen, terminal) == screen.plain() and terminal.cursor == screen.cursor
    assert [terminal.row(y) for y in range(5)] == [screen.row(y) for y in range(5)]
    screen.feed(b"x")
    step = view.paint(screen)
    assert "prompt> x" in step and "red" not in step
    terminal.feed(step.encode())
    screen.feed(b"\x1b[?25l")
    seen(view, screen, terminal)
    assert terminal.cursor[2]


def test_a_view_of_a_larger_screen_shows_the_part_with_the_cursor() -> None:
    screen, terminal, view = Screen(30, 40), Screen(5, 11), View(5, 11, writable=False)
    screen.feed("".join(f"{n} 漢字漢字漢字\r\n" for n in range(29)).encode() + b"last")
    assert view.clipped(screen)
    assert seen(view, screen, terminal).splitlines() == [f"{n} 漢字漢字" for n in range(25, 29)] + ["last"]
    screen.feed(b"\x1b[H\x1b[15C")
    assert seen(view, screen, terminal).splitlines()[0] == " 漢字漢字"
    screen.feed(b"\x1b[4D\x1b[?25l")
    assert seen(view, screen, terminal).splitlines()[0] == "0 漢字漢字"


def test_a_view_of_a_smaller_screen_leaves_the_rest_blank() -> None:
    screen, terminal, view = Screen(2, 4), Screen(5, 11), View(5, 11, writable=False)
    screen.feed(b"abcdefgh")
    assert seen(view, screen, terminal, "notice") == "abcd\nefgh\n\n\n notice\n"
    assert seen(view, screen, terminal) == "abcd\nefgh\n"


@pytest.mark.parametrize("seed", range(20))
def test_a_view_never_passes_on_what_the_worker_printed(seed: int) -> None:
    screen, view = Screen(6, 20), View(5, 13, writable=False)
    for part in range(4):
        screen.feed(noise(seed * 10 + part))
        rest = re.sub(r"\x1b\[(?:[0-9;]*[mH]|K|2J|\?25[hl])", "", view.paint(screen))
        assert not CONTROL.search(rest)


def test_wishes_about_keys_are_passed_on_only_where_keys_are() -> None:
    screen = Screen(2, 4)
    screen.feed(b"\x1b[?1h\x1b[?2004h\x1b[?1000;1006h\x1b[?9999h")
    assert "?1h" not in View(2, 4, writable=False).paint(screen)
    view = View(2, 4, writable=True)
    painted = view.paint(screen)
    assert all(f"\x1b[?{mode}h" in painted for mode in (1, 1000, 1006, 2004)) and "9999" not in painted
    screen.feed(b"\x1b[?2004l")
    assert "\x1b[?2004l" in view.paint(screen)
