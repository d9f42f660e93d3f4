"""What there is to tell, what the beat makes up for, and what a hook is given."""

import asyncio
import http.server
import json
import os
import re
import shutil
import socket
import textwrap
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from looop import config as settings, mailbox, notifications, questions
from looop.config import Config
from looop.notifications import deliveries, hooks, runner
from looop.notifications.deliveries import DESKTOP, PULSE, Delivery, Record, later
from looop.notifications.desktop import popup_of
from looop.errors import Refused, Unavailable
from looop.paths import Paths
from looop.questions import Ask
from looop.systemd import journal, popups
from looop.systemd.identity import Holder
from tests.unit.fakes import Clock, FakeLive

HOLDER = Holder("looop-worker-w1.scope", "user", "i1", "b" * 32)
CONFIG = Config(notify_hooks=("mail",), notify_desktop="off")


@pytest.fixture(autouse=True)
def no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popups, "server", lambda: "")


def living(holder: Holder) -> bool:
    return True


def dead(holder: Holder) -> bool:
    return False


def unknown(holder: Holder) -> bool:
    raise Unavailable("gone")


def ask(paths: Paths, clock: Clock, worker: str = "w1", **more: Any) -> Ask:
    return mailbox.raise_ask(paths, worker, "Deploy?", clock().wall, holder=HOLDER, **more)


def current(paths: Paths, subject: str, clock: Clock, judge: questions.Judge = living) -> Record | None:
    return notifications.current(paths, subject, judge, lambda: None, clock())[0]


def settle(live: FakeLive, paths: Paths, clock: Clock, config: Config = CONFIG, judge: Any = living) -> list[str]:
    return asyncio.run(notifications.settle(live, paths, config, clock(), judge))


# -- what there is to tell


@pytest.mark.parametrize("judge", [living, unknown])
def test_an_open_ask_is_told(paths: Paths, judge: questions.Judge) -> None:
    clock = Clock()
    record = current(paths, ask(paths, clock).id, clock, judge)
    assert record and record.kind == deliveries.RAISED and deliveries.read(paths, "w1-1") == record


def test_an_ask_that_is_over_is_not_told(paths: Paths) -> None:
    clock = Clock()
    for n, end in enumerate(("answered", "withdrawn", "stranded"), 1):
        raised = ask(paths, clock, options=[end])
        assert current(paths, raised.id, clock)
        if end == "answered":
            mailbox.answer(paths, raised.id, "yes", clock().wall)
        elif end == "withdrawn":
            mailbox.withdraw(paths, raised.id, clock().wall)
        assert current(paths, raised.id, clock, dead if end == "stranded" else living) is None
        archived = json.loads((deliveries.told_folder(paths) / f"w1-{n}.json").read_text())
        assert archived["over"] == end
    assert deliveries.subjects(paths) == [] and current(paths, "nobody-7", clock) is None


def test_an_escalation_comes_after_the_time_given_and_then_later_and_later(paths: Paths) -> None:
    clock = Clock()
    ask(paths, clock, escalate_after=600.0)
    first = current(paths, "w1-1", clock)
    assert first and first.round == 0 and first.wake([], clock()) == 600
    clock.pass_(599)
    again = current(paths, "w1-1", clock)
    assert again and again.round == 0
    clock.pass_(1)
    second = current(paths, "w1-1", clock)
    assert second and (second.round, second.kind) == (1, deliveries.ESCALATED) and second.wake([], clock()) == 1200
    clock.pass_(30 * 86400)
    third = current(paths, "w1-1", clock)
    assert third and third.round == 2, "a month away is one escalation, not many"


def test_a_pulse_failure_is_told_once_each(paths: Paths) -> None:
    clock = Clock()

    def look(failure: tuple[str, str] | None) -> Record | None:
        return notifications.current(paths, PULSE, living, lambda: failure, clock())[0]

    first = look(("i1", "failed"))
    assert first
    deliveries.note(paths, first, "hook: mail", "", clock(), 30)
    same, other = look(("i1", "failed")), look(("i2", "failed again"))
    assert same and same.channels["hook: mail"].delivered and other and not other.channels
    assert look(None) is None and deliveries.subjects(paths) == []


# -- the beat


