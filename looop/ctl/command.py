"""What a verb of `looopctl` is, and what verbs share: the context, free-text bodies, output.

A verb module ends in `command = Command(...)`. It may import anything below `ctl`, lazily where that is slow.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from looop.errors import UsageError
from looop.paths import Paths

if TYPE_CHECKING:
    from looop.config import Config

Parser = argparse.ArgumentParser


@dataclass(frozen=True)
class Context:
    """What every verb is given."""

    paths: Paths = field(default_factory=Paths.from_env)

    @cached_property
    def config(self) -> "Config":
        """The settings, read when first asked for. Raises UsageError."""
        from looop.config import load  # 10 ms that `looopctl claim` does not need

        return load(self.paths)


@dataclass(frozen=True)
class Command:
    """One verb: `configure` adds its arguments, `run` does it and returns the exit code.

    With `tail` the words after the first -- are a command of the user's: they go, unparsed, into that attribute.
    `abrupt`: somebody waits for its end, and it leaves nothing to clean up (see `leave`).
    """

    configure: Callable[[Parser], object]
    run: Callable[[argparse.Namespace, Context], int]
    tail: str = ""
    abrupt: bool = False


def complete(action: argparse.Action, kind: str) -> argparse.Action:
    """Say what a shell completes this argument with: "@KIND" (see `completion_ids`), "file", "folder" or "command"."""
    setattr(action, "complete", kind)
    return action


def leave(code: int) -> NoReturn:
    """End the program at once, without the interpreter's farewell, which takes 10 ms.

    Closing an inotify instance takes the kernel another 10 to 20 ms (inotify(7) does not say so; it waits for a grace
    period of RCU), at the end of the last process that has it. A child outlives us for that and nothing else: it has
    no other descriptor, so no reader of our output and no lock waits for it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:inotify":
                os.close(int(fd))
    with contextlib.suppress(OSError):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)
    os._exit(code)


def sentence(text: str) -> str:
    """A line of help as the description below the usage."""
    return f"{text[0].upper()}{text[1:]}."


def add_actions(parser: Parser) -> Any:
    """The actions of a verb, the chosen one in `action`; see `add_action`."""
    return parser.add_subparsers(dest="action", metavar="ACTION", required=True, help="one of these:")


def add_action(actions: Any, name: str, text: str) -> Parser:
    """One action and its line of help."""
    parser: Parser = actions.add_parser(name, help=text, description=sentence(text), allow_abbrev=False)
    return parser


def add_json(parser: Parser) -> None:
    """The --json flag: one JSON document on stdout."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_body(parser: Parser, what: str) -> None:
    """Free text as words; none, or a lone -, reads standard input."""
    text = f"{what}; no words or a lone - reads standard input"
    parser.add_argument("body", nargs="*", default=[], metavar="TEXT", help=text)


def add_journal(parser: Parser) -> None:
    """The --journal flag of every verb that changes something."""
    parser.add_argument("--journal", metavar="TEXT", default="", help="the line for journal.md, in place of the usual")


def body(words: Sequence[str]) -> str:
    """The text of a body argument. Raises UsageError when it is empty or not UTF-8."""
    if list(words) in ([], ["-"]):
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"cannot read standard input: not UTF-8 at byte {error.start}") from error
    else:
        text = " ".join(words)
    if not text.strip():
        raise UsageError("cannot use an empty text")
    if "\0" in text:
        raise UsageError("cannot use a text with a NUL character in it")
    return text


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned columns; cells lose control characters, so that nobody's text can drive the terminal."""
    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """One line of `text` without control characters."""
    return "".join(c if c.isprintable() else " " for c in text.strip().partition("\n")[0])


def colours() -> bool:
    """Only on a terminal that has them, and unless $NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
