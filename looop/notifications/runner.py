"""`looop-notify SUBJECT`: the program of looop-notify@.service. Tells the human of one subject, then ends.

Runs the hooks that are due, has looop-desktop started, notes how each went and sets the timer for what is left.
Its children are the hooks, in its own control group. What cannot be told now is told later; nothing waits for it.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from looop import claims, config as settings, notifications, questions
from looop.clock import now as clock_now
from looop.config import Config
from looop.notifications import deliveries, hooks
from looop.notifications.deliveries import DESKTOP, HOOK, PULSE, Record
from looop.environment import environment
from looop.errors import ExitCode, LooopError, UsageError
from looop.paths import Paths
from looop.questions import Ask
from looop.systemd import journal
from looop.systemd.manager import Manager

LOOPS = 10  # what becomes due while hooks run is told in the same run, within reason
LONGEST_S = 600
MESSAGE_MAX = 4096
PULSE_UNIT = "looop.service"
NO_DESKTOP = "no notification server is on the session's bus"


def usable_config(paths: Paths) -> Config:
    """The settings; of broken ones what concerns notifications, since a pulse fails over nothing more often."""
    try:
        return settings.load(paths)
    except UsageError as error:
        journal.emit("config_error", text=f"{error}; telling you with the notify_ settings that can be read")
        return settings.salvage(paths, "notify_")


def failure(manager: Manager) -> tuple[str, str] | None:
    """Invocation of a pulse that has failed and what is known of it; None when it has not. Raises LooopError."""
    state = manager.list_units([PULSE_UNIT]).get(PULSE_UNIT)
    if state is None or state.active != "failed":
        return None
    result = manager.get(PULSE_UNIT, "Service", "Result", "s")
    said = manager.get(PULSE_UNIT, "Service", "StatusText", "s")
    text = f"looop has failed ({result}) and is not started again" + (f": {said}" if said else "")
    return manager.invocation(PULSE_UNIT), f"{text}. `journalctl --user -u looop` says more; looopctl up starts it."


def text(record: Record, ask: Ask | None, wall: float) -> str:
    """What there is to say, for people."""
    if record.kind in (deliveries.SAID, deliveries.PULSE_FAILED):
        return record.message
    known = record.ask or {}
    prompt, worker = (ask.prompt, ask.worker) if ask else (known.get("prompt", ""), known.get("worker", ""))
    if record.kind == deliveries.EXPIRED:
        return f"{worker} asked and got its default, {known.get('default')!r}, as nobody answered: {prompt}"
    if record.kind == deliveries.ESCALATED and ask:
        return f"{worker} still waits for an answer, for {max(0.0, wall - ask.ts) / 60:.0f} min: {prompt}"
    return f"{worker} asks: {prompt}"


def payload(record: Record, ask: Ask | None, judge: questions.Judge, wall: float) -> dict[str, Any]:
    """What a hook gets on its standard input."""
    return {
        "v": deliveries.VERSION,
        "kind": record.kind,
        "round": record.round,
        "subject": record.subject,
        "message": text(record, ask, wall),
        "ask": questions.row(ask, judge, wall) if ask else record.ask,
        "answer_with": f"looopctl answer {ask.id} TEXT" if ask and record.open else None,
        "host": socket.gethostname(),
    }


def variable(value: str) -> str:
    """`value` as the environment can hold it, cut to a few KB."""
    return value[:MESSAGE_MAX].replace("\0", " ").encode(errors="replace").decode()


class Notifier:
    """One run for one subject."""

    def __init__(self, paths: Paths, config: Config, subject: str, user: Manager, system: Manager) -> None:
        self.paths = paths
        self.config = config
        self.subject = subject
        self.user = user
        self.judge = claims.judge(user, system)

    def run(self) -> None:
        """Raises LooopError when nothing can be noted; then nothing is told either."""
        for _ in range(LOOPS):
            record, ask = notifications.current(
                self.paths, self.subject, self.judge, lambda: failure(self.user), clock_now()
            )
            if record is None or not self.tell(record, ask):
                break
        left = notifications.finish_told(self.paths, self.subject, self.config, clock_now())
        notifications.arm(self.user, self.subject, left)

    def tell(self, record: Record, ask: Ask | None) -> bool:
        """Tell every channel that is due; whether a hook was run."""
        due = self.begin(record)
        if DESKTOP in due:
            self.desktop(record)
        chosen = [name.removeprefix(HOOK) for name in due if name != DESKTOP]
        if not chosen:
            return False
        now = clock_now()
        given = json.dumps(payload(record, ask, self.judge, now.wall), ensure_ascii=False).encode(errors="replace")
        env = environment(
            self.paths, self.config, self.config.notify_env, bus=True, LOOOP_NOTIFY_KIND=record.kind,
            LOOOP_ASK=ask.id if ask else "", LOOOP_NOTIFY_MESSAGE=variable(text(record, ask, now.wall)),
        )  # fmt: skip
        limit = float(min(self.config.notify_timeout or LONGEST_S, LONGEST_S))
        for hook, result in hooks.run(chosen, given + b"\n", env, Path(env["HOME"]), limit).items():
            self.note(record, HOOK + hook, result.error)
        return True

    def begin(self, told: Record) -> list[str]:
        """Note a try for each channel that is due before it is made; their names."""
        with deliveries.changing(self.paths, self.subject) as record:
            if record is None or record.event != told.event:
                return []
            now = clock_now()
            due = record.due(notifications.channels(self.config), now)
            for name in due:
                if name != DESKTOP:
                    deliveries.begin_try(record.delivery(name), now, self.config.notify_retry)
            return due

    def note(self, record: Record, channel: str, error: str) -> None:
        now = clock_now()
        news = deliveries.note(self.paths, record, channel, error, now, self.config.notify_retry)
        tell(self.subject, record.kind, channel, error, news)

    def desktop(self, record: Record) -> None:
        """Have it shown where there is a desktop. That this fails keeps nobody else from being told."""
        from looop.systemd import popups

        error = NO_DESKTOP
        if popups.possible():
            try:
                self.user.start(notifications.DESKTOP_UNIT)
                return
            except LooopError as failure:
                error = str(failure)
                if deliveries.streak(self.paths, DESKTOP, error, clock_now()):
                    tell(self.subject, record.kind, DESKTOP, error, error)
        with deliveries.changing(self.paths, self.subject) as mine:
            if mine:
                mine.delivery(DESKTOP).error = error


def tell(subject: str, kind: str, channel: str, error: str, news: str) -> None:
    """Journal how a try went."""
    ask = "" if subject == PULSE or subject.endswith(deliveries.MESSAGE) else subject
    if news:
        journal.emit("notify_failed", ask=ask, channel=channel, text=f"{subject}: {channel}: {news}")
    elif not error:
        journal.emit("notified", ask=ask, channel=channel, text=f"{subject} ({kind}): {channel}")


def main() -> int:
    """`looop-notify SUBJECT`"""
    subject = sys.argv[1] if len(sys.argv) == 2 else ""
    try:
        if not subject:
            raise UsageError("cannot tell: no subject is named", hint="systemctl --user start looop-notify@ASK")
        paths = Paths.from_env()
        os.umask(0o077)
        with Manager("user") as user, Manager("system") as system:
            Notifier(paths, usable_config(paths), subject, user, system).run()
    except (LooopError, OSError) as error:
        journal.emit("notify_failed", text=f"{subject}: {error}", ask=subject)
        return error.code if isinstance(error, LooopError) else ExitCode.REFUSED
    return ExitCode.DONE
