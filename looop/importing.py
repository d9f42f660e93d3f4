"""Take what an upstream data directory holds into this one: first a plan, checked to the end, then the writing.

Used by `looopctl import`. Nothing that is here is overwritten unless `force` says so, and then it is kept as an earlier
version. The policy files change in one step, so that a pulse that runs sees the old ones or the new. Every step finds
its work done when the import is run again.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looop import audit, guards, policy, runs, seed, settings, store
from looop.clock import Stamp
from looop.config import Config
from looop.errors import Refused, StateError, UsageError
from looop.instants import LONGEST, Record
from looop.jsonutil import JsonError
from looop.paths import Paths
from looop.upstream import Refusal, Upstream, shown


@dataclass(frozen=True)
class Piece:
    """One file to write. `history` is where the text that it replaces is kept."""

    what: str
    path: Path
    data: bytes
    mode: int = 0o600
    history: Path | None = None


@dataclass
class Plan:
    """What an import will do. `conflicts` are pieces that differ from what is here."""

    policy: list[Piece] = field(default_factory=list)
    files: list[Piece] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)
    not_used: list[Refusal] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    ledger: list[str] = field(default_factory=list)
    activity: dict[str, float] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # key -> TOML value

    def to_json(self) -> dict[str, Any]:
        return {
            "taken": self.taken,
            "same": self.same,
            "changed": [{"name": name, "how": how} for name, how in self.changed],
            "not_used": [{"name": each.name, "reason": each.reason} for each in self.not_used],
            "conflicts": self.conflicts,
            "next": self.next,
        }


def plan(paths: Paths, config: Config, found: Upstream, now: Stamp, env: Mapping[str, str] = os.environ) -> Plan:
    """Decide on everything; writes nothing. Raises UsageError when the two directories are one, or StateError."""
    _distinct(paths, found.root)
    made = Plan(not_used=list(found.refused))
    _policy(made, paths, found)
    _schedules(made, paths, found, now)
    _files(made, paths, found)
    _journal(made, paths, found)
    _money(made, paths, found)
    _mail(made, found)
    made.activity = {goal: at for goal, at in found.activity.items() if goal in found.goals}
    chosen = settings.translate(found.config, found.config_file, env)
    made.not_used += [Refusal(name, reason) for name, reason in chosen.not_used]
    made.next += chosen.next
    _settings(made, paths, config, chosen)
    _advice(made, found)
    return made


def _distinct(paths: Paths, root: Path) -> None:
    here, there = paths.data.resolve(), root.resolve()
    if here == there or here in there.parents or there in here.parents:
        hint = "point LOOOP_DATA_DIR at it: looop works on such a directory as it is"
        raise UsageError(f"cannot import {root}: it is looop's data directory, or one is inside the other", hint=hint)


def _add(made: Plan, piece: Piece) -> None:
    """One policy file: new, the same, or different from what is here."""
    present = store.read_bytes(piece.path)
    if present is None:
        made.taken.append(piece.what)
    elif present == piece.data:
        made.same.append(piece.what)
        if piece.path.stat().st_mode & 0o777 == piece.mode or piece.mode == 0o600:
            return
    else:
        made.taken.append(piece.what)
        if _starter(piece.path, present):
            made.changed.append((piece.what, "takes the place of the starter set's, which nobody had edited"))
        else:
            made.conflicts.append(piece.what)
    made.policy.append(piece)


def _starter(path: Path, present: bytes) -> bool:
    with contextlib.suppress(StateError):
        return path.name == "PLAYBOOK.md" and store.read_bytes(seed.STARTER / path.name) == present
    return False


def _policy(made: Plan, paths: Paths, found: Upstream) -> None:
    if found.playbook is not None:
        _add(made, Piece("PLAYBOOK.md", paths.playbook, _ended(found.playbook), history=paths.playbook_history))
    for goal, data in found.goals.items():
        kept = paths.history / "goals" / goal
        _add(made, Piece(f"goal {goal}", paths.goal(goal), _ended(data), history=kept))
    for name, (data, executable) in found.sensors.items():
        kept = paths.history / "sensors" / name
        _add(made, Piece(f"sensor {name}", paths.sensor(name), _ended(data), 0o755, kept))
        if not executable:
            made.changed.append((f"sensor {name}", "made executable; remove it if it was switched off that way"))


def _ended(data: bytes) -> bytes:
    return data.rstrip(b"\n") + b"\n"


def _schedules(made: Plan, paths: Paths, found: Upstream, now: Stamp) -> None:
    for name, obj in found.schedules.items():
        kept = {key: obj[key] for key in ("at", "every_s", "anchor", "note") if obj.get(key) not in (None, "")}
        try:
            record = Record.from_json(kept)
        except JsonError as error:
            made.not_used.append(Refusal(f"schedules/{name}.json", f"no usable schedule: {error}"))
            continue
        if record.at is not None and record.at > now.wall + LONGEST:
            made.not_used.append(Refusal(f"schedules/{name}.json", "its time is more than ten years away"))
            continue
        if record.at is not None and record.at <= now.wall:
            made.changed.append((f"schedule {name}", "was due already, and will be said to be"))
        data = store.dump_json({"v": 1, **kept}).encode()
        path = paths.schedules / f"{name}.json"
        _add(made, Piece(f"schedule {name}", path, data, history=paths.history / "schedules" / name))


# -- what never conflicts: it is put beside


def _files(made: Plan, paths: Paths, found: Upstream) -> None:
    for folder, suffix, what, texts in (
        (paths.archive, ".md", "archived goal", found.archive),
        (paths.playbook_history, ".md", "playbook version", found.versions),
    ):
        for stem, data in texts.items():
            _beside(made, f"{what} {stem}", folder / f"{stem}{suffix}", data)
    for name, data in found.reports.items():
        _beside(made, f"reports/{name}", paths.reports / name, data)


def _beside(made: Plan, what: str, path: Path, data: bytes) -> None:
    """Under its own name, or NAME-imported, NAME-imported-2 ... where another file has that."""
    names = (path.stem if n == 0 else f"{path.stem}-imported{f'-{n}' if n > 1 else ''}" for n in range(1000))
    for name in names:
        target = path.with_name(name + path.suffix)
        if target.is_dir():
            continue
        present = store.read_bytes(target)
        if present == data:
            made.same.append(what)
            return
        if present is None:
            made.taken.append(what)
            made.files.append(Piece(what, target, data))
            if target != path:
                made.changed.append((what, f"is {target.name} here: another file has its name"))
            return
    made.not_used.append(Refusal(what, "a thousand files have its name"))


def _journal(made: Plan, paths: Paths, found: Upstream) -> None:
    """It becomes looop's own as long as that is empty, so that it goes on; else it is put aside, never mixed in."""
    if not found.journal:
        return
    data = _ended(found.journal)
    own = b"".join(store.read_bytes(path) or b"" for path in (audit.rotated(paths), paths.journal))
    if own.startswith(data):
        made.same.append("journal.md")
    elif not own:
        made.taken.append("journal.md")
        made.files.append(Piece("journal.md", paths.journal, data))
    else:
        _beside(made, "journal.md", paths.data / "journal-imported.md", data)
        if "journal.md" in made.taken:
            made.changed.append(("journal.md", "is journal-imported.md here: looop has lines of its own already"))


