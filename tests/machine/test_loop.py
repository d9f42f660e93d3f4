"""The main job: a failing unit is noticed, a human asked, the answer carried out and verified. No LLM, no config."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.harness import (
    CONFIG,
    LOOOPCTL,
    RUNTIME,
    Events,
    Journal,
    Pulse,
    command,
    looopctl,
    looopctl_json,
    systemctl,
    unit,
    units,
)

DEMO = "demo-loop.service"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    """A unit that fails while its `broken` file is there; the file's path."""
    broken = tmp_path / "broken"
    folder = RUNTIME / "systemd/user"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DEMO).write_text(
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'test ! -e {broken}'\n"
    )
    systemctl("daemon-reload")
    yield broken
    systemctl("stop", DEMO, check=False)
    systemctl("reset-failed", DEMO, check=False)
    (folder / DEMO).unlink()
    systemctl("daemon-reload")


def fail(broken: Path) -> None:
    broken.touch()
    systemctl("start", DEMO, check=False)
    broken.unlink()


def test_a_failed_unit_is_repaired_when_the_human_says_restart(
    pulse: Pulse, demo: Path, journal: Journal, events: Events
) -> None:
    fail(demo)
    pulse.start()
    raised = journal.wait("ask_raised")
    ask = raised["LOOOP_ASK"]
    worker = raised["LOOOP_SESSION"]
    [open_ask] = looopctl_json("asks")
    assert open_ask["id"] == ask and open_ask["state"] == "pending" and "restart" in open_ask["options"]
    group = unit(f"looop-worker-{worker}.scope", "ControlGroup")["ControlGroup"]
    assert "/looop.slice/looop-worker.slice/" in group
    assert unit(DEMO, "ActiveState")["ActiveState"] == "failed"
    looopctl("answer", ask, "restart")
    assert journal.wait("worker_verified", LOOOP_SESSION=worker)["LOOOP_VERDICT"] == "pass"
    assert unit(DEMO, "ActiveState")["ActiveState"] == "active"
    lines = (pulse.data / "journal.md").read_text().splitlines()
    assert any(worker in line or DEMO in line for line in lines)
    [session] = looopctl_json("worker", "list", "--all")
    assert (session["state"], session["exit_code"], session["verify"]) == ("exited", 0, "pass")
    assert list((pulse.data / "reports").glob("*.md"))
    events.wait_for(lambda: not units("looop-worker-*.scope", "active"))


def test_leave_and_stop_watching_are_obeyed(pulse: Pulse, demo: Path, journal: Journal) -> None:
    pulse.configure("beat_gap = 0\n")
    fail(demo)
    pulse.start()
    first = journal.wait("ask_raised")
    looopctl("answer", first["LOOOP_ASK"], "leave")
    journal.wait("worker_verified", LOOOP_VERDICT="pass")
    assert unit(DEMO, "ActiveState")["ActiveState"] == "failed"
    systemctl("reset-failed", DEMO)
    fail(demo)
    looopctl("beat")
    second = journal.wait("ask_raised", count=2)
    looopctl("answer", second["LOOOP_ASK"], "stop watching")
    journal.wait("worker_verified", count=2)
    systemctl("reset-failed", DEMO)
    fail(demo)
    seen = len(journal.find(LOOOP_EVENT="sense_done"))
    looopctl("beat")
    journal.wait("sense_done", count=seen + 1)
    journal.wait("world_unchanged")
    assert len(journal.find(LOOOP_EVENT="ask_raised")) == 2


def test_a_command_decides_in_place_of_rules(pulse: Pulse, journal: Journal) -> None:
    decision = {"action": "write_goal", "id": "from-decider", "body": "a goal", "journal": "because I can"}
    CONFIG.mkdir(parents=True, exist_ok=True)
    script = CONFIG / "decider"
    script.write_text(
        "#!/bin/bash\ncat >prompt-seen\n"
        "python3 -c 'import json; json.load(open(\"world.json\"))[\"sensors\"]' || exit 3\n"
        f"echo '{json.dumps(decision)}' >.decision.json\n"
    )
    script.chmod(0o755)
    looopctl("init", "--decider", str(script), "--decider-cost", "0")
    pulse.start()
    journal.wait("decided", LOOOP_ACTION="goal")
    assert (pulse.data / "goals/from-decider.md").read_text() == "a goal\n"
    assert "because I can" in (pulse.data / "journal.md").read_text()
    [run] = {path.parent for path in (pulse.data / "runs").glob("*/prompt-seen")}
    assert (run / "prompt-seen").read_bytes() == (run / "prompt.md").read_bytes()
    assert json.loads((run / "record.json").read_text())["state"] == "committed"


