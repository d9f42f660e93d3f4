"""What an ask is: its record in asks/, its answer, and the one projection of both that every verb shows.

Pure data, no files here: `looop.mailbox` reads and writes them. Used by every process.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from looop.clock import Stamp
from looop.errors import Unavailable, UsageError
from looop.jsonutil import JsonError, get_bool, get_num, get_object, get_str, get_strs
from looop.paths import safe_name
from looop.systemd.identity import Holder

Judge: TypeAlias = Callable[[Holder], bool]

VERSION = 1
NAME_MAX = 255  # a file name of that length there can be, int() takes that many digits
HUMAN, DEFAULT = "human", "default"
DELIVERED, ANSWERED, WITHDRAWN, CLOSED, REDISPATCHED = ENDS = (
    "delivered", "answered", "withdrawn", "closed", "redispatched",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What was said, and by whom: a human, or the asker's own default when nobody answered in time."""

    text: str
    ts: float
    by: str = HUMAN

    def to_json(self) -> dict[str, Any]:
        """The record in answers/."""
        said = {"v": VERSION, "answer": self.text, "ts": round(self.ts, 3)}
        return said if self.by == HUMAN else {**said, "by": self.by}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Answer":
        """Raises JsonError."""
        return cls(get_str(obj, "answer"), get_num(obj, "ts", 0.0), get_str(obj, "by", HUMAN))


@dataclass(frozen=True)
class Ask:
    """One question.

    `holder` is None when it was raised outside of any unit. `expires` is in Unix seconds and `escalate_after` in
    seconds, 0 = never; `asked` is there when it can expire. `end` is "" while it is open, else what became of it.
    `broken` says why the ask cannot be read, `trouble` why its answer cannot.
    """

    id: str
    worker: str
    prompt: str = ""
    reference: str = ""
    options: tuple[str, ...] = ()
    ts: float = 0.0
    holder: Holder | None = None
    escalate_after: float = 0.0
    expires: float = 0.0
    default: str = ""
    asked: Stamp | None = None
    answer: Answer | None = None
    end: str = ""
    ended: float = 0.0
    broken: str = ""
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record in asks/; what is empty is left out."""
        record: dict[str, Any] = {"v": VERSION, "id": self.id, "worker": self.worker, "prompt": self.prompt}
        if self.reference:
            record["reference"] = self.reference
        if self.options:
            record["options"] = list(self.options)
        record["ts"] = round(self.ts, 3)
        if self.escalate_after:
            record["escalate_after"] = self.escalate_after
        if self.expires:
            record |= {"expires": round(self.expires, 3), "default": self.default}
        if self.asked:
            record["asked"] = self.asked.to_json()
        return {**record, **(self.holder.to_json() if self.holder else {})}

    def archived_json(self) -> dict[str, Any]:
        """The record in asks/done/: question, answer and what became of them in one."""
        record = self.to_json()
        if self.answer:
            record |= {"answer": self.answer.text, "answered": round(self.answer.ts, 3), "by": self.answer.by}
        return {**record, "end": self.end, "ended": round(self.ended, 3)}

    @classmethod
    def from_json(cls, ask_id: str, obj: Mapping[str, Any]) -> "Ask":
        """From a record in asks/ or asks/done/. Raises JsonError."""
        # looop 0.1 noted the delivery in the ask and left it where it was
        end = get_str(obj, "end", DELIVERED if get_bool(obj, "delivered", False) else "")
        if end not in ("", *ENDS):
            raise JsonError(f"end: expected one of {', '.join(ENDS)}")
        answer = None
        if obj.get("answer") is not None:
            answer = Answer(get_str(obj, "answer"), get_num(obj, "answered", 0.0), get_str(obj, "by", HUMAN))
        return cls(
            ask_id,
            split(ask_id)[0],
            get_str(obj, "prompt"),
            get_str(obj, "reference", ""),
            tuple(get_strs(obj, "options", [])),
            get_num(obj, "ts", 0.0),
            Holder.from_json(obj) if obj.get("invocation") else None,
            get_num(obj, "escalate_after", 0.0),
            get_num(obj, "expires", 0.0),
            get_str(obj, "default", ""),
            Stamp.from_json(get_object(obj, "asked")) if obj.get("asked") else None,
            answer,
            end,
            get_num(obj, "ended", 0.0),
        )

    @property
    def order(self) -> tuple[float, str, int]:
        """Oldest first; w-2 before w-10."""
        worker, n = split(self.id)
        return self.ts, worker, n

    def left(self, now: Stamp) -> float | None:
        """Seconds until it expires, at most 0 when it has; None when it never does.

        Taken on the boot clock while this boot lasts: a wall clock that is set must not decide for the human.
        """
        if not self.expires:
            return None
        if self.asked and self.asked.boot == now.boot:
            return self.asked.mono + (self.expires - self.asked.wall) - now.mono
        return self.expires - now.wall


def split(ask_id: str) -> tuple[str, int]:
    """Worker and number of an ask id. Raises UsageError when it is none."""
    worker, dash, n = ask_id.rpartition("-")
    if not dash or not (n.isascii() and n.isdigit()) or len(ask_id) > NAME_MAX:
        shown = repr(ask_id if len(ask_id) <= 80 else ask_id[:77] + "...")
        raise UsageError(f"cannot use {shown} as an ask id", hint="`looopctl asks` lists them, for example setup-1")
    return safe_name("a worker", worker), int(n)


def state(ask: Ask, judge: Judge) -> str:
    """What became of an ask: pending (its asker lives), answered (but not delivered), stranded or unknown.

    Stranded: the asker was gone before it got an answer, so nobody will act on one. Unknown: systemd cannot tell.
    One in the archive is delivered, withdrawn, closed, redispatched, or answered (nobody ever came for the answer).
    One that cannot be read is broken.
    """
    if ask.end or ask.broken:
        return ask.end or "broken"
    known = ANSWERED if ask.answer else "pending"
    try:
        if ask.holder is not None:
            return known if judge(ask.holder) else "stranded"
    except Unavailable:
        pass
    return ANSWERED if ask.answer else "unknown"


def row(ask: Ask, judge: Judge, wall: float) -> dict[str, Any]:
    """An ask as every verb shows it in JSON. Times are Unix seconds; null is "not so"."""
    answer = ask.answer
    return {
        "id": ask.id,
        "worker": ask.worker,
        "state": state(ask, judge),
        "prompt": ask.prompt,
        "reference": ask.reference,
        "options": list(ask.options),
        "ts": ask.ts,
        "age_s": round(max(0.0, wall - ask.ts), 1),
        "unit": ask.holder.unit if ask.holder else None,
        "escalate_after": ask.escalate_after or None,
        "expires": ask.expires or None,
        "default": ask.default if ask.expires else None,
        "answer": answer.text if answer else None,
        "by": answer.by if answer else None,
        "answered": answer.ts if answer else None,
        "ended": ask.ended or None,
        "error": ask.broken or ask.trouble or None,
    }


def rows(asks: Iterable[Ask], judge: Judge, wall: float) -> list[dict[str, Any]]:
    """`row` for each of them."""
    return [row(ask, judge, wall) for ask in asks]