def _money(made: Plan, paths: Paths, found: Upstream) -> None:
    """Rows of the ledger that are not here yet: what was spent today counts today."""
    own = set(runs.ledger(paths))
    rows = [row for row in found.ledger.decode(errors="replace").splitlines() if row.strip()]
    bad = {row for row in rows if guards.spent_since([row], 0).bad}
    made.ledger = [row for row in dict.fromkeys(rows) if row not in own and row not in bad]
    if bad:
        made.not_used.append(Refusal("cost.jsonl", f"{len(bad)} rows are no rows of a ledger"))
    if made.ledger:
        made.taken.append(f"cost.jsonl ({len(made.ledger)} rows)")
    elif rows and len(bad) < len(rows):
        made.same.append("cost.jsonl")


def _mail(made: Plan, found: Upstream) -> None:
    for ask in found.asks:
        reason = f"who asked is not here: {ask.get('worker', '?')} wanted to know: {ask.get('prompt', '?')}"
        made.not_used.append(Refusal(f"asks/{ask['id']}.json", " ".join(reason.split())))
    for tell in found.tells:
        reason = f"whom it was for is not here: {tell.get('worker', '?')} was to be told: {tell.get('msg', '?')}"
        made.not_used.append(Refusal(f"tells/{tell['id']}.json", " ".join(reason.split())))


