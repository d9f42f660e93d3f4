"""The human is told: by hooks that may misbehave, and on the desktop, whose buttons answer."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machine.harness import (
    CONFIG, DATA, LOOOPCTL, UNITS, Events, Journal, Pulse, looopctl, looopctl_json, systemctl, unit, units, wipe,
)  # fmt: skip
from tests.machine.popup_server import PopupServer

RECORDS = DATA / "notifications"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


@pytest.fixture
def screen() -> Iterator[PopupServer]:
    """A desktop to be notified on."""
    server = PopupServer()
    yield server
    server.close()


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A hook: it appends what it is given to a file, in the data directory so that a change is seen."""
    DATA.mkdir(parents=True, exist_ok=True)
    return DATA / "told"


def hooks(*commands: str, **settings: Any) -> None:
    CONFIG.mkdir(parents=True, exist_ok=True)
    rows = {"notify_hooks": list(commands), **settings}
    (CONFIG / "looop.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in rows.items()))


def worker(*words: str, name: str = "w1") -> "subprocess.Popen[str]":
    """`looopctl ask` in the scope of a worker."""
    return subprocess.Popen(
        [
            "systemd-run", "--user", "--scope", "--quiet", "--slice=looop-worker.slice",
            f"--unit=looop-worker-{name}.scope", LOOOPCTL, "ask", *words,
        ],
        env={**os.environ, "LOOOP_SESSION_ID": name},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def record(subject: str) -> dict[str, Any]:
    """What is noted about a subject, over or not."""
    for folder in (RECORDS, RECORDS / "told"):
        if (folder / f"{subject}.json").exists():
            found = json.loads((folder / f"{subject}.json").read_text())
            assert isinstance(found, dict)
            return found
    return {}


def delivered(subject: str, channel: str) -> bool:
    return bool(record(subject).get("channels", {}).get(channel, {}).get("delivered"))


def answer(events: Events, process: "subprocess.Popen[str]", ask: str, text: str) -> None:
    events.wait_for(lambda: any(row["id"] == ask for row in looopctl_json("asks")))
    looopctl("answer", ask, text)
    assert process.communicate(timeout=20)[0] == f"{text}\n"


def quiet(events: Events) -> None:
    """No notifier runs."""
    events.wait_for(lambda: not units("looop-notify@*.service", "active", "activating", "deactivating"))


# -- hooks


def test_a_hook_gets_the_ask_without_a_pulse(events: Events, told: Path) -> None:
    hook = f'cat >> {told}; printf "%s %s\\n" "$LOOOP_NOTIFY_KIND" "$LOOOP_ASK" > {told}.env'
    hooks(hook)
    process = worker("--prompt", "Deploy to «prod»?", "--options", "yes,no", "--ref", "https://example.org/1")
    events.wait_for(lambda: delivered("w1-1", f"hook: {hook}"))
    [given] = lines(told)
    assert given["kind"] == "raised" and given["answer_with"] == "looopctl answer w1-1 TEXT"
    assert given["ask"]["prompt"] == "Deploy to «prod»?" and given["ask"]["options"] == ["yes", "no"]
    assert given["host"] == os.uname().nodename and "Deploy to" in given["message"]
    assert Path(f"{told}.env").read_text() == "raised w1-1\n"
    assert set(given["ask"]) == set(looopctl_json("asks")[0])
    answer(events, process, "w1-1", "yes")
    assert len(lines(told)) == 1


def test_a_hook_that_hangs_holds_up_nobody_and_is_ended_with_all_it_started(
    events: Events, journal: Journal, told: Path
) -> None:
    hanging = f"setsid sh -c 'trap \"\" TERM; echo $$ > {told}.pid; sleep 1000' & sleep 1000 & wait"
    hooks(hanging, f"cat >> {told}", notify_timeout=2, notify_desktop="off")
    process = worker("--prompt", "Deploy?")
    events.wait_for(lambda: lines(told), what="the other hook is told")
    answer(events, process, "w1-1", "yes")
    assert not journal.find(LOOOP_EVENT="notify_failed"), "the hook still hangs, and all the rest is done"
    failed = journal.wait("notify_failed", LOOOP_ASK="w1-1")
    assert "did not end within 2 s" in failed["MESSAGE"]
    quiet(events)
    assert not Path(f"/proc/{Path(f'{told}.pid').read_text().strip()}").exists()
    assert not units("looop-notify@*.service", "failed"), "the run itself went well"


def test_a_hook_that_fails_is_tried_again_and_reported_once(events: Events, journal: Journal, told: Path) -> None:
    failing = f'echo try >> {told}.tries; test "$(wc -l < {told}.tries)" -ge 4 || {{ echo no network >&2; exit 3; }}'
    hooks(failing, f"cat >> {told}", notify_retry=0.1, notify_desktop="off")
    process = worker("--prompt", "Deploy?")
    events.wait_for(lambda: delivered("w1-1", f"hook: {failing}"))
    assert record("w1-1")["channels"][f"hook: {failing}"]["tries"] == 4
    assert len(lines(told)) == 1, "who has been told is not told again"
    [failed] = journal.find(LOOOP_EVENT="notify_failed")
    assert "exited 3: no network" in failed["MESSAGE"] and failed["PRIORITY"] == "4"
    answer(events, process, "w1-1", "yes")


def test_a_hook_that_always_fails_is_given_up(events: Events, journal: Journal, told: Path) -> None:
    hooks(f"echo try >> {told}.tries; exit 1", notify_retry=0.001, notify_desktop="off")
    process = worker("--prompt", "Deploy?")
    journal.wait("notify_failed", count=2)
    assert "given up after 8 tries" in journal.find(LOOOP_EVENT="notify_failed")[1]["MESSAGE"]
    quiet(events)
    assert Path(f"{told}.tries").read_text() == "try\n" * 8
    assert not units("looop-notify@*.timer")
    answer(events, process, "w1-1", "yes")


def test_a_hook_that_floods_costs_no_memory_and_no_journal(events: Events, journal: Journal, told: Path) -> None:
    flood = "head -c 1000000000 /dev/zero | tr '\\\\0' x; echo; echo the end"
    hooks(f"{flood}; cat >/dev/null; exit 7", notify_desktop="off")
    UNITS.joinpath("looop-notify@.service.d").mkdir(exist_ok=True)
    # more than the notifier is to need, less than what it is sent; where the kernel enforces it
    UNITS.joinpath("looop-notify@.service.d/limit.conf").write_text("[Service]\nMemoryMax=200M\nLimitDATA=200M\n")
    systemctl("daemon-reload")
    process = worker("--prompt", "Deploy?")
    failed = journal.wait("notify_failed", timeout=60)
    assert failed["MESSAGE"].endswith("exited 7: the end"), failed["MESSAGE"]
    size = sum(len(str(entry.get("MESSAGE"))) for entry in journal.events.lines)
    assert size < 20_000, f"{size} bytes in the journal"
    assert len(json.dumps(record("w1-1"))) < 5000
    answer(events, process, "w1-1", "yes")


def test_asking_does_not_wait_for_the_notification(events: Events, told: Path, gate: Path) -> None:
    hooks(f"read -r _ < {gate}; cat >> {told}", notify_timeout=60, notify_desktop="off")
    process = worker("--prompt", "Deploy?")
    events.wait_for(lambda: record("w1-1").get("channels"), what="the hook runs")
    answer(events, process, "w1-1", "yes")
    assert not told.exists()
    with open(gate, "w"):
        pass
    events.wait_for(lambda: lines(told))


def test_a_message_of_a_move_reaches_the_hooks(pulse: Pulse, events: Events, told: Path) -> None:
    hook = f"cat >> {told}"
    hooks(hook, notify_desktop="off", beat_gap=0)
    (DATA / "rules.toml").write_text(
        '[[rule]]\nname = "hello"\nwhen = "`true`"\njournal = "say it"\nonce_per = "`1`"\n'
        '[rule.move]\naction = "notify"\nmessage = "The disk is nearly full."\n'
    )
    pulse.start()
    events.wait_for(lambda: lines(told))
    [given] = lines(told)
    assert given["kind"] == "message" and given["message"] == "The disk is nearly full." and given["ask"] is None
    events.wait_for(lambda: delivered(given["subject"], f"hook: {hook}"))


def test_an_escalation_repeats_until_the_answer(events: Events, journal: Journal, told: Path) -> None:
    hooks(f"cat >> {told}", notify_desktop="off")
    process = worker("--prompt", "Deploy?", "--escalate-after", "1s")
    events.wait_for(lambda: len(lines(told)) >= 3)
    assert [given["kind"] for given in lines(told)[:3]] == ["raised", "escalated", "escalated"]
    assert [given["round"] for given in lines(told)[:3]] == [0, 1, 2]
    journal.wait("ask_escalated", count=2, LOOOP_ASK="w1-1")
    answer(events, process, "w1-1", "yes")
    count = len(lines(told))
    systemctl("start", "looop-notify@w1-1.service")
    assert len(lines(told)) == count and not units("looop-notify@*.timer")
    assert record("w1-1")["over"] == "delivered"


def test_who_asks_no_more_is_not_told_of(events: Events, told: Path, journal: Journal) -> None:
    hooks(f"cat >> {told}", notify_desktop="off")
    process = worker("--prompt", "Deploy?", "--escalate-after", "1h")
    events.wait_for(lambda: lines(told))
    quiet(events)
    systemctl("kill", "--signal=KILL", "looop-worker-w1.scope")
    process.communicate(timeout=20)
    events.wait_for(lambda: not units("looop-worker-w1.scope"))
    systemctl("start", "looop-notify@w1-1.service")
    assert record("w1-1")["over"] == "stranded" and not units("looop-notify@*.timer") and len(lines(told)) == 1


def test_an_expired_ask_is_told_with_what_the_worker_went_on_with(events: Events, told: Path) -> None:
    hooks(f"cat >> {told}", notify_desktop="off")
    process = worker("--prompt", "Deploy?", "--expires", "1s", "--default", "no")
    assert process.communicate(timeout=30)[0] == "no\n"
    events.wait_for(lambda: len(lines(told)) == 2)
    assert [given["kind"] for given in lines(told)] == ["raised", "expired"]
    assert lines(told)[1]["ask"]["answer"] == "no" and "'no'" in lines(told)[1]["message"]


def test_a_failed_pulse_is_told_with_the_settings_that_can_be_read(pulse: Pulse, events: Events, told: Path) -> None:
    hooks(f"cat >> {told}", notify_desktop="off", no_such_key=1)
    systemctl("start", "looop.service", check=False)
    events.wait_for(lambda: lines(told))
    [given] = lines(told)
    assert given["kind"] == "pulse-failed" and "no_such_key" in given["message"], given
    quiet(events)
    systemctl("start", "looop-notify@pulse.service")
    assert len(lines(told)) == 1, "a failure is told once"
    systemctl("start", "looop.service", check=False)
    events.wait_for(lambda: len(lines(told)) == 2)
    quiet(events)
    hooks(f"cat >> {told}", notify_desktop="off")
    systemctl("reset-failed", "looop.service")
    pulse.start()
    events.wait_for(lambda: not (RECORDS / "pulse.json").exists())


def test_a_pulse_that_is_started_again_by_systemd_is_not_told_of(pulse: Pulse, events: Events, told: Path) -> None:
    hooks(f"cat >> {told}", notify_desktop="off")
    pulse.start()
    before = pulse.pid
    pulse.kill()
    events.wait_for(lambda: pulse.active and pulse.pid not in (0, before))
    assert not told.exists() and not units("looop-notify@pulse.service", "active", "activating", "failed")


def test_the_beat_tells_what_was_asked_while_there_was_no_bus(pulse: Pulse, events: Events, told: Path) -> None:
    hooks(f"cat >> {told}", notify_desktop="off", beat_gap=0)
    nowhere = {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"}
    process = subprocess.Popen(
        [LOOOPCTL, "ask", "w9", "--prompt", "Deploy?"], env={**os.environ, **nowhere}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    events.wait_for(lambda: (DATA / "asks/w9-1.json").exists())
    assert not lines(told)
    pulse.start()
    events.wait_for(lambda: lines(told))
    looopctl("answer", "w9-1", "yes")
    assert process.communicate(timeout=20)[0] == "yes\n"
    looopctl("beat")
    events.wait_for(lambda: record("w9-1").get("over"))


def test_the_beat_makes_a_lost_timer_again(pulse: Pulse, events: Events, told: Path) -> None:
    hooks(f"cat >> {told}", notify_desktop="off")
    process = worker("--prompt", "Deploy?", "--escalate-after", "1h")
    events.wait_for(lambda: units("looop-notify@w1-1.timer", "active"))
    quiet(events)
    systemctl("stop", "looop-notify@w1-1.timer")
    events.wait_for(lambda: not units("looop-notify@w1-1.timer"))
    pulse.start()
    events.wait_for(lambda: units("looop-notify@w1-1.timer", "active"))
    answer(events, process, "w1-1", "yes")
    pulse.stop()
    assert not units("looop-notify@*.timer")


# -- the desktop


def on_screen(events: Events, screen: PopupServer, count: int) -> list[int]:
    events.wait_for(lambda: len(screen.shown) == count and not missing(screen), what=f"{count} notifications")
    return sorted(screen.shown)


def missing(screen: PopupServer) -> bool:
    """Whether looop-desktop has not noted yet what is on the screen."""
    noted = {record(path.stem).get("channels", {}).get("desktop", {}).get("popup") for path in RECORDS.glob("w*.json")}
    return not set(screen.shown) <= noted


def test_a_button_answers_the_ask(events: Events, journal: Journal, screen: PopupServer) -> None:
    process = worker("--prompt", "Deploy <b>now</b> & here?", "--options", "yes,no")
    [number] = on_screen(events, screen, 1)
    shown = screen.shown[number]
    assert shown.summary == "w1 asks" and shown.labels == ["yes", "no"] and shown.timeout == 0
    assert shown.body == "Deploy &lt;b&gt;now&lt;/b&gt; &amp; here?\nlooopctl answer w1-1 TEXT"
    assert shown.hints["urgency"] == 1 and shown.hints["resident"]
    screen.press(number, "no")
    assert process.communicate(timeout=20)[0] == "no\n"
    events.wait_for(lambda: not screen.shown, what="the notification is taken away")
    journal.wait("button_pressed", LOOOP_ASK="w1-1")
    journal.wait("ask_answered", LOOOP_ASK="w1-1")
    assert "answered w1-1 by desktop · no" in (DATA / "journal.md").read_text()
    events.wait_for(lambda: not units("looop-desktop.service", "active"), what="nothing is left to wait for")


def test_an_answer_from_elsewhere_takes_the_notification_away(events: Events, screen: PopupServer) -> None:
    process = worker("--prompt", "Deploy?", "--options", "yes,no")
    [number] = on_screen(events, screen, 1)
    answer(events, process, "w1-1", "yes")
    events.wait_for(lambda: not units("looop-desktop.service", "active"))
    assert screen.closed == [number]


def test_one_process_shows_all_asks(events: Events, screen: PopupServer) -> None:
    asking = {name: worker("--prompt", f"I am {name}", "--options", "go", name=name) for name in ("w1", "w2", "w3")}
    on_screen(events, screen, 3)
    assert len(units("looop-desktop*", "active")) == 1
    for number in sorted(screen.shown):
        screen.press(number, "go")
    assert [process.communicate(timeout=20)[0] for process in asking.values()] == ["go\n"] * 3
    events.wait_for(lambda: not units("looop-desktop.service", "active"))


def test_a_press_that_comes_too_late_changes_nothing(events: Events, journal: Journal, screen: PopupServer) -> None:
    process = worker("--prompt", "Deploy?", "--options", "yes,no")
    [number] = on_screen(events, screen, 1)
    pid = int(unit("looop-desktop.service", "MainPID")["MainPID"])
    systemctl("kill", "--signal=STOP", "looop-desktop.service")
    screen.press(number, "no")
    answer(events, process, "w1-1", "yes")
    systemctl("kill", "--signal=CONT", "looop-desktop.service")
    late = journal.wait("button_pressed", LOOOP_ASK="w1-1")
    assert "too late" in late["MESSAGE"] and pid
    assert [row["answer"] for row in looopctl_json("asks", "-a")] == ["yes"]
    events.wait_for(lambda: not units("looop-desktop.service", "active"))


def test_an_escalation_replaces_what_is_on_the_screen(events: Events, screen: PopupServer) -> None:
    process = worker("--prompt", "Deploy?", "--options", "yes", "--escalate-after", "1s")
    events.wait_for(lambda: len(screen.history) >= 2)
    first, second = screen.history[:2]
    assert first.hints["urgency"] == 1 and second.hints["urgency"] == 2 and second.replaces
    assert len(screen.shown) == 1
    screen.press(next(iter(screen.shown)), "yes")
    assert process.communicate(timeout=20)[0] == "yes\n"
    events.wait_for(lambda: not units("looop-desktop.service", "active"))


def test_who_dismisses_a_notification_is_not_shown_it_again_by_each_beat(
    pulse: Pulse, events: Events, journal: Journal, screen: PopupServer
) -> None:
    pulse.configure("beat_gap = 0\n")
    process = worker("--prompt", "Deploy?", "--options", "yes")
    [number] = on_screen(events, screen, 1)
    screen.dismiss(number)
    events.wait_for(lambda: not units("looop-desktop.service", "active"))
    pulse.start()
    journal.wait("sense_done")
    looopctl("beat")
    journal.wait("sense_done", count=2)
    assert [shown.summary for shown in screen.history].count("w1 asks") == 1
    answer(events, process, "w1-1", "yes")


def test_a_desktop_that_comes_later_is_shown_what_is_open(pulse: Pulse, events: Events, journal: Journal) -> None:
    process = worker("--prompt", "Deploy?", "--options", "yes")
    events.wait_for(lambda: "desktop" in record("w1-1").get("channels", {}))
    quiet(events)
    assert not journal.find(LOOOP_EVENT="notify_failed"), "no desktop is not a failure"
    server = PopupServer()
    try:
        pulse.start()
        [number] = on_screen(events, server, 1)
        server.close()
        server = PopupServer()
        [number] = on_screen(events, server, 1)
        server.press(number, "yes")
        assert process.communicate(timeout=20)[0] == "yes\n"
        events.wait_for(lambda: not units("looop-desktop.service", "active"))
    finally:
        server.close()


def test_the_buttons_work_after_a_server_that_did_not_answer(
    events: Events, journal: Journal, screen: PopupServer
) -> None:
    hooks(notify_retry=1)
    screen.silent = True
    asking = {name: worker("--prompt", f"I am {name}", "--options", "go", name=name) for name in ("w1", "w2")}
    journal.wait("notify_failed", LOOOP_CHANNEL="desktop")
    screen.silent = False
    events.wait_for(lambda: len(screen.shown) == 2, what="both are shown after all")
    on_screen(events, screen, 2)
    for number in sorted(screen.shown):
        screen.press(number, "go")
    assert [process.communicate(timeout=20)[0] for process in asking.values()] == ["go\n"] * 2
    events.wait_for(lambda: not units("looop-desktop.service"))


def test_a_server_that_cannot_be_started_is_reported_once_and_the_hooks_run(
    events: Events, journal: Journal, told: Path
) -> None:
    reload = ["busctl", "--user", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"]
    service = Path.home() / ".local/share/dbus-1/services/org.freedesktop.Notifications.service"
    service.parent.mkdir(parents=True, exist_ok=True)
    service.write_text("[D-BUS Service]\nName=org.freedesktop.Notifications\nExec=/bin/false\n")
    hooks(f"cat >> {told}", notify_retry=3600)
    try:
        subprocess.run(reload, check=True)
        asking = {name: worker("--prompt", f"I am {name}", name=name) for name in ("w1", "w2", "w3", "w4")}
        events.wait_for(lambda: len(lines(told)) == 4)
        journal.wait("notify_failed", LOOOP_CHANNEL="desktop")
        quiet(events)
        events.wait_for(lambda: not units("looop-desktop.service", "active", "activating"))
    finally:
        service.unlink()
        subprocess.run(reload, check=True)
    assert len(journal.find(LOOOP_EVENT="notify_failed")) == 1
    for name, process in asking.items():
        answer(events, process, f"{name}-1", "yes")


def test_stopping_looop_takes_its_notifications_off_the_screen(
    pulse: Pulse, events: Events, screen: PopupServer
) -> None:
    pulse.start()
    process = worker("--prompt", "Deploy?", "--options", "yes")
    on_screen(events, screen, 1)
    pulse.stop()
    process.communicate(timeout=20)
    assert not screen.shown
