"""What keeps the loop from spending and hurrying: each guard is a pure function (state, now) -> verdict.

The state is one JSON file that the beat loads, hands through and saves. When it is corrupt the caller uses
`degraded`, which waits as after four failures. Every age is taken on a Stamp, so no clock step moves a guard.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from looop.clock import Stamp
from looop.jsonutil import JsonError, as_object, get_bool, get_int, get_num, get_object, get_str, loads

FIRST_WAIT_S = 60
LONGEST_WAIT_S = 3600
HOUR_S = 3600
MANY_WORLDS = 3  # failures in this many different worlds are the decider's, not the world's
MANY_UNMETERED = 3
KEPT = 256  # worlds and error characters remembered are bounded; the counts are not


@dataclass(frozen=True)
class Verdict:
    """May the beat go on? `event` names what to log, "" for nothing; `retry_in_s` is None when waiting is no help."""

    allow: bool
    reason: str = ""
    retry_in_s: int | None = None
    event: str = ""


GO = Verdict(True)


@dataclass(frozen=True)
class Failure:
    """The last failed beat, and the policy it failed under."""

    run: str
    code: str
    error: str
    at: Stamp
    policy_hash: str


@dataclass(frozen=True)
class Decided:
    """The last success: the world it was committed on, and whether it was a noop."""

    world_hash: str
    at: Stamp
    noop: bool


@dataclass(frozen=True)
class Flap:
    """How restless one snapshot is; `last` is "" while the snapshot is absent."""

    last: str
    streak: int = 0
    warned: bool = False


@dataclass(frozen=True)
class GuardState:
    """Everything the guards remember. `failures` counts by world hash, `total` all of them since the last success."""

    failures: Mapping[str, int] = field(default_factory=dict)
    worlds: int = 0
    total: int = 0
    failure: Failure | None = None
    attempts: tuple[Stamp, ...] = ()
    decided: Decided | None = None
    flaps: Mapping[str, Flap] = field(default_factory=dict)
    unmetered: int = 0
    unmetered_by: str = ""

    def to_json(self) -> dict[str, Any]:
        failure, decided = self.failure, self.decided
        return {
            "v": 1,
            "failures": dict(self.failures),
            "worlds": self.worlds,
            "total": self.total,
            "failure": failure and {**vars(failure), "at": failure.at.to_json()},
            "attempts": [at.to_json() for at in self.attempts],
            "decided": decided and {**vars(decided), "at": decided.at.to_json()},
            "flaps": {name: dict(vars(flap)) for name, flap in self.flaps.items()},
            "unmetered": self.unmetered,
            "unmetered_by": self.unmetered_by,
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any], now: Stamp) -> "GuardState":
        """Raises JsonError naming the bad attribute. Stamps of an earlier boot move to this boot's clock."""
        failures, flaps = get_object(obj, "failures", {}), get_object(obj, "flaps", {})
        failure, decided = get_object(obj, "failure", {}), get_object(obj, "decided", {})
        attempts = obj.get("attempts") or []
        if not isinstance(attempts, list):
            raise JsonError("attempts: expected a list")
        return cls(
            failures={name: get_int(failures, name) for name in failures},
            worlds=get_int(obj, "worlds", 0),
            total=get_int(obj, "total", 0),
            failure=_failure(failure, now) if failure else None,
            attempts=tuple(rebase(Stamp.from_json(as_object(at, "attempts")), now) for at in attempts),
            decided=_decided(decided, now) if decided else None,
            flaps={name: _flap(as_object(flap, name)) for name, flap in flaps.items()},
            unmetered=get_int(obj, "unmetered", 0),
            unmetered_by=get_str(obj, "unmetered_by", ""),
        )


def rebase(stamp: Stamp, now: Stamp) -> Stamp:
    """The stamp on this boot's clock: one from the future of a wrong wall clock ages from now on."""
    if stamp.boot == now.boot:
        return stamp
    age = stamp.age(now)
    return Stamp(now.wall - age, now.boot, now.mono - age)