def test_the_beat_costs_nothing_while_there_is_nothing_to_tell(paths: Paths) -> None:
    live = FakeLive()
    live.down = True  # not even asked
    assert settle(live, paths, Clock()) == [] and not paths.notify_env.exists()


def test_the_beat_tells_what_nobody_was_told_of(paths: Paths) -> None:
    clock, live = Clock(), FakeLive()
    ask(paths, clock)
    assert settle(live, paths, clock) == []
    assert live.started == ["looop-notify@w1-1.service"]
    assert f'LOOOP_DATA_DIR="{paths.data}"\n' in paths.notify_env.read_text()


def test_the_beat_starts_nothing_that_runs_or_is_not_due(paths: Paths) -> None:
    clock, live = Clock(), FakeLive()
    ask(paths, clock)
    live.units["looop-notify@w1-1.service"] = "i1"
    settle(live, paths, clock)
    assert live.started == []
    live.units.clear()
    current(paths, "w1-1", clock)
    with deliveries.changing(paths, "w1-1") as record:
        assert record
        deliveries.begin_try(record.delivery("hook: mail"), clock(), 30)
    settle(live, paths, clock)
    assert live.started == []
    [(_, usec)] = live.timers["looop-notify@w1-1.timer"]["TimersMonotonic"]
    assert usec == 30_000_000
    settle(live, paths, clock)
    assert len(live.timers) == 1
    live.timers.clear()
    clock.pass_(31)
    settle(live, paths, clock)
    assert live.started == ["looop-notify@w1-1.service"]


def test_the_beat_starts_a_few_at_a_time(paths: Paths) -> None:
    clock, live = Clock(), FakeLive()
    for n in range(notifications.STARTS + 5):
        ask(paths, clock, options=[str(n)])
    settle(live, paths, clock)
    assert len(live.started) == notifications.STARTS


@pytest.mark.parametrize("told_before", [True, False])
def test_the_beat_ends_what_nobody_waits_for(paths: Paths, told_before: bool) -> None:
    clock, live = Clock(), FakeLive()
    ask(paths, clock)
    if told_before:
        current(paths, "w1-1", clock)
        notifications.arm(live, "w1-1", 86400)
    settle(live, paths, clock, judge=dead)
    assert live.started == [] and deliveries.subjects(paths) == [] and not live.timers


def test_no_time_is_too_long_for_a_timer() -> None:
    live = FakeLive()
    notifications.arm(live, "w1-1", 1e300)
    [(_, usec)] = live.timers["looop-notify@w1-1.timer"]["TimersMonotonic"]
    assert usec < 2**63


