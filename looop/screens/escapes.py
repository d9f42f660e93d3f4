"""Terminal output cut into its parts: text, control characters, escape and control sequences, strings.

Pure, under `terminal`. The output may come cut at any byte; what is kept of an unfinished part is bounded whatever
it holds, and no input is an error.
"""

import codecs
import re
from enum import Enum
from typing import NamedTuple

BODY_MAX = 4096  # characters of a string (OSC, DCS, ...) that are kept; the rest of it is dropped
PARAMS_MAX = 256  # of a control sequence; a longer one is dropped


class Kind(Enum):
    """What a part is; `final` says which."""

    TEXT = "text"  # body: printable characters and those of no width
    CONTROL = "control"  # final: one C0 character
    ESCAPE = "escape"  # final: what follows ESC, intermediate characters included
    CSI = "csi"  # body: parameters; final: intermediate characters and the final one
    STRING = "string"  # final: ] OSC, P DCS, X SOS, ^ PM, _ APC; body: what is in it


class Part(NamedTuple):
    """One part of a terminal's output."""

    kind: Kind
    body: str
    final: str


_TEXT = re.compile("[^\x00-\x1f\x7f-\x9f]+")
_CSI = re.compile(r"\x1b\[([0-?]{0,200})([ -/]{0,8}[@-~])")  # the whole of one, nothing odd in it
_STRING_END = re.compile("[\x07\x18\x1a\x1b\x9c]")


class Splitter:
    """Bytes in, parts out. Bytes that are no UTF-8 become U+FFFD, characters U+0080 to U+009F what they stand for."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = ""  # "", or what has begun: ESC, [, or the letter of a string
        self._held = ""
        self._broken = False
        self._parts: list[Part] = []

    def feed(self, data: bytes) -> list[Part]:
        """The parts that are complete with `data`."""
        text, at = self._decoder.decode(data), 0
        parts = self._parts = []
        while at < len(text):
            if self._state:
                at = self._inside(text, at)
            elif found := _TEXT.match(text, at):
                parts.append(Part(Kind.TEXT, found[0], ""))
                at = found.end()
            elif found := _CSI.match(text, at):
                parts.append(Part(Kind.CSI, found[1], found[2]))
                at = found.end()
            else:
                self._control(text[at])
                at += 1
        return parts

    def _begin(self, state: str) -> None:
        self._state, self._held, self._broken = state, "", False

    def _end(self, kind: Kind | None = None, body: str = "", final: str = "") -> None:
        if kind is not None and not self._broken:
            self._parts.append(Part(kind, body, final))
        self._begin("")

    def _control(self, char: str) -> None:
        if char >= "\x80":  # C1: the same as ESC and a letter
            self._begin("\x1b")
            self._escape(chr(ord(char) - 0x40))
        elif char == "\x1b":
            self._begin("\x1b")
        elif char != "\x7f":
            self._parts.append(Part(Kind.CONTROL, "", char))

    def _inside(self, text: str, at: int) -> int:
        """One step within a sequence; where the next one begins."""
        if self._state not in ("\x1b", "["):
            return self._string(text, at)
        char = text[at]
        if char in "\x18\x1a":
            self._begin("")
        elif char == "\x1b" or "\x80" <= char <= "\x9f":
            self._control(char)
        elif char < " ":
            self._parts.append(Part(Kind.CONTROL, "", char))
        elif char > "\x9f":
            self._broken = True  # a terminal would drop the sequence, or go on as if nothing had been
        elif char != "\x7f":
            self._escape(char) if self._state == "\x1b" else self._csi(char)
        return at + 1

    def _escape(self, char: str) -> None:
        if char <= "/":
            self._held += char
            self._broken = self._broken or len(self._held) > 8
            self._held = self._held[:9]
        elif not self._held and char == "[":
            self._begin("[")
        elif not self._held and char in "]PX^_":
            self._begin(char)
        else:
            self._end(Kind.ESCAPE, "", self._held + char)

    def _csi(self, char: str) -> None:
        if char < "@":
            odd = char >= "0" and self._held[-1:] != "" and self._held[-1] <= "/"  # a parameter after an intermediate
            self._broken = self._broken or odd or len(self._held) >= PARAMS_MAX
            self._held += "" if self._broken else char
            return
        body = self._held.rstrip("".join(map(chr, range(0x20, 0x30))))
        self._end(Kind.CSI, body, self._held[len(body) :] + char)

    def _string(self, text: str, at: int) -> int:
        found = _STRING_END.search(text, at)
        end = found.start() if found else len(text)
        self._held += text[at : min(end, at + BODY_MAX - len(self._held))]
        if found is None:
            return end
        char = found[0]
        if char == "\x07" and self._state != "]":
            self._held += char if len(self._held) < BODY_MAX else ""
            return end + 1
        if char in "\x18\x1a":
            self._begin("")
        else:
            self._end(Kind.STRING, self._held, self._state)
            if char == "\x1b":  # a backslash follows, or another sequence: ESC \ alone means nothing
                self._begin("\x1b")
        return end + 1


def numbers(body: str) -> list[int]:
    """Parameters of a control sequence: 0 where one is left out, at most 9999; of 4:3 the first number."""
    return [min(int(digits or "0"), 9999) if (digits := word.partition(":")[0]).isdecimal() or not digits else 0
            for word in body.lstrip("<=>?").split(";")[:64]]  # fmt: skip