def _failure(obj: dict[str, Any], now: Stamp) -> Failure:
    at = rebase(Stamp.from_json(get_object(obj, "at")), now)
    return Failure(get_str(obj, "run"), get_str(obj, "code"), get_str(obj, "error"), at, get_str(obj, "policy_hash"))


def _decided(obj: dict[str, Any], now: Stamp) -> Decided:
    at = rebase(Stamp.from_json(get_object(obj, "at")), now)
    return Decided(get_str(obj, "world_hash"), at, get_bool(obj, "noop"))


def _flap(obj: dict[str, Any]) -> Flap:
    return Flap(get_str(obj, "last"), get_int(obj, "streak"), get_bool(obj, "warned"))


def degraded(now: Stamp, policy_hash: str) -> GuardState:
    """Stands in for a corrupt or unreadable state: four failures just now, in worlds nobody remembers."""
    error = "the state of the guards could not be read and was started anew"
    return GuardState(worlds=MANY_WORLDS, total=4, failure=Failure("", "guards_degraded", error, now, policy_hash))


# -- guards


def skip(world_hash: str, committed_hash: str, forced: str) -> Verdict:
    """Stop when the world is the one that was last decided on; `forced` says why to decide all the same."""
    if world_hash == committed_hash and not forced:
        return Verdict(False, "the world is unchanged", None, "world_unchanged")
    return GO


def revisit(state: GuardState, world_hash: str, ttl_s: int, now: Stamp) -> str:
    """The reason to decide again on an unchanged world, "" for none: no decision about it stands for ever."""
    decided = state.decided
    if not ttl_s or decided is None or decided.world_hash != world_hash or decided.at.age(now) < ttl_s:
        return ""
    return f"the last {'noop' if decided.noop else 'decision'} is older than {ttl_s} s"


def failures_in_a_row(state: GuardState, world_hash: str) -> int:
    """How often this world has failed; the count over all worlds once several have."""
    here = state.failures.get(world_hash, 0)
    return max(here, state.total) if state.worlds >= MANY_WORLDS else here


def backoff(state: GuardState, world_hash: str, policy_hash: str, now: Stamp) -> Verdict:
    """60 s, doubled by each failure, at most an hour. An edit of playbook or goals cuts the wait, not the count."""
    count = failures_in_a_row(state, world_hash)
    if state.failure is None or not count:
        return GO
    wait = min(LONGEST_WAIT_S, FIRST_WAIT_S << min(count - 1, 10))
    left = wait - state.failure.at.age(now)
    if left <= 0:
        return GO
    if policy_hash != state.failure.policy_hash:
        return Verdict(True, f"the policy was edited after {count} failures", None, "backoff_cut")
    return Verdict(False, f"waiting after {count} failures in a row", _up(left), "tick_backoff")


def hourly(state: GuardState, most: int, now: Stamp) -> Verdict:
    """At most `most` decider runs in any hour, failed ones too; 0 = no cap."""
    ages = sorted(age for at in state.attempts if (age := at.age(now)) < HOUR_S)
    if not most or len(ages) < most:
        return GO
    return Verdict(False, f"{len(ages)} decider runs in the last hour", _up(HOUR_S - ages[most - 1]), "tick_capped")


