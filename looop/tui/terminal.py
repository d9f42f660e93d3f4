"""The terminal through urwid: sized, drawn to, and put back as it was on every way out."""

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import urwid


class QuietLoop(urwid.AsyncioEventLoop):
    """urwid's loop without its idle callbacks: some versions wake thirty times a second for them."""

    def enter_idle(self, callback: Callable[[], object]) -> int:
        return 0

    def remove_enter_idle(self, handle: int) -> bool:
        return True


class Terminal(urwid.raw_display.Screen):
    """Standard input and output."""

    def get_cols_rows(self) -> tuple[int, int]:
        """A terminal that does not know its size has the usual one."""
        cols, rows = super().get_cols_rows()
        return (cols, rows) if cols > 0 and rows > 0 else (80, 24)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """The terminal's settings are as before at the end, even if urwid did not get to it."""
        before = termios.tcgetattr(0)
        try:
            yield
        finally:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, before)
            try:
                sys.stdout.flush()
            except OSError:  # the terminal is gone: nothing of what is left may fail at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def take_keys(self) -> None:
        """Ctrl-C and Ctrl-Z arrive as keys from here on; `stop` undoes it."""
        self.tty_signal_keys(intr="undefined", quit="undefined", susp="undefined")

    def suspend(self) -> None:
        """Give the terminal to the shell until it says go on."""
        self.stop()
        os.kill(0, signal.SIGTSTP)
        self.start()
        self.take_keys()


class Loop(urwid.MainLoop):
    """urwid's main loop, which draws when told to and after every input."""

    def __init__(
        self, widget: Any, palette: Any, screen: Terminal, event_loop: QuietLoop, draw: Callable[[], None]
    ) -> None:
        super().__init__(widget, palette, screen, handle_mouse=False, event_loop=event_loop)
        self.after = draw

    def input_filter(self, keys: list[Any], raw: list[int]) -> list[Any]:
        """A new size is input too."""
        self.after()
        return keys

    def entering_idle(self) -> None:
        """Somebody else says when to draw."""
