"""Leases: claims/NAME.json says which unit invocation holds NAME, and a lease lives exactly as long as that does.

Used by `looopctl` and the pulse. Whoever takes, releases or reaps judges the holder and writes under one flock,
so of any number of racers exactly one wins, and nothing is removed that was not judged. Who lives is asked of a
`Judge` passed in, which says True (live), False (proven dead) or raises Unavailable: then the lease stands, as it
does when its record cannot be read. Unknown is never dead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from looop import store
from looop.clock import boot_id, utc
from looop.errors import LooopError, Refused, StateError, Unavailable
from looop.jsonutil import JsonError, get_num, get_str
from looop.paths import Paths, safe_name
from looop.systemd.identity import Holder, is_live
from looop.systemd.manager import Manager
from looop.systemd.names import worker_unit


Judge: TypeAlias = Callable[[Holder], bool]
Snapshot: TypeAlias = Callable[[Sequence[Holder]], Judge]

VERSION = 1


@dataclass(frozen=True)
class Claim:
    """One lease. `broken` says why its record cannot be read; then only name and file are known."""

    name: str
    session: str = ""
    holder: Holder | None = None
    since: float = 0.0
    broken: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as it is stored."""
        held = self.holder.to_json() if self.holder else {}
        return {"v": VERSION, "name": self.name, "session": self.session, **held, "since": round(self.since, 3)}

    @property
    def owner(self) -> str:
        """Whom to name: the worker, else the unit."""
        return self.session or (self.holder.unit if self.holder else "?")


class Held(Refused):
    """Someone else holds the lease; `claim` says who."""

    name = "held"

    def __init__(self, verb: str, claim: Claim) -> None:
        unit = claim.holder.unit if claim.holder else ""
        where = f" ({unit})" if unit and unit != claim.owner else ""
        super().__init__(f"cannot {verb} {claim.name}: held by live {claim.owner}{where} since {utc(claim.since)}")
        self.claim = claim


def _path(paths: Paths, name: str) -> Path:
    return paths.claims / f"{safe_name('a claim', name)}.json"


def _parse(name: str, obj: dict[str, Any]) -> Claim:
    session = get_str(obj, "session", "")
    if obj.get("invocation") is not None:
        return Claim(name, session, Holder.from_json(obj), get_num(obj, "since", 0.0))
    # upstream's record names a session only: it counts as held while a worker of that id lives, whichever
    # generation. An invocation of "" stands for "any".
    if not session:
        raise JsonError("session: missing, expected who holds it")
    return Claim(name, session, Holder(worker_unit(session), "user", "", ""), get_num(obj, "ts", 0.0))


def read(paths: Paths, name: str) -> Claim | None:
    """The lease on `name`, or None when it is free. Raises StateError when that cannot be said."""
    path = _path(paths, name)
    hint = f"see who holds it, then `looopctl unclaim --force {name}`"
    try:
        obj = store.read_record(path)
        return None if obj is None else _parse(name, obj)
    except JsonError as error:
        raise StateError(f"cannot read {path}: {error}", hint=hint) from error
    except StateError as error:
        raise StateError(error.message, hint=hint) from error


def _lock(paths: Paths, timeout: float) -> Any:
    paths.claims.mkdir(mode=0o700, parents=True, exist_ok=True)
    return store.lock(paths.claims / ".lock", timeout)


def take(
    paths: Paths, name: str, holder: Holder, session: str, judge: Judge, now: float, timeout: float = 10.0
) -> bool:
    """Take the lease; False when `holder` had it already (then nothing is written).

    Raises Held, Unavailable when the present holder cannot be judged, StateError for a broken record.
    """
    claim = Claim(name, session or holder.unit, holder, now)
    path = _path(paths, name)
    with _lock(paths, timeout):
        before = read(paths, name)
        if before and before.holder == holder:
            return False
        if before and before.holder and judge(before.holder):
            raise Held("claim", before)
        store.write_json(path, claim.to_json())
    if before:
        _tell("claim_reaped", before)
    _tell("claim_taken", claim)
    return True