def _up(seconds: float) -> int:
    return max(1, int(-(-seconds // 1)))


@dataclass(frozen=True)
class Spent:
    """Money since local midnight; `bad` names the ledger rows that could not be read."""

    usd: float = 0.0
    bad: tuple[str, ...] = ()


def spent_since(rows: Iterable[str], midnight: float) -> Spent:
    """Add up the lines of cost.jsonl from `midnight` (Unix seconds) on; rows of the future count as today's.

    A row whose cost is null is a run of unknown cost, which the state of the guards counts.
    """
    usd, bad = 0.0, []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        try:
            obj = as_object(loads(row), "row")
            at = datetime.fromisoformat(get_str(obj, "ts"))
            cost = 0.0 if obj.get("cost_usd", 0) is None else get_num(obj, "cost_usd")
            if at.tzinfo is None or cost < 0:
                raise JsonError("ts without a zone" if at.tzinfo is None else f"cost_usd: {cost} is negative")
        except ValueError as error:
            bad.append(f"line {number}: {error}")
            continue
        usd += cost if at.timestamp() >= midnight else 0.0
    return Spent(round(usd, 6), tuple(bad))


def money(state: GuardState, spent: Spent, max_usd: float, metered_as: str, midnight_in_s: int) -> Verdict:
    """Stop at the daily cap (0 = none), and when what runs cost is not known. `metered_as` identifies the decider."""
    if not max_usd:
        return GO
    if spent.usd >= max_usd:
        reason = f"${spent.usd:.2f} of ${max_usd:.2f} are spent today"
        return Verdict(False, reason, max(1, midnight_in_s), "budget_exceeded")
    runs = state.unmetered if state.unmetered_by == metered_as else 0
    if runs + len(spent.bad) < MANY_UNMETERED:
        return GO
    named = f"; the ledger has unreadable rows ({'; '.join(spent.bad[:3])})" if spent.bad else ""
    reason = f"{runs} decider runs did not say what they cost, under a cap of ${max_usd:.2f} a day{named}"
    return Verdict(False, reason, None, "budget_unmetered")


def flapping(state: GuardState, streak: int) -> tuple[str, ...]:
    """Snapshots that changed `streak` beats more often than they held still; 0 = off."""
    return tuple(sorted(name for name, flap in state.flaps.items() if streak and flap.streak >= streak))


# -- what happened: each returns the next state


def record_items(state: GuardState, items: Mapping[str, str], streak: int) -> tuple[GuardState, tuple[str, ...]]:
    """Count the changes of every snapshot, its coming and going too; also the names that crossed `streak` just now."""
    flaps: dict[str, Flap] = {}
    crossed = []
    present = {name.removeprefix("snap:"): text for name, text in items.items() if name.startswith("snap:")}
    for name in sorted({*present, *state.flaps}):
        last = hashlib.blake2b(present[name].encode(), digest_size=8).hexdigest() if name in present else ""
        old = state.flaps.get(name, Flap(last))
        count = old.streak + 1 if old.last != last else max(0, old.streak - 1)
        warn = bool(streak) and count >= streak and not old.warned
        if warn:
            crossed.append(name)
        if last or count:
            flaps[name] = Flap(last, count, bool(count) and (warn or old.warned))
    return replace(state, flaps=flaps), tuple(crossed)


def record_attempt(state: GuardState, now: Stamp) -> GuardState:
    """A decider is about to run."""
    recent = tuple(at for at in state.attempts if at.age(now) < HOUR_S)
    return replace(state, attempts=(*recent, now))


def record_failure(
    state: GuardState, run: str, code: str, error: str, world_hash: str, policy_hash: str, now: Stamp
) -> GuardState:
    """A decider run or its move failed."""
    failures = dict(state.failures)
    here = failures.pop(world_hash, 0)
    failures = dict([*failures.items(), (world_hash, here + 1)][-KEPT:])
    return replace(
        state,
        failures=failures,
        worlds=state.worlds + (not here),
        total=state.total + 1,
        failure=Failure(run, code, error[: 16 * KEPT], now, policy_hash),
    )


def record_success(state: GuardState, world_hash: str, noop: bool, now: Stamp) -> GuardState:
    """A move was decided and carried out: the only thing that ends a row of failures."""
    return replace(state, failures={}, worlds=0, total=0, failure=None, decided=Decided(world_hash, now, noop))


def record_cost(state: GuardState, cost_usd: float | None, metered_as: str) -> GuardState:
    """A decider run ended and cost this much; None is not known. Another decider starts a new count."""
    before = state.unmetered if state.unmetered_by == metered_as else 0
    return replace(state, unmetered=0 if cost_usd is not None else before + 1, unmetered_by=metered_as)
