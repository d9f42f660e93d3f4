"""Ask the configured command for the one move: run it in a unit of its own, then read what it left.

The command runs in its run folder, which nothing else uses, so no decision but its own can be picked up. It
sees the file system read-only, without the user bus; its exit status alone decides nothing. Used by the beat.
"""

import shlex
from collections.abc import Mapping

from looop import actions, runs, store
from looop.actions import Decision
from looop.clock import Stamp
from looop.config import Config
from looop.errors import LooopError
from looop.paths import Paths
from looop.systemd.live import Live
from looop.systemd.services import Confinement, run as run_service

PLACEHOLDER = "{{prompt_file}}"
OUTPUT_MAX = 16 << 20


class DecideFailed(LooopError):
    """The decider gave no usable decision; the message says which way."""

    name = "decide-failed"


def unit_name(run: str) -> str:
    """The unit of a decider run."""
    return f"looop-decide-{run}.service"


def prepare(paths: Paths, config: Config, run: str, prompt: str, world: Mapping[str, object]) -> None:
    """Write prompt.md, world.json, schema.json and the script the unit executes. Raises StateError."""
    folder = runs.folder(paths, run)
    store.write(folder / "prompt.md", prompt)
    store.write_json(folder / "world.json", world)
    store.write_json(folder / "schema.json", actions.SCHEMA)
    command = fill(config.decider_command, str(folder / "prompt.md"))
    # a script, because systemd would expand $ in an argument (systemd.service(5), COMMAND LINES)
    store.write(folder / "decide.sh", command + "\n", 0o700)


def fill(command: str, prompt_file: str) -> str:
    """The command with {{prompt_file}} replaced by the quoted path; quotes already around it go."""
    path = shlex.quote(prompt_file)
    for quoted in (f"'{PLACEHOLDER}'", f'"{PLACEHOLDER}"', PLACEHOLDER):
        command = command.replace(quoted, path)
    return command


async def command(live: Live, paths: Paths, config: Config, run: str, env: Mapping[str, str]) -> Decision:
    """Run the decider and return its decision. Raises DecideFailed, or DecisionError naming the bad field."""
    folder = runs.folder(paths, run)
    to_stdout = config.decider_output == "stdout"
    out, log = folder / "stdout.txt", folder / "output.log"
    outcome = await run_service(
        live,
        unit_name(run),
        folder / "decide.sh",
        cwd=folder,
        stdin=None if PLACEHOLDER in config.decider_command else folder / "prompt.md",
        stdout=out if to_stdout else log,
        stderr=log if to_stdout else None,
        env={**env, "PWD": str(folder)},
        timeout=config.decider_timeout or 7 * 86400,
        confine=None if config.sandbox == "off" else confinement(paths, config, run),
        output_max=OUTPUT_MAX,
        description=f"looop decides ({run})",
    )
    runs.note_usage(paths, run, "decide", outcome.to_json())
    if not outcome.ok:
        last = runs.tail(log, 512).strip()
        raise DecideFailed(f"the decider {outcome.text()}" + (f": {last}" if last else ""))
    text = store.read_text(out if to_stdout else folder / ".decision.json")
    if text is None:
        raise DecideFailed("the decider ended without writing .decision.json in its run folder")
    if to_stdout and not text.strip():
        raise DecideFailed("the decider ended without printing a decision")
    return actions.parse(text)


def confinement(paths: Paths, config: Config, run: str) -> Confinement:
    """A read-only view of everything but the run folder and the folders the configuration names."""
    return Confinement(write_paths=(str(runs.folder(paths, run)), *config.decider_write_paths))


def price(paths: Paths, config: Config, run: str, decision: Decision | None, now: Stamp) -> float | None:
    """Enter the run in the ledger; returns what it cost, None when nobody can tell. Raises StateError.

    The seam for agents that report their cost: theirs wins over the configured fixed price.
    """
    reported = decision.cost_usd if decision else None
    cost = reported if reported is not None else config.decider_cost_usd
    source = "reported" if reported is not None else "fixed" if cost is not None else "unknown"
    runs.pay(paths, run, now, cost, source)
    return cost


def stop_leftover(live: Live, record: runs.Record) -> None:
    """Stop the units a dead pulse left behind for this run."""
    for unit in live.live([unit_name(record.run), f"looop-shell-{record.run}.service"]):
        live.stop(unit)
