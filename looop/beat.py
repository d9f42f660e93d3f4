"""One beat: housekeep, sense, view, guards, decide, execute, commit. One coroutine, no loop, no clock, no signals.

The pulse calls it with everything it needs as arguments. It re-reads the whole world every time; nothing is
carried over but files. Whatever it cannot learn (a fleet systemd cannot list) stops it before it acts.
"""

import time
from dataclasses import dataclass

from looop import audit, claims, commit, decide, execute, guards, nudges, probes, prompt, rules, runs, store, view
from looop.actions import Decision, Noop, RunShell, WriteGoal, WritePlaybook, summary, to_json, word
from looop.environment import environment
from looop.errors import LooopError, StateError, Unavailable
from looop.housekeep import STEP, Services, housekeep, nudge, sense
from looop.jsonutil import JsonError
from looop.paths import Paths
from looop.sessions import fleet
from looop.systemd import journal
from looop.world import Baseline, Context, World, baseline, to_json as world_json

SHELL_FOLLOW_UP = 5  # seconds after a run_shell move in which its output gets read


@dataclass(frozen=True)
class Result:
    """How the beat ended. `again` is the reason for which the next beat, due at once, must decide; "" for none.

    `why` says why nothing was decided, "" when something was.
    """

    acted: bool
    text: str
    again: str = ""
    why: str = ""


@dataclass(frozen=True)
class Seen:
    """The world as this beat sensed it, and what came of the last decision."""

    world: World
    committed: Baseline | None
    state: guards.GuardState
    forced: str
    sessions: list[fleet.Session]
    judge: claims.Judge


async def beat(s: Services, number: int, forced: str) -> Result:
    """Run one beat. Raises LooopError when it could not be run to its end; nothing is committed then."""
    journal.emit("tick_start")
    s.allow(STEP)
    s.status(f"beat {number}: housekeeping")
    try:
        sessions, judge = await housekeep(s)
    except Unavailable as error:
        for name in ("sessions", "claims", "asks"):
            probes.publish_unknown(s.paths, name)
        journal.emit("fleet_unknown", text=str(error))
        return Result(False, f"idle: {error.message}; acting on nothing", forced, error.message)
    s.status(f"beat {number}: sensing")
    await sense(s, sessions, judge)
    seen = look(s, sessions, judge, forced)
    due = nudges.due(s.paths, s.clock())
    if due and not forced:
        seen = Seen(seen.world, seen.committed, seen.state, "a follow-up is due", sessions, judge)
    idle = await gates(s, seen)
    if idle:
        return idling(idle, sessions)
    s.allow(STEP)
    return await move(s, number, seen, due)


# -- view and guards


def look(s: Services, sessions: list[fleet.Session], judge: claims.Judge, forced: str) -> Seen:
    """One read of the world, and the guards' state with this beat's readings counted in."""
    world = view.world(s.paths)
    for name in world.unreadable:
        s.notices.note("state_degraded", f"cannot read {s.paths.data / name}")
    try:
        committed = commit.read(s.paths)
    except StateError as error:
        # without it the world counts as changed: at worst one decision too many, never one too few
        journal.emit("guard_degraded", text=f"{error}; moved aside, the world counts as changed")
        store.set_aside(s.paths.committed)
        committed = None
    state = guard_state(s, world)
    state, crossed = guards.record_items(state, world.items, s.config.flap_streak)
    for name in crossed:
        journal.emit("sensor_flapping", sensor=name, text=name)
    save_guards(s.paths, state)
    return Seen(world, committed, state, forced, sessions, judge)


def guard_state(s: Services, world: World) -> guards.GuardState:
    """The state of the guards; a corrupt one fails closed, says so once, and is replaced."""
    now = s.clock()
    try:
        obj = store.read_json(s.paths.guards)
        return guards.GuardState() if obj is None else guards.GuardState.from_json(obj, now)
    except (StateError, JsonError) as error:
        journal.emit("guard_degraded", text=f"{s.paths.guards}: {error}; waiting as after four failures")
        state = guards.degraded(now, world.policy_hash)
        store.set_aside(s.paths.guards)
        save_guards(s.paths, state)
        return state


def save_guards(paths: Paths, state: guards.GuardState) -> None:
    store.write_changed(paths.guards, store.dump_json(state.to_json()).encode())


async def gates(s: Services, seen: Seen) -> str:
    """Why not to decide now, "" when nothing stands in the way."""
    world, state, now = seen.world, seen.state, s.clock()
    aged = guards.revisit(state, world.hash, s.config.noop_ttl, now)
    if aged:
        journal.emit("noop_revisit", text=aged)
    committed = seen.committed.hash if seen.committed else ""
    for verdict in (
        guards.skip(world.hash, committed, seen.forced or aged),
        guards.backoff(state, world.hash, world.policy_hash, now),
    ):
        if verdict.event:
            journal.emit(verdict.event, text=text_of(verdict))
        if not verdict.allow:
            if verdict.retry_in_s:
                await nudge(s, verdict.retry_in_s, nudges.RETRY)
            return text_of(verdict)
    return ""