# -- settings


def _settings(made: Plan, paths: Paths, config: Config, chosen: settings.Chosen) -> None:
    try:
        present = settings.read(paths.config)
    except UsageError as error:
        raise StateError(f"cannot import the settings: {error.message}") from error
    for key, value in chosen.values.items():
        what = f"setting {key}"
        if present.get(key) == value:
            made.same.append(what)
            continue
        if key in present and present[key] != "":
            made.conflicts.append(what)
        made.taken.append(what)
        made.settings[key] = settings.toml(value)
    for key, how in chosen.changed:
        if key in chosen.values:
            made.changed.append((f"setting {key}", how))


def _advice(made: Plan, found: Upstream) -> None:
    if found.running:
        made.next.insert(0, f"stop the other program: its pulse works on {found.root}, and would act beside looop")
    texts = {"PLAYBOOK.md": found.playbook or b""}
    texts |= {f"goals/{name}.md": data for name, data in found.goals.items()}
    texts |= {f"sensors/{name}.sh": data for name, (data, _) in found.sensors.items()}
    told = [name for name, data in texts.items() if settings.calls_looop(data.decode(errors="replace"))]
    if told:
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        made.next.append(f"the program is looopctl here; looop is called in {', '.join(told[:5])}{more}")
    if found.sensors:
        made.next.append("sensors run read-only here, without the user bus: try each with looopctl sensor run NAME")
    made.next.append("systemctl --user start looop; where it runs: systemctl --user reload looop, then looopctl beat")


# -- writing


def apply(paths: Paths, config: Config, found: Upstream, made: Plan, now: Stamp, force: bool = False) -> None:
    """Do what the plan says. Raises Refused before anything is written where it conflicts and `force` is not given."""
    if made.conflicts and not force:
        raise Refused(
            f"cannot import {found.root}: different here already: {', '.join(made.conflicts)}",
            hint="--force takes the imported ones and keeps those as earlier versions",
        )
    new_config = settings.changed(_text(paths.config), made.settings) if made.settings else ""
    try:
        paths.create()
    except OSError as error:
        raise StateError(f"cannot make the folders of {paths.data}: {error.strerror}: {error.filename}") from error
    for piece in made.files:
        piece.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not store.create(piece.path, piece.data, piece.mode) and store.read_bytes(piece.path) != piece.data:
            raise Refused(f"cannot write {piece.path}: it came to be just now", hint="run the import again")
    with policy.locked(paths):
        for piece in made.policy:
            if piece.history is not None and piece.path.exists():
                store.keep_history(piece.path, piece.history, config.history_keep)
        store.write_all((piece.path, piece.data, piece.mode) for piece in made.policy)
    _remember(paths, made)
    if made.settings:
        _write_config(paths, new_config)
    if made.taken:
        audit.line(paths, config, f"imported {len(made.taken)} things from {shown(str(found.root))}", "", now)


def _text(path: Path) -> str:
    return store.read_text(path) or ""


def _remember(paths: Paths, made: Plan) -> None:
    """The ledger, and when goals were last acted for: the later of the two times."""
    if made.ledger:
        with store.lock(paths.ledger.with_name(f".{paths.ledger.name}.lock")):
            own = _text(paths.ledger)
            rows = [row for row in made.ledger if row not in set(own.splitlines())]
            store.write(paths.ledger, "".join(f"{row}\n" for row in rows) + own)
    if made.activity:
        with store.lock(paths.data / f".{paths.goal_activity.name.lstrip('.')}.lock"):
            try:
                known = policy.activity(paths)
            except StateError:
                return  # advice only; the pulse mends it
            merged = {goal: max(at, known.get(goal, 0.0)) for goal, at in made.activity.items()}
            store.write_json(paths.goal_activity, {goal: int(at) for goal, at in sorted({**known, **merged}.items())})


def _write_config(paths: Paths, text: str) -> None:
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    old = store.read_bytes(paths.config)
    if old is not None:
        store.write(paths.config.with_name(f"{paths.config.name}.{time.strftime('%Y%m%d-%H%M%S')}.bak"), old)
    store.write(paths.config, text)
