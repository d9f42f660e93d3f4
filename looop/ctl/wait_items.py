"""Each category of things a client is told of, as `looop.changes` compares them. For `wait` and `state`; reads only.

A key holds identities and states: no age, no idle time, no counter, no `detail`. What can be learned from the clock
alone (a worker that is stuck, a schedule that fired) counts once the pulse has seen it, from its own snapshots.
A function raises StateError when its category cannot be listed.
"""

from collections.abc import Sequence
from typing import Any

from looop import claims, mailbox, store, world
from looop.audit import rotated
from looop.changes import Item, Mark, News, journal
from looop.claims import Claim
from looop.ctl.survey import Roll, claim_json
from looop.errors import StateError, Unavailable
from looop.jsonutil import JsonError, canonical, loads
from looop.mailbox import Ask
from looop.paths import Paths
from looop.sessions.fleet import Session

Items = dict[str, Item]


def asks(found: Sequence[Ask], roll: Roll, wall: float) -> Items:
    """Open asks. Of their states only "stranded" is news: the others come with the ask or take it away.

    An answer as such is none: the ask goes when it is delivered, a moment later, or it strands.
    """
    items = {}
    for ask in found:
        stranded = _stranded(ask, roll)
        record = ask.to_json() | {"broken": ask.broken, "stranded": bool(stranded)}
        items[ask.id] = Item(canonical(record), mailbox.row(ask, roll.judge, wall), stranded is not None)
    return items


def _stranded(ask: Ask, roll: Roll) -> bool | None:
    """None when systemd cannot tell; an ask raised outside of any unit never is."""
    try:
        return ask.holder is not None and not roll.judge(ask.holder)
    except Unavailable:
        return None


def leases(found: Sequence[Claim], roll: Roll) -> Items:
    """Leases, by whom they are held and whether that one is dead."""
    items = {}
    for claim in found:
        state = claims.state(claim, roll.judge)
        holder = claim.holder.to_json() if claim.holder else None
        key = canonical([claim.session, holder, claim.broken, state == "dead"])
        items[claim.name] = Item(key, claim_json(claim, state), state != "unknown")
    return items


def workers(found: Sequence[Session], paths: Paths) -> Items:
    """Sessions. Their being idle or waiting is not news, being stuck is, when the pulse says so."""
    stuck = _stuck(paths)
    items = {}
    for session in found:
        key = [
            session.invocation, session.state, session.alive, session.exit_code, session.signal, session.result,
            session.verify, session.note, session.reason, session.problem, session.alive and session.id in stuck,
        ]  # fmt: skip
        items[session.id] = Item(canonical(key), session.to_json())
    return items


def _stuck(paths: Paths) -> set[str]:
    signal = _signal(paths, "sys-sessions")
    rows = signal if isinstance(signal, list) else []
    return {str(row.get("id")) for row in rows if isinstance(row, dict) and row.get("health") == "stuck"}


def _signal(paths: Paths, name: str) -> Any:
    try:
        data = store.read_bytes(paths.snapshots / f"{name}.json")
    except StateError:
        return None
    return None if data is None else world.reading(name, data).signal


def schedules(paths: Paths) -> Items:
    """Schedules: what they say, and what the pulse has seen of them ("due", a period, an instant that came)."""
    signal = _signal(paths, "sys-schedules")
    seen = signal if isinstance(signal, dict) else {}
    items = {}
    for name in store.names(paths.schedules, ".json"):
        try:
            record = store.read_record(paths.schedules / f"{name}.json")
        except StateError as error:
            items[name] = Item(str(error), {"name": name, "error": str(error)})
            continue
        if record is not None:
            shown = {**record, "name": name, "state": seen.get(name), "error": None}
            items[name] = Item(_text([record, seen.get(name)]), shown)
    return items


def goals(paths: Paths) -> Items:
    """Goals, by their texts."""
    items = {}
    for name in store.names(paths.goals, ".md"):
        item = _policy(paths, f"goals/{name}.md", {"id": name})
        if item is not None:
            items[name] = item
    return items


def playbook(paths: Paths) -> Items:
    """PLAYBOOK.md, if there is one."""
    item = _policy(paths, "PLAYBOOK.md", {})
    return {} if item is None else {"PLAYBOOK.md": item}


def _policy(paths: Paths, name: str, shown: dict[str, Any]) -> Item | None:
    try:
        data = store.read_bytes(paths.data / name)
    except StateError:
        return Item(world.UNREADABLE, {**shown, "body": None, "note": world.UNREADABLE}, sure=False)
    if data is None:
        return None
    found = world.policy(data)
    return Item(found.digest, {**shown, "body": found.text} | ({"note": found.note} if found.note else {}))


def snapshots(paths: Paths) -> Items:
    """Snapshots, by their signals."""
    items = {}
    for name in store.names(paths.snapshots, ".json"):
        try:
            data = store.read_bytes(paths.snapshots / f"{name}.json")
        except StateError:
            items[name] = Item(world.UNREADABLE, {"name": name, "value": None, "note": world.UNREADABLE}, sure=False)
            continue
        if data is None:
            continue
        found = world.reading(name, data)
        if found.raw is None:
            items[name] = Item(found.item, {"name": name, "value": loads(data.decode(), unique_keys=False)})
        else:
            items[name] = Item(found.item, {"name": name, "value": None, "note": "not JSON", "raw": found.raw})
    return items


def journal_since(paths: Paths, mark: Mark | None) -> tuple[Mark, News | None]:
    """The lines of journal.md since `mark`."""
    return journal(paths.journal, rotated(paths), mark)


def _text(value: Any) -> str:
    try:
        return canonical(value)
    except (JsonError, ValueError):  # NaN, which json reads
        return repr(value)