def text_of(verdict: guards.Verdict) -> str:
    retry = f", next try in {verdict.retry_in_s} s" if verdict.retry_in_s else ""
    return verdict.reason + retry


async def purse(s: Services, state: guards.GuardState) -> str:
    """Why a decider run may not be paid for now, "" when it may."""
    now = s.clock()
    local = time.localtime(now.wall)
    midnight = time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1))
    tomorrow = time.mktime((local.tm_year, local.tm_mon, local.tm_mday + 1, 0, 0, 0, 0, 0, -1))
    spent = guards.spent_since(runs.ledger(s.paths), midnight)
    for verdict in (
        guards.hourly(state, s.config.max_decides_per_hour, now),
        guards.money(state, spent, s.config.max_daily_usd, s.config.decider_command, int(tomorrow - now.wall)),
    ):
        if not verdict.allow:
            journal.emit(verdict.event, text=text_of(verdict))
            if verdict.retry_in_s:
                await nudge(s, verdict.retry_in_s, nudges.RETRY)
            return text_of(verdict)
    return ""


# -- decide


async def move(s: Services, number: int, seen: Seen, due: list[str]) -> Result:
    """Decide on the world and carry the decision out: rules first, then the configured command."""
    config = s.config
    if config.decide == "off":
        return idling("somebody else decides (decide = off)", seen.sessions)
    now = s.clock()
    told = view.context(
        s.paths, config, seen.world, seen.committed, seen.state, seen.judge, now, seen.forced
    )
    found = match_rules(s, seen, told)
    if found and found.match:
        nudges.done(s.paths, due)
        return await by_rule(s, number, seen, told, found.match, found.more)
    if not config.decider_command:
        if found is None:  # not committed: once they are mended, this world still waits for a decision
            return idling("the rules cannot be used (looopctl rules check)", seen.sessions)
        nudges.done(s.paths, due)
        commit.save(s.paths, baseline(seen.world))
        return idling("no rule matches", seen.sessions)
    closed = "" if s.confined else "this host cannot confine a decider (looopctl doctor)"
    closed = closed or await purse(s, seen.state)
    if closed:
        return idling(closed, seen.sessions)
    nudges.done(s.paths, due)
    return await by_command(s, number, seen, told)


def match_rules(s: Services, seen: Seen, told: Context) -> rules.Evaluation | None:
    """The rules over this world; None when they, or the ledger of their firings, cannot be read. That is reported."""
    try:
        text = store.read_text(s.paths.rules) or ""
        fired = commit.fired(s.paths)
        data = world_json(seen.world, told)
        store.write_changed(s.paths.last_world, store.dump_json(data).encode())
        found = rules.evaluate(rules.parse(text, str(s.paths.rules)), data, fired, s.clock())
    except LooopError as error:
        s.notices.note("rule_broken", str(error))
        return None
    for problem in found.problems:
        s.notices.note("rule_broken", problem)
    if found.fired != fired:
        store.write_json(s.paths.rule_ledger, found.fired.to_json())
    return found


async def by_rule(s: Services, number: int, seen: Seen, told: Context, found: rules.Match, more: bool) -> Result:
    """Carry out what a rule decided."""
    run = runs.new(s.paths, s.clock())
    store.write_json(runs.folder(s.paths, run) / "world.json", world_json(seen.world, told))
    commit.stage(s.paths, run, baseline(seen.world))
    record = intend(s, seen, run, "rules", found.decision, found.rule, found.key)
    commit.fire(s.paths, found.rule, found.key, run, s.clock())
    result = await carry_out(s, number, seen, record, found.decision)
    if found.again_after_s:
        await nudge(s, found.again_after_s, f"rule-{run}")  # the world may not have changed by then
    if not result.again and more:
        return Result(result.acted, result.text, "another rule matches")
    return result


async def by_command(s: Services, number: int, seen: Seen, told: Context) -> Result:
    """Run the decider and carry out its move."""
    paths, config = s.paths, s.config
    run = runs.new(paths, s.clock())
    data = world_json(seen.world, told)
    text = prompt.build(seen.world, told, config.prompt_max_bytes, config.decider_output)
    decide.prepare(paths, config, run, text, data)
    commit.stage(paths, run, baseline(seen.world))
    record = runs.save(paths, runs.Record(run, "deciding", "decider", s.clock(), seen.world.hash))
    state = guards.record_attempt(seen.state, s.clock())
    save_guards(paths, state)
    journal.emit("decide_start", run=run, text=run)
    s.status(f"beat {number}: deciding ({run})")
    s.allow(STEP + (config.decider_timeout or 7 * 86400))
    decision, error = await ask_decider(s, run)
    s.allow(STEP)
    cost = decide.price(paths, config, run, decision, s.clock())
    state = guards.record_cost(state, cost, config.decider_command)
    seen = Seen(seen.world, seen.committed, state, seen.forced, seen.sessions, seen.judge)
    save_guards(paths, state)
    if decision is None:
        return await failed(s, seen, record, str(error), "tick.failed")
    told_all(paths, told)
    record = intend(s, seen, run, "decider", decision)
    blind = overwrites_unseen(seen.world, decision)
    if blind:
        return await failed(s, seen, record, blind, "move.failed")
    return await carry_out(s, number, seen, record, decision, cost)