def test_an_answer_on_stdout_is_a_decision_too(pulse: Pulse, journal: Journal) -> None:
    pulse.configure(
        "decider_command = \"echo '{\\\"action\\\": \\\"notify\\\", \\\"message\\\": \\\"hello\\\"}'\"\n"
        'decider_output = "stdout"\ndecider_cost_usd = 0\n'
    )
    pulse.start()
    assert "hello" in journal.wait("notify")["MESSAGE"]
    journal.wait("decided", LOOOP_ACTION="notify")


def test_status_line_says_what_the_pulse_is_doing(pulse: Pulse, events: Events) -> None:
    pulse.start()
    events.wait_for(lambda: unit(pulse.service, "StatusText")["StatusText"].startswith("idle"))
    assert "idle" in looopctl("status").stdout
    assert looopctl_json("status")["pulse_alive"] is True
    assert looopctl_json("state")["pulse_alive"] is True


def test_serve_stops_pulse_and_workers_at_its_end(pulse: Pulse, journal: Journal, events: Events) -> None:
    served = subprocess.Popen([LOOOPCTL, "serve"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    journal.wait("pulse_started")
    looopctl("worker", "start", "w1", "--command", "sleep infinity", "wait")
    served.send_signal(signal.SIGTERM)
    out, _ = served.communicate(timeout=60)
    assert served.returncode == 0, out
    assert not pulse.active and not units("looop-worker-*.scope", "active")


def test_stop_ends_workers_and_restart_does_not(pulse: Pulse, events: Events) -> None:
    pulse.start()
    looopctl("worker", "start", "w1", "--command", "sleep infinity", "wait")
    scope = "looop-worker-w1.scope"
    before = unit(scope, "InvocationID")["InvocationID"]
    pulse.restart()
    assert unit(scope, "InvocationID", "ActiveState") == {"InvocationID": before, "ActiveState": "active"}
    looopctl("down", "--keep-workers")
    assert units(scope, "active") and not pulse.active
    assert not units("looop-*", "active", "activating") & {"looop.socket", "looop-beat.timer", "looop-beat.path"}
    looopctl("up")
    pulse.stop()
    events.wait_for(lambda: not units("looop-worker-*.scope", "active"))
    command("systemctl", "--user", "reset-failed", check=False)


def test_limits_are_properties_of_the_scope_from_the_settings_and_the_move(pulse: Pulse) -> None:
    pulse.configure('memory_max = "200M"\nruntime_max = 600\nstop_timeout = 3\n')
    pulse.start()
    looopctl("worker", "start", "w1", "--limit", "tasks_max=50", "--command", "sleep infinity", "wait")
    shown = unit("looop-worker-w1.scope", "MemoryMax", "TasksMax", "RuntimeMaxUSec", "TimeoutStopUSec", "Slice")
    assert shown == {
        "MemoryMax": str(200 << 20),
        "TasksMax": "50",
        "RuntimeMaxUSec": "10min",
        "TimeoutStopUSec": "3s",
        "Slice": "looop-worker.slice",
    }
    refused = looopctl("worker", "start", "w2", "--limit", "memory_max=lots", "--command", "true", "x", check=False)
    assert refused.returncode == 64 and "memory_max" in refused.stderr


def test_deciding_off_leaves_the_moves_to_somebody_else(pulse: Pulse, demo: Path, journal: Journal) -> None:
    pulse.configure('decide = "off"\nbeat_gap = 0\n')
    fail(demo)
    pulse.start()
    journal.wait("sense_done")
    looopctl("beat")
    journal.wait("sense_done", count=2)
    failed = looopctl_json("state")["snapshots"]["sensor-failed-units"]["signal"]["failed"]
    assert [each["unit"] for each in failed] == [DEMO]
    assert not journal.find(LOOOP_EVENT="decided") and not looopctl_json("worker", "list", "--all")
