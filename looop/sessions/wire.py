"""What crosses the border of a shim: control messages, one JSON line each way, and plain text of a transcript.

Pure. Shared by the shim, the launcher, `looopctl` and the pulse, so it imports only what the shim may hold in memory.
"""

import json
import re

LINE_MAX = 65536  # of a request or reply; a longer one is refused

STATUS = "status"  # who and how busy it is
RESIZE = "resize"  # rows, cols: the terminal's size from now on
FOLLOW = "follow"  # answered, then held open: a newline says that there is new output, the end that the session is over
TYPE = "type"  # answered, then held open: every byte that follows is input for the worker's terminal

_ESCAPE = re.compile(
    rb"\x1b(?:"
    rb"\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, modes
    rb"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, SOS, PM, APC up to BEL or ST
    rb"|[ -/]*[0-~]"  # two and three byte sequences
    rb")?"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def encode(message: dict[str, object]) -> bytes:
    """One message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, object]:
    """The message in a line. Raises ValueError."""
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def done(**data: object) -> dict[str, object]:
    """The reply to a request that was carried out."""
    return {"ok": True, "data": data}


def failed(error: str) -> dict[str, object]:
    """The reply to a request that was not."""
    return {"ok": False, "error": error}


def plain(data: bytes) -> str:
    """Whole lines of terminal output without control sequences; of a line drawn over itself only its last state."""
    lines = _ESCAPE.sub(b"", data).decode(errors="replace").split("\n")
    return "\n".join(_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)