async def ask_decider(s: Services, run: str) -> tuple[Decision | None, LooopError | None]:
    env = environment(s.paths, s.config, s.config.decider_env)
    try:
        return await decide.command(s.live, s.paths, s.config, run, env), None
    except LooopError as error:
        return None, error


def overwrites_unseen(world: World, decision: Decision) -> str:
    """Why this move may not be made: it replaces a text of which the decider was shown a part only."""
    move = decision.move
    name = f"goal:{move.id}" if isinstance(move, WriteGoal) else "playbook" if isinstance(move, WritePlaybook) else ""
    if name and name in prompt.clipped(world):
        return f"{summary(move)}: refused, because {name} was shown clipped and would lose its rest"
    return ""


def told_all(paths: Paths, told: Context) -> None:
    """This decision has seen the last shell output and the interrupted moves: the next need not."""
    store.remove(paths.last_shell)
    for cut in told.interrupted:
        record = runs.load(paths, cut.run)
        if record:
            runs.advance(paths, record, record.state, seen=True)


# -- execute and commit


def intend(
    s: Services, seen: Seen, run: str, source: str, decision: Decision, rule: str = "", key: str = ""
) -> runs.Record:
    """The durable word that this move is about to be carried out."""
    return runs.save(
        s.paths,
        runs.Record(
            run,
            "intended",
            source,
            s.clock(),
            seen.world.hash,
            to_json(decision.move),
            decision.journal or summary(decision.move),
            rule,
            key,
        ),
    )


async def carry_out(
    s: Services, number: int, seen: Seen, record: runs.Record, decision: Decision, cost: float | None = None
) -> Result:
    """Execute, journal, commit: in this order, each step durable before the next."""
    paths, config = s.paths, s.config
    kind = word(decision.move)
    s.status(f"beat {number}: {summary(decision.move)}")
    shell = (config.shell_timeout or 7 * 86400) if isinstance(decision.move, RunShell) else 0
    s.allow(STEP * 3 + config.stop_timeout + shell)
    hands = execute.Hands(s.live, paths, config, s.clock(), record.run, record.source, s.confined)
    try:
        done = await execute.execute(hands, decision.move)
    except LooopError as error:
        return await failed(s, seen, record, f"{summary(decision.move)}: {error}", "move.failed")
    s.allow(STEP)
    record = runs.advance(paths, record, "executed", summary=done)
    audit.line(paths, config, record.journal, record.run, s.clock())
    noop = isinstance(decision.move, Noop)
    save_guards(paths, guards.record_success(seen.state, seen.world.hash, noop, s.clock()))
    commit.commit(paths, record.run)
    runs.advance(paths, record, "committed")
    journal.emit("decided", run=record.run, action=kind, cost_usd=cost, text=f"{kind}: {record.journal}")
    follow_up = decision.next_interval_s
    if follow_up is None and isinstance(decision.move, RunShell):
        follow_up = SHELL_FOLLOW_UP
    if follow_up is not None:
        await nudge(s, min(max(5, follow_up), max(5, config.max_next_interval)))
    idle = "idle: " if noop else ""
    return Result(not noop, f"{idle}{done} ({record.run})")


async def failed(s: Services, seen: Seen, record: runs.Record, error: str, code: str) -> Result:
    """Note the failure where the human, the next decision and the guards find it. Nothing is committed."""
    paths, world = s.paths, seen.world
    journaled = record.state == "intended"
    record = runs.advance(paths, record, "failed", error=error)
    if journaled:
        audit.line(paths, s.config, f"FAILED {error}", record.run, s.clock())
        if record.rule:
            commit.release_rule(paths, record.run)
    state = guards.record_failure(
        seen.state, record.run, code, error, world.hash, world.policy_hash, s.clock()
    )
    save_guards(paths, state)
    journal.emit("tick_failed", run=record.run, fails=state.total, text=error)
    verdict = guards.backoff(state, world.hash, world.policy_hash, s.clock())
    if verdict.retry_in_s:
        await nudge(s, verdict.retry_in_s, nudges.RETRY)
    return Result(False, f"failed: {error[:120]}; {text_of(verdict)}", "")


def idling(why: str, sessions: list[fleet.Session]) -> Result:
    """Nothing was decided."""
    return Result(False, f"idle: {why}; {fleet_text(sessions)}", why=why)


def fleet_text(sessions: list[fleet.Session]) -> str:
    """The fleet in a few words, for the status line."""
    alive = [x for x in sessions if x.alive]
    asking = sum(x.health == "waiting-ask" for x in alive)
    count = f"{len(alive)} worker{'s' if len(alive) != 1 else ''}"
    return count + (f", {asking} waiting for an answer" if asking else "")
