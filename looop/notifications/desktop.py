"""`looop-desktop`: the one process that shows notifications on the desktop and waits for their buttons.

Started by looop-notify and the beat when there is something to show, it serves all asks at once, however many are
open, and ends when nothing is left on the screen. A press answers the ask as `looopctl answer` does. It sleeps on
inotify and the session's bus; when another notification server comes, it shows what is open there as well.
"""

import contextlib
import os
import select
import signal

from looop import audit, clock, mailbox, notifications
from looop.clock import Stamp
from looop.config import Config
from looop.notifications import deliveries, runner
from looop.notifications.deliveries import DESKTOP, Delivery, Record
from looop.errors import ExitCode, LooopError, Refused, StateError, TryAgain, Unavailable
from looop.paths import Paths
from looop.questions import Ask
from looop.systemd import journal
from looop.systemd.manager import Manager
from looop.systemd.popups import Closed, Event, Popup, Popups, Pressed, ServerChanged
from looop.watch import Watcher

BODY_MAX = 1500
LABEL_MAX = 60
SUMMARY_MAX = 100
BUTTONS_MAX = 12


def plain(text: str, limit: int) -> str:
    """`text` without control characters but line breaks, cut to `limit`."""
    clean = "".join(char if char.isprintable() or char == "\n" else " " for char in text.strip())
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def popup_of(record: Record, ask: Ask | None, wall: float) -> Popup:
    """What is shown of a record."""
    if ask is None or not record.open:
        titles = {deliveries.PULSE_FAILED: "looop has failed", deliveries.EXPIRED: "looop: an ask expired"}
        body = plain(runner.text(record, ask, wall), BODY_MAX)
        return Popup(titles.get(record.kind, "looop"), body, (), record.kind == deliveries.PULSE_FAILED)
    summary = f"{ask.worker} asks" if record.round == 0 else f"{ask.worker} still asks"
    parts = [plain(ask.prompt, BODY_MAX), plain(ask.reference, 300), f"looopctl answer {ask.id} TEXT"]
    labels = [plain(option.replace("\n", " "), LABEL_MAX) for option in ask.options]
    if len(labels) > BUTTONS_MAX:
        parts.insert(1, f"options: {' | '.join(labels)}"[:BODY_MAX])
    body = "\n".join(part for part in parts if part)
    return Popup(plain(summary, SUMMARY_MAX), body, labels[:BUTTONS_MAX], record.round > 0)