def release(
    paths: Paths, name: str, owner: tuple[str, str] | None, judge: Judge, force: bool = False, timeout: float = 10.0
) -> bool:
    """Give the lease back; False when there was none. Only its holder may, unless that is dead or `force` is given.

    `owner` is the (manager, unit) of whoever asks. Which invocation of it does not matter: of one unit at most one
    runs, so any other that the record names is dead. Raises Held, Unavailable, StateError as `take` does.
    """
    path = _path(paths, name)
    with _lock(paths, timeout):
        try:
            claim = read(paths, name)
        except StateError as error:
            if not force:
                raise
            claim = Claim(name, broken=error.message)
        if claim is None:
            return False
        if not force and claim.holder and not _owns(owner, claim.holder) and judge(claim.holder):
            raise Held("release", claim)
        store.remove(path)
    _tell("claim_released", claim)
    return True


def _owns(owner: tuple[str, str] | None, holder: Holder) -> bool:
    return owner == (holder.manager, holder.unit) and holder.boot in ("", boot_id())


def listing(paths: Paths) -> list[Claim]:
    """Every lease by name, broken ones among them. Raises StateError when the folder cannot be listed."""
    claims = []
    for name in store.names(paths.claims, ".json"):
        try:
            claim = read(paths, name)
        except LooopError as error:
            claim = Claim(name, broken=error.message)
        if claim:
            claims.append(claim)
    return claims


def reap(paths: Paths, snapshot: Snapshot, timeout: float = 0.0) -> list[Claim]:
    """Remove the leases whose holders are proven dead, and return them.

    `snapshot` is called inside the lock with every holder, so that one bus call can judge them all and no lease
    taken meanwhile is judged by an older view. Raises Unavailable (nothing was removed) and, when a racer holds
    the lock for longer than `timeout`, TryAgain.
    """
    if not store.names(paths.claims, ".json"):
        return []
    dead = []
    with _lock(paths, timeout):
        held = [(claim, claim.holder) for claim in listing(paths) if claim.holder]
        judge = snapshot([holder for _, holder in held])
        for claim, holder in held:
            if not judge(holder):
                store.remove(_path(paths, claim.name))
                dead.append(claim)
    for claim in dead:
        _tell("claim_reaped", claim)
    return dead


def judge(user: Manager, system: Manager) -> Judge:
    """Ask the holder's own manager, one holder at a time."""

    def live(holder: Holder) -> bool:
        if not holder.invocation:
            return bool(user.live([holder.unit]))
        return is_live(holder, user, system)

    return live


def snapshot(user: Manager, system: Manager) -> Snapshot:
    """Ask each manager once for all its holders."""

    def look(holders: Sequence[Holder]) -> Judge:
        alive: dict[str, dict[str, str]] = {}
        for manager in (user, system):
            units = sorted({h.unit for h in holders if h.manager == manager.scope and h.boot in ("", boot_id())})
            alive[manager.scope] = manager.live(units) if units else {}

        def live(holder: Holder) -> bool:
            invocation = alive[holder.manager].get(holder.unit)
            if not holder.invocation:
                return invocation is not None
            return holder.boot == boot_id() and holder.invocation == invocation

        return live

    return look


def one_look(user: Manager, system: Manager, holders: Sequence[Holder]) -> Judge:
    """For showing many at once: a judge that has asked already, and raises Unavailable when that failed."""
    try:
        return snapshot(user, system)(holders)
    except Unavailable as error:
        failure = error

    def unknown(holder: Holder) -> bool:
        raise failure

    return unknown


def state(claim: Claim, judge: Judge) -> str:
    """live, dead, unknown (the bus is away) or broken (the record is)."""
    if claim.holder is None:
        return "broken"
    try:
        return "live" if judge(claim.holder) else "dead"
    except Unavailable:
        return "unknown"


def _tell(event: str, claim: Claim) -> None:
    from looop.systemd import journal

    journal.emit(event, claim=claim.name, session=claim.session, unit=claim.holder.unit if claim.holder else "")
