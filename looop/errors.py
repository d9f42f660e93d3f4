"""Errors, named by what the reader does next, each with its exit code.

Libraries raise these, `looop.ctl` prints them and exits, the beat journals them. Messages read
"cannot X: why"; the hint says what to do about it. Used by every process; imports nothing of ours.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `looopctl`; 64, 69 and 75 are sysexits.h's."""

    DONE = 0
    REFUSED = 1
    PULSE_DOWN = 2
    USAGE = 64
    UNAVAILABLE = 69
    TRY_AGAIN = 75
    TIMED_OUT = 124


class LooopError(Exception):
    """An expected failure. `name` identifies the kind in JSON error objects."""

    code = ExitCode.REFUSED
    name = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Refused(LooopError):
    """What was asked for is not allowed or not possible as things stand."""

    name = "refused"


class UsageError(LooopError):
    """The person has to say it differently: a bad name, flag, setting or body."""

    code = ExitCode.USAGE
    name = "usage"


class Unavailable(LooopError):
    """systemd, its bus or the journal cannot be reached: nothing is known, so nothing was done."""

    code = ExitCode.UNAVAILABLE
    name = "unavailable"


class TryAgain(LooopError):
    """Busy right now (a lock, a full disk): the same call may succeed later."""

    code = ExitCode.TRY_AGAIN
    name = "try-again"


class TimedOut(LooopError):
    """The deadline the caller gave has passed."""

    code = ExitCode.TIMED_OUT
    name = "timed-out"


class StateError(LooopError):
    """A state file is unreadable or malformed. It is never taken for an absent one."""

    name = "bad-state"
