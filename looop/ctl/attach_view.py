"""What `looopctl attach` paints: as much of a worker's screen as this terminal has room for, drawn from its cells.

Pure. Nothing the worker prints reaches this terminal but through here: no title, no clipboard, no question the
terminal would answer as if it had been typed. Rows that did not change are not painted again.
"""

from looop.screens.pictures import Cell, ansi_row
from looop.screens.screen import Screen

ENTER = "\x1b[?1049h\x1b[?7l\x1b[0m\x1b[2J"  # a screen of its own, and no line that runs on into the next
# modes by which a program says what keys, pastes and the mouse are to send
_INPUT = (1, 9, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004)
LEAVE = "\x1b[0m" + "".join(f"\x1b[?{mode}l" for mode in _INPUT) + "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BLANK = Cell()


class View:
    """This terminal, `rows` by `cols`. `writable`: the worker's wishes about keys and mouse are passed on."""

    def __init__(self, rows: int, cols: int, writable: bool) -> None:
        self.rows, self.cols, self.writable = rows, cols, writable
        self._painted: list[str] = []
        self._modes: set[int] = set()

    def resize(self, rows: int, cols: int) -> None:
        """Everything has to be painted anew."""
        self.rows, self.cols = rows, cols
        self._painted = []

    def paint(self, screen: Screen, notice: str = "") -> str:
        """What makes this terminal show the screen; a notice covers the last row."""
        top, left = self._corner(screen)
        lines = [_line(screen, top + y, left, self.cols) for y in range(self.rows)]
        if notice:
            shown = f" {notice} "[: self.cols]
            lines[-1] = f"\x1b[0;7m{shown}\x1b[0m"
        out = ["\x1b[?25l"] if self._painted else ["\x1b[?25l\x1b[0m\x1b[2J"]
        for y, line in enumerate(lines):
            if y >= len(self._painted) or self._painted[y] != line:
                out.append(f"\x1b[{y + 1};1H\x1b[K{line}")
        self._painted = lines
        out.append(self._switch(screen))
        row, col, hidden = screen.cursor
        if not hidden and not (notice and row - top == self.rows - 1):
            out.append(f"\x1b[{row - top + 1};{col - left + 1}H\x1b[?25h")
        return "".join(out)

    def _corner(self, screen: Screen) -> tuple[int, int]:
        """The first row and column shown: the top left ones, moved on just so far that the cursor is in sight."""
        row, col, hidden = screen.cursor
        return (0, 0) if hidden else (max(0, row - self.rows + 1), max(0, col - self.cols + 1))

    def clipped(self, screen: Screen) -> bool:
        """Whether there is more of the screen than fits."""
        return screen.rows > self.rows or screen.cols > self.cols

    def _switch(self, screen: Screen) -> str:
        if not self.writable:
            return ""
        wanted = screen.modes & set(_INPUT)
        out = "".join(f"\x1b[?{mode}l" for mode in sorted(self._modes - wanted))
        out += "".join(f"\x1b[?{mode}h" for mode in sorted(wanted - self._modes))
        self._modes = set(wanted)
        return out


def _line(screen: Screen, number: int, left: int, cols: int) -> str:
    """A part of a row; half a wide character at an edge is a blank."""
    if number >= screen.rows:
        return ""
    row = screen.row(number)
    cells = row[left : left + cols]
    if cells and not cells[0].char:
        cells[0] = _BLANK
    if left + cols < len(row) and not row[left + cols].char:
        cells[-1] = _BLANK
    return ansi_row(cells)