def test_the_beat_starts_the_desktop_when_one_is_there(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, live, config = Clock(), FakeLive(), Config()
    ask(paths, clock)
    current(paths, "w1-1", clock)
    settle(live, paths, clock, config)
    assert live.started == []
    monkeypatch.setattr(popups, "server", lambda: ":1.5")
    settle(live, paths, clock, config)
    assert live.started == ["looop-desktop.service"]
    with deliveries.changing(paths, "w1-1") as record:
        assert record
        record.channels[DESKTOP] = Delivery(1, clock().wall, owner=":1.5")  # told, and dismissed
    settle(live, paths, clock, config)
    assert live.started == ["looop-desktop.service"]


def test_a_record_that_cannot_be_read_is_moved_aside_and_told_anew(paths: Paths) -> None:
    clock, live = Clock(), FakeLive()
    ask(paths, clock)
    (paths.notifications / "w1-1.json").write_text("{")
    [problem] = settle(live, paths, clock)
    assert "w1-1.json" in problem and problem.endswith("moved aside")
    assert settle(live, paths, clock) == [] and live.started == ["looop-notify@w1-1.service"]


def test_a_bus_that_is_gone_is_one_problem(paths: Paths) -> None:
    clock, live = Clock(), FakeLive()
    ask(paths, clock)
    live.down = True
    [problem] = settle(live, paths, clock)
    assert problem.startswith("cannot look after the notifications: cannot reach systemd")


def join_all() -> None:
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(20)


def test_who_asks_does_not_wait_for_a_bus_that_says_nothing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    emitted: list[str] = []
    raised = ask(paths, Clock())
    monkeypatch.setattr(journal, "emit", lambda event, **fields: emitted.append(event))
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()
        notifications.raised(paths, raised)
        assert emitted == [], "it still waits"
    join_all()
    assert emitted == ["notify_failed"]


def test_without_a_bus_nobody_waits_and_it_is_said(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(paths.data / "nowhere"))
    emitted: list[str] = []
    monkeypatch.setattr(journal, "emit", lambda event, **fields: emitted.append(event))
    clock = Clock()
    raised = ask(paths, clock)
    emitted.clear()
    notifications.raised(paths, raised)
    join_all()
    notifications.message(paths, "20260101-000000-abcd", "The disk is full.")
    assert emitted == ["notify_failed"] * 2
    record = deliveries.read(paths, "20260101-000000-abcd.message")
    assert record and record.message == "The disk is full."


def test_a_path_with_any_character_reaches_the_unit(paths: Paths) -> None:
    odd = replace(paths, data=paths.data / 'a "b" $c \\d `e`')
    notifications.leave_environment(odd)
    assert 'a \\"b\\" \\$c \\\\d \\`e\\`"\n' in odd.notify_env.read_text()


# -- problems


def test_problems_name_failing_channels_and_asks_nobody_heard_of(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(notifications, "clock_now", clock)
    ask(paths, clock)
    record = current(paths, "w1-1", clock)
    assert record and notifications.problems(paths) == []
    clock.pass_(120)
    assert notifications.problems(paths) == ["nobody was told of w1-1: notify_hooks is empty"]
    deliveries.note(paths, record, "hook: mail", "exited 1", clock(), 30)
    failing, untold = notifications.problems(paths)
    assert failing.endswith("hook: mail: exited 1") and untold == "nobody was told of w1-1: exited 1"
    deliveries.note(paths, record, "hook: mail", "", clock(), 30)
    assert notifications.problems(paths) == []


# -- the examples of the manual


def examples() -> list[str]:
    text = (Path(__file__).parents[2] / "docs/notifications.md").read_text()
    blocks = re.findall(r"^    notify_hooks = \[\"\"\"\n.*?^    \"\"\"\]$", text, re.S | re.M)
    return [hook for block in blocks for hook in tomllib.loads(textwrap.dedent(block))["notify_hooks"]]


def environment_of(message: str) -> dict[str, str]:
    said = runner.variable(message)
    given = {"LOOOP_NOTIFY_KIND": "raised", "LOOOP_ASK": "w1-1", "LOOOP_NOTIFY_MESSAGE": said}
    return {"PATH": os.environ["PATH"], **given}


def test_the_mail_of_the_manual_is_sent(tmp_path: Path) -> None:
    [hook] = [hook for hook in examples() if "sendmail" in hook]
    program = tmp_path / "sendmail"
    program.write_text('#!/bin/sh\ncat > "$0.$*"\n')
    program.chmod(0o755)
    hook = hook.replace("/usr/sbin/sendmail", str(program))
    [result] = hooks.run([hook], b"{}", environment_of("w1 asks: Deploy\n%s $(x)?\0"), tmp_path, 10).values()
    assert result.error == ""
    sent = (tmp_path / "sendmail.-t -oi").read_text()
    assert sent == "To: you@example.org\nSubject: looop: raised w1-1\n\nw1 asks: Deploy\n%s $(x)? \n"


class Listener(http.server.BaseHTTPRequestHandler):
    heard: list[tuple[str | None, bytes]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append((self.headers["Title"], body))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_webhook_of_the_manual_is_called_and_its_refusal_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [hook] = [hook for hook in examples() if "curl" in hook]
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            hook = hook.replace("https://ntfy.example.org", f"http://127.0.0.1:{server.server_port}")
            env = environment_of("w1 asks: «Deploy»?")
            [result] = hooks.run([hook], b"{}", env, tmp_path, 20).values()
            assert result.error == "" and Listener.heard == [("looop w1-1", "w1 asks: «Deploy»?".encode())]
            monkeypatch.setattr(Listener, "status", 503)
            [result] = hooks.run([hook], b"{}", env, tmp_path, 20).values()
            assert "503" in result.error
        finally:
            server.shutdown()
            thread.join()


# -- what is said


class MaskedDesktop(FakeLive):
    def start(self, unit: str, mode: str = "replace") -> str:
        raise Refused(f"cannot StartUnit: Unit {unit} is masked.")


def test_a_desktop_that_cannot_be_started_keeps_no_hook_from_running(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    emitted: list[str] = []
    monkeypatch.setattr(journal, "emit", lambda event, **fields: emitted.append(f"{event} {fields.get('text')}"))
    monkeypatch.setattr(popups, "possible", lambda: True)
    mailbox.raise_ask(paths, "w1", "Deploy?", Clock()().wall)
    live: Any = MaskedDesktop()
    for _ in range(2):
        runner.Notifier(paths, Config(notify_hooks=(f"echo told >> {tmp_path}/told",)), "w1-1", live, live).run()
    assert (tmp_path / "told").read_text() == "told\n"
    assert sum("masked" in text for text in emitted) == 1, "told once"
    assert "masked" in notifications.problems(paths)[0]


def test_a_hook_is_given_the_ask_as_every_verb_shows_it(paths: Paths) -> None:
    clock = Clock()
    raised = ask(paths, clock, options=["yes", "no"], reference="r")
    record = Record("w1-1", deliveries.RAISED, clock())
    given = runner.payload(record, raised, living, clock().wall)
    assert given["ask"] == questions.row(raised, living, clock().wall)
    assert (given["v"], given["kind"], given["round"], given["message"]) == (1, "raised", 0, "w1 asks: Deploy?")
    assert given["answer_with"] == "looopctl answer w1-1 TEXT" and given["host"]


def test_settings_for_notifications_survive_a_broken_neighbour(paths: Paths) -> None:
    paths.config.parent.mkdir(parents=True)
    paths.config.write_text('notify_hooks = ["mail"]\nnotify_timeout = "soon"\nmax_workers = "many"\nno_such = 1\n')
    found = settings.salvage(paths, "notify_")
    assert found.notify_hooks == ("mail",) and found.notify_timeout == 30 and found.max_workers == 8
    paths.config.write_text("notify_hooks = [")
    assert settings.salvage(paths, "notify_") == Config()


def test_a_hook_may_hold_any_character(paths: Paths) -> None:
    paths.config.parent.mkdir(parents=True)
    paths.config.write_text('notify_hooks = ["curl https://a:b@example.org/x", " ", "mail"]\n')
    assert settings.load(paths, {}).notify_hooks == ("curl https://a:b@example.org/x", "mail")
    assert settings.load(paths, {"LOOOP_NOTIFY_HOOKS": "a:b\nc"}).notify_hooks == ("a:b", "c")


def test_a_popup_shows_the_question_and_its_options_as_buttons() -> None:
    clock = Clock()
    asked = Ask("w1-1", "w1", "Deploy\x1b[31m\nnow?", "reports/w1.md", ("yes\nsir", "no" * 100), clock().wall)
    shown = popup_of(Record("w1-1", deliveries.RAISED, clock()), asked, clock().wall)
    assert shown.summary == "w1 asks" and not shown.urgent
    assert shown.body == "Deploy [31m\nnow?\nreports/w1.md\nlooopctl answer w1-1 TEXT"
    assert shown.buttons[0] == "yes sir" and len(shown.buttons[1]) == 60
    again = popup_of(Record("w1-1", deliveries.ESCALATED, clock(), round=1), asked, clock().wall)
    assert again.summary == "w1 still asks" and again.urgent


def test_too_many_options_are_listed_and_some_are_buttons() -> None:
    clock = Clock()
    asked = Ask("w1-1", "w1", "Which?", "", tuple(f"option {n}" for n in range(40)), clock().wall)
    shown = popup_of(Record("w1-1", deliveries.RAISED, clock()), asked, clock().wall)
    assert len(shown.buttons) == 12 and "option 39" in shown.body


def test_markup_in_a_question_is_text() -> None:
    assert popups.escape('<a href="x">&') == "&lt;a href=&quot;x&quot;&gt;&amp;"


def test_what_is_told_later_is_told_as_it_was(paths: Paths) -> None:
    clock = Clock()
    shown = questions.row(Ask("w1-1", "w1", "Deploy?", default="no", expires=1.0), living, clock().wall)
    record = Record("w1-1", deliveries.EXPIRED, clock(), ask=shown, escalate=later(clock(), 5))
    assert "'no'" in runner.text(record, None, clock().wall)
    given = runner.payload(record, None, living, clock().wall)
    assert given["ask"] == shown and given["answer_with"] is None