class Desktop:
    """What is on the screen, by subject."""

    def __init__(self, paths: Paths, config: Config, popups: Popups) -> None:
        self.paths = paths
        self.config = config
        self.popups = popups
        self.owner = ""
        self.shown: dict[str, int] = {}
        self.gone: dict[int, str] = {}  # taken away, and perhaps pressed just before

    # -- showing

    def refresh(self) -> bool:
        """Make the screen agree with the records; whether anything is left to wait for."""
        asks = {ask.id: ask for ask in mailbox.pending(self.paths) if not ask.broken}
        waiting = False
        for subject in deliveries.subjects(self.paths):
            with contextlib.suppress(StateError, TryAgain):  # the beat reports a bad record, and looks again
                record = deliveries.read(self.paths, subject)
                if record and (subject in asks or not record.open):
                    waiting = self.agree(record, asks.get(subject)) or waiting
        known = set(deliveries.subjects(self.paths))
        for subject in [s for s in self.shown if s not in known or s not in asks]:
            self.take_away(subject)
        return waiting

    def agree(self, record: Record, ask: Ask | None) -> bool:
        """Show one record if it is to be shown; whether it is to stay on the screen."""
        now = clock.now()
        delivery = record.channels.get(DESKTOP, Delivery())
        if delivery.wanted_by(self.owner, now):
            delivery = self.show(record, ask, now)
        elif delivery.popup and delivery.owner == self.owner:
            self.shown[record.subject] = delivery.popup  # by the looop-desktop before this one
        return record.open and bool(delivery.popup)

    def show(self, record: Record, ask: Ask | None, now: Stamp) -> Delivery:
        """Raises LooopError when there is no server or it does not answer: the others could not be shown either."""
        subject, first = record.subject, self.config.notify_retry
        with deliveries.changing(self.paths, subject) as mine:
            if mine is None or mine.event != record.event:
                return Delivery()
            delivery = mine.delivery(DESKTOP)
            replaces = delivery.popup if delivery.owner == self.owner else 0
            deliveries.begin_try(delivery, now, first)
            delivery.owner = self.owner
        error, number, lost = "", 0, None
        try:
            self.owner = self.owner or self.popups.start()
            number = self.popups.show(popup_of(record, ask, now.wall), replaces, self.owner)
        except LooopError as failure:
            error = failure.message
            lost = failure if isinstance(failure, Unavailable) or not self.owner else None
        with deliveries.changing(self.paths, subject) as mine:
            if mine and mine.event == record.event:
                mine.delivery(DESKTOP).popup = number if record.open else 0
                mine.delivery(DESKTOP).owner = self.owner
        news = deliveries.note(self.paths, record, DESKTOP, error, now, first)
        runner.tell(subject, record.kind, DESKTOP, error, news)
        if lost:
            raise lost
        if not record.open:
            notifications.finish_told(self.paths, subject, self.config, now)
        elif number:
            self.shown[subject] = number
        return Delivery(popup=number)

    def take_away(self, subject: str) -> None:
        """The ask is over, or its record is."""
        number = self.shown.pop(subject)
        self.gone[number] = subject
        with contextlib.suppress(Refused):  # the human was quicker
            self.popups.remove(number)

    # -- what the human does

    def handle(self, event: Event) -> None:
        match event:
            case Pressed(id=number, button=button):
                subjects = {shown: subject for subject, shown in self.shown.items()}
                if number in subjects or number in self.gone:
                    self.press(subjects.get(number) or self.gone[number], button)
            case Closed(id=number):
                for subject in [s for s, shown in self.shown.items() if shown == number]:
                    del self.shown[subject]
                    self.forget(subject, number)
            case ServerChanged(owner=owner):
                self.owner = owner
                self.shown.clear()
                self.gone.clear()

    def heard(self) -> bool:
        """Handle what has arrived; whether anything has."""
        events = self.popups.drain()
        for event in events:
            self.handle(event)
        return bool(events)

    def press(self, subject: str, button: str) -> None:
        """Answer the ask with the option of that number, as `looopctl answer` does."""
        now = clock.now()
        try:
            ask = mailbox.find(self.paths, subject)
            if ask is None or not button.isdigit() or int(button) >= len(ask.options):
                return
            option = ask.options[int(button)]
            mailbox.answer(self.paths, subject, option, now.wall)
        except (Refused, StateError, TryAgain) as error:
            journal.emit("button_pressed", ask=subject, text=f"{subject}: too late: {error.message}")
            return
        journal.emit("button_pressed", ask=subject, session=ask.worker, text=f"{subject}: {option}")
        audit.line(self.paths, self.config, f"answered {subject} by desktop · {option}", "", now)

    def forget(self, subject: str, number: int) -> None:
        """It is off the screen: the human has seen it. An escalation shows it again."""
        with deliveries.changing(self.paths, subject) as record:
            delivery = record.channels.get(DESKTOP) if record else None
            if delivery and delivery.popup == number:
                delivery.popup = 0

    # -- life

    def leave(self) -> None:
        """Told to stop: nobody would hear the buttons, so they go, and come back with the next looop-desktop."""
        for subject, number in list(self.shown.items()):
            self.take_away(subject)
            with deliveries.changing(self.paths, subject) as record:
                delivery = record.channels.get(DESKTOP) if record else None
                if delivery and delivery.popup == number:
                    delivery.owner = "none"

    def run(self, stopped: int) -> None:
        """Until nothing is left, or the descriptor `stopped` is readable. Raises LooopError."""
        folders = (self.paths.asks, self.paths.answers, self.paths.notifications)
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Watcher(*folders) as watcher:
            self.popups.listen()
            self.owner = self.popups.owner()
            # before each wait, as calls take signals off the wire; before each look, so that no press is missed
            while True:
                self.heard()
                waiting = self.refresh()
                if self.heard():
                    continue
                if not waiting:
                    return
                ready = select.select([watcher, self.popups, stopped], [], [])[0]
                if stopped in ready:
                    self.leave()
                    return
                watcher.drain()

    def arm(self) -> None:
        """Set the timers for what could not be shown."""
        now = clock.now()
        with Manager("user") as manager:
            for subject in deliveries.subjects(self.paths):
                record = deliveries.read(self.paths, subject)
                delivery = record.channels.get(DESKTOP) if record else None
                if record and delivery and not delivery.settled:
                    notifications.arm(manager, subject, record.wake(notifications.channels(self.config), now))


def stop_descriptor() -> int:
    """Readable when this process was told to end."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reading


def main() -> int:
    """`looop-desktop`"""
    stopped = stop_descriptor()
    os.umask(0o077)
    paths = Paths.from_env()
    try:
        config = runner.usable_config(paths)
        with Popups() as popups:
            desktop = Desktop(paths, config, popups)
            try:
                desktop.run(stopped)
            finally:
                if not select.select([stopped], [], [], 0)[0]:
                    desktop.arm()
    except (LooopError, OSError) as error:
        if deliveries.streak(paths, DESKTOP, str(error), clock.now()):
            journal.emit("notify_failed", channel=DESKTOP, text=f"{DESKTOP}: {error}")
        return error.code if isinstance(error, LooopError) else ExitCode.REFUSED
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
