"""What a dead pulse or a failed beat left: finish what was done, report what was cut short, re-fire nothing.

Runs before the first beat of a pulse and after every beat that broke off. A move found "intended" was perhaps
carried out: only when its effect can be proven either way is that used; otherwise it is reported to the human and to
the next decision as interrupted.
"""

from looop import audit, commit, decide, runs
from looop.actions import MOVES
from looop.clock import Stamp
from looop.config import Config
from looop.errors import LooopError, StateError
from looop.paths import Paths
from looop.sessions import fleet
from looop.systemd import journal
from looop.systemd.live import Live

# moves that may safely be decided again: writing the same file or timer twice is writing it once
REPEATABLE = frozenset(MOVES) - {"run_shell", "send_tell", "notify"}


def recover(live: Live, paths: Paths, config: Config, now: Stamp) -> None:
    """Settle every unfinished record. A record that cannot be read is reported and left alone."""
    try:
        records, broken = runs.in_states(paths, *runs.OPEN)
    except StateError as error:
        records, broken = [], [error]
    for problem in broken:
        journal.emit("state_degraded", text=str(problem))
    for record in records:
        if record.source == "human":
            continue  # a verb's own process may still be at it; it settles its record itself
        try:
            settle(live, paths, config, record, now)
        except LooopError as error:
            journal.emit("state_degraded", run=record.run, text=f"run {record.run} is not settled: {error}")


def settle(live: Live, paths: Paths, config: Config, record: runs.Record, now: Stamp) -> None:
    """Bring one record to its end."""
    decide.stop_leftover(live, record)
    if record.state == "deciding":
        decide.price(paths, config, record.run, None, now)  # it may have cost something all the same
        runs.advance(paths, record, "cancelled", error="the pulse or the beat ended while the decider ran")
        return
    if record.state == "intended" and not carried_out(paths, record):
        interrupted(paths, config, record, now)
        return
    if not audit.has(paths, record.run):
        audit.line(paths, config, record.journal or record.summary or str(record.action.get("action")), record.run, now)
    if not record.error:
        commit.commit(paths, record.run)
    runs.advance(paths, record, "failed" if record.error else "committed")


def carried_out(paths: Paths, record: runs.Record) -> bool:
    """True when the move is known to have had its effect. Only a worker start leaves such a proof."""
    if record.action.get("action") != "start_worker":
        return False
    try:
        return fleet.run_of(paths, str(record.action.get("id"))) == record.run
    except StateError:
        return False


def interrupted(paths: Paths, config: Config, record: runs.Record, now: Stamp) -> None:
    """Report a move that was cut short; a rule may decide it again only when repeating it is harmless."""
    action = str(record.action.get("action"))
    word = MOVES[action].word if action in MOVES else action
    again = "it is decided anew" if action in REPEATABLE else "it may have happened in part, and is not repeated"
    text = f"INTERRUPTED {word}: it was cut short while it was carried out; {again}"
    runs.advance(paths, record, "interrupted", error=text)
    if not audit.has(paths, record.run):
        audit.line(paths, config, text, record.run, now)
    journal.emit("tick_interrupted", run=record.run, action=word, text=f"{word} of {record.run}")
    if action in REPEATABLE and record.rule:
        commit.release_rule(paths, record.run)
