"""Every path looop owns, in one frozen object, and the one rule for names that become paths.

The data directory is found the same way by every process: $LOOOP_DATA_DIR, else $STATE_DIRECTORY, else
XDG_STATE_HOME. Nothing here touches the file system except `create`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from looop.errors import UsageError

_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def safe_name(kind: str, value: str) -> str:
    """`value` if it may name a goal, sensor, worker, claim, ask or schedule, else UsageError.

    Such names become file names and unit names, so: 1 to 64 of A-Z a-z 0-9 _ . - and no leading dot or dash.
    """
    if not _SAFE.match(value) or value[0] in ".-":
        shown = repr(value if len(value) <= 80 else value[:77] + "...")
        raise UsageError(
            f"cannot use {shown} as {kind} name",
            hint="names are 1 to 64 of A-Z a-z 0-9 _ . - and do not start with a dot or a dash",
        )
    return value


@dataclass(frozen=True)
class Paths:
    """Where things are. `data` is the data directory, `config` the main file, `runtime` lives until reboot."""

    data: Path
    config: Path
    runtime: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Paths":
        """Resolve as `looopctl` and `looopd` do; relative values are taken from the present directory, once."""
        variables: Mapping[str, str] = os.environ if env is None else env

        def under(variable: str, fallback: str) -> Path:
            return Path(variables.get(variable) or Path(variables.get("HOME") or os.path.expanduser("~")) / fallback)

        data = variables.get("LOOOP_DATA_DIR") or (variables.get("STATE_DIRECTORY") or "").split(":")[0]
        config_home = (variables.get("CONFIGURATION_DIRECTORY") or "").split(":")[0]
        config = Path(
            variables.get("LOOOP_CONFIG")
            or Path(config_home or under("XDG_CONFIG_HOME", ".config") / "looop") / "looop.toml"
        )
        runtime = (variables.get("RUNTIME_DIRECTORY") or "").split(":")[0]
        run_base = Path(variables.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
        return cls(
            data=Path(data or under("XDG_STATE_HOME", ".local/state") / "looop").absolute(),
            config=config.absolute(),
            runtime=Path(runtime or run_base / "looop").absolute(),
        )

    # -- policy: what a person writes
    @property
    def playbook(self) -> Path:
        return self.data / "PLAYBOOK.md"

    @property
    def playbook_history(self) -> Path:
        return self.data / "playbook.d"

    @property
    def goals(self) -> Path:
        return self.data / "goals"

    @property
    def archive(self) -> Path:
        return self.goals / "archive"

    @property
    def sensors(self) -> Path:
        return self.data / "sensors"

    @property
    def rules(self) -> Path:
        return self.data / "rules.toml"

    @property
    def history(self) -> Path:
        """Earlier bodies: history/goals/ID/STAMP.md and history/sensors/NAME/STAMP.sh."""
        return self.data / "history"

    def goal(self, goal_id: str) -> Path:
        return self.goals / f"{safe_name('a goal', goal_id)}.md"

    def sensor(self, name: str) -> Path:
        return self.sensors / f"{safe_name('a sensor', name)}.sh"

    # -- what the loop and its workers write
    @property
    def snapshots(self) -> Path:
        return self.data / "snapshots"

    @property
    def journal(self) -> Path:
        return self.data / "journal.md"

    @property
    def asks(self) -> Path:
        return self.data / "asks"

    @property
    def asks_done(self) -> Path:
        """The archive: question, answer and what became of them in one record each."""
        return self.asks / "done"

    @property
    def answers(self) -> Path:
        return self.data / "answers"

    @property
    def tells(self) -> Path:
        return self.data / "tells"

    @property
    def notifications(self) -> Path:
        """Who was told what: a record a subject, those that are over in told/."""
        return self.data / "notifications"

    @property
    def schedules(self) -> Path:
        return self.data / "schedules"

    @property
    def claims(self) -> Path:
        return self.data / "claims"

    @property
    def reports(self) -> Path:
        return self.data / "reports"

    @property
    def prompts(self) -> Path:
        return self.data / "prompts"

    @property
    def runs(self) -> Path:
        return self.data / "runs"

    @property
    def sessions(self) -> Path:
        return self.data / "sessions"

    @property
    def ledger(self) -> Path:
        return self.data / "cost.jsonl"

    @property
    def guards(self) -> Path:
        return self.data / ".guards.json"

    @property
    def committed(self) -> Path:
        """Hash and items of the world the last successful decision was made on."""
        return self.data / ".committed.json"

    @property
    def rule_ledger(self) -> Path:
        return self.data / ".rules-fired.json"

    @property
    def sensor_state(self) -> Path:
        return self.data / ".sensors.json"

    @property
    def schedule_state(self) -> Path:
        """Which calendar instant of a schedule came last and which is next."""
        return self.data / ".schedules.json"

    @property
    def nudges(self) -> Path:
        return self.data / ".nudges.json"

    @property
    def goal_activity(self) -> Path:
        return self.data / ".goal-activity.json"

    @property
    def last_shell(self) -> Path:
        """What the last run_shell move printed, until a decision has been told."""
        return self.data / ".last-shell.json"

    @property
    def frame_tag(self) -> Path:
        """The random text that frames the prompts of this installation."""
        return self.data / ".frame-tag"

    @property
    def lock(self) -> Path:
        """Held by the pulse with flock(2) for its whole life; never unlinked."""
        return self.data / ".lock"

    def session(self, worker_id: str) -> Path:
        return self.sessions / safe_name("a worker", worker_id)

    # -- gone with the boot
    @property
    def fifo(self) -> Path:
        """Anything written here means "look"; made by looop.socket."""
        return self.runtime / "beat"

    @property
    def last_world(self) -> Path:
        """The world the rules were last held against, for `looopctl rules check`."""
        return self.runtime / "world.json"

    @property
    def last_beat(self) -> Path:
        """What came of the last beat, for `looopctl status`."""
        return self.runtime / "beat.json"

    @property
    def sense(self) -> Path:
        """Where looop-sense.service finds its job and leaves its output."""
        return self.runtime / "sense"

    @property
    def fired(self) -> Path:
        """A file for each schedule, touched when its timer elapses."""
        return self.runtime / "fired"

    @property
    def notify_env(self) -> Path:
        """Where looop-notify@.service learns which data directory and which settings."""
        return self.runtime / "notify.env"

    def control(self, worker_id: str) -> Path:
        """A shim's control socket; here because a socket path has 107 bytes (unix(7))."""
        return self.runtime / "sessions" / f"{safe_name('a worker', worker_id)}.sock"

    def reading(self, worker_id: str) -> Path:
        """Locked by whoever prints the messages left for this worker."""
        return self.runtime / "sessions" / f".{safe_name('a worker', worker_id)}.told"

    def create(self) -> None:
        """Make every folder, mode 0700. Raises OSError."""
        for folder in (
            self.data, self.goals, self.archive, self.sensors, self.snapshots, self.asks, self.asks_done,
            self.answers, self.tells, self.schedules, self.claims, self.reports, self.prompts, self.runs, self.sessions,
            self.notifications, self.playbook_history, self.history, self.runtime, self.sense, self.fired,
            self.runtime / "sessions",
        ):  # fmt: skip
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
