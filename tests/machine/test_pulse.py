"""The pulse as a service: woken, watched, reloaded, killed at any moment, and none the worse for it."""

import json

import pytest

from tests.machine.harness import CONFIG, LOOOPCTL, Events, Journal, Pulse, command, looopctl, systemctl, unit, units

WORKER = ("--command", "sleep infinity", "wait")


def beats(journal: Journal) -> int:
    return len(journal.find(LOOOP_EVENT="tick_start"))


def quiet(pulse: Pulse, events: Events) -> None:
    """Wait until the pulse idles."""
    events.wait_for(lambda: unit(pulse.service, "StatusText")["StatusText"].startswith("idle"))


def test_a_poke_by_unit_and_by_verb_brings_a_beat(pulse: Pulse, journal: Journal, events: Events) -> None:
    pulse.configure("beat_gap = 0\n")
    pulse.start()
    quiet(pulse, events)
    seen = beats(journal)
    systemctl("start", "looop-beat.service")
    journal.wait("tick_start", count=seen + 1)
    quiet(pulse, events)
    seen = beats(journal)
    looopctl("beat")
    journal.wait("tick_start", count=seen + 1)


def test_an_edited_goal_and_a_new_sensor_bring_a_beat_at_once(pulse: Pulse, journal: Journal, events: Events) -> None:
    pulse.configure("beat_gap = 0\n")
    pulse.start()
    quiet(pulse, events)
    for verb in (("goal", "write", "g1", "do it"), ("sensor", "write", "s1", "#!/bin/sh\necho 1")):
        seen = beats(journal)
        looopctl(*verb)
        journal.wait("tick_start", count=seen + 1, timeout=5)
        quiet(pulse, events)


def test_the_timer_drives_the_cadence_and_is_changed_with_an_edit(pulse: Pulse, journal: Journal) -> None:
    drop_in = CONFIG.parent / "systemd/user/looop-beat.timer.d"
    drop_in.mkdir(parents=True)
    (drop_in / "faster.conf").write_text("[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=1s\n")
    systemctl("daemon-reload")
    pulse.configure("beat_gap = 0\n")
    pulse.start()
    journal.wait("tick_start", count=4)
    assert "looop-beat.timer" in systemctl("list-timers", "looop*")


def test_an_unchanged_world_costs_no_decider_run(pulse: Pulse, journal: Journal, events: Events) -> None:
    pulse.configure(
        'beat_gap = 0\ndecider_cost_usd = 0\ndecider_command = """echo \'{"action":"noop"}\' >.decision.json"""\n'
    )
    pulse.start()
    journal.wait("decided")
    quiet(pulse, events)
    looopctl("beat")
    journal.wait("world_unchanged")
    assert len(journal.find(LOOOP_EVENT="decide_start")) == 1


def test_a_second_pulse_cannot_start(pulse: Pulse) -> None:
    pulse.start()
    looopd = str(CONFIG.parent.parent / ".local/libexec/looop/looopd")
    by_hand = command(looopd, check=False)
    assert by_hand.returncode == 64 and "systemctl --user start looop" in by_hand.stderr
    env = {"LISTEN_FDS": "1"}
    shell = f'exec 3<>"$XDG_RUNTIME_DIR/looop/beat"; LISTEN_PID=$$ exec {looopd}'
    second = command("/bin/bash", "-c", shell, env=env, check=False)
    assert second.returncode == 1 and "another pulse holds" in second.stderr
    assert pulse.active


def test_reload_reads_the_configuration_and_keeps_the_old_one_when_it_is_broken(
    pulse: Pulse, journal: Journal
) -> None:
    pulse.start()
    pulse.configure("max_workers = 0\nno_such_key = 1\n")
    systemctl("reload", pulse.service)
    broken = journal.wait("config_error")
    assert "no_such_key" in broken["MESSAGE"] and "looop.toml" in broken["MESSAGE"]
    pulse.configure("max_workers = 3\n")
    systemctl("reload", pulse.service)
    journal.wait("pulse_reloaded")
    assert pulse.active


def test_the_sandbox_keeps_sensors_from_writing_and_can_be_switched_off(
    pulse: Pulse, journal: Journal, events: Events
) -> None:
    proof = CONFIG / "written"
    pulse.configure("beat_gap = 0\n")
    pulse.sensor("writer", f"echo 1 >{proof} 2>/dev/null; echo {{}}")
    pulse.start()
    quiet(pulse, events)
    assert not proof.exists()
    pulse.configure('beat_gap = 0\nsandbox = "off"\n')
    systemctl("reload", pulse.service)
    events.wait_for(proof.exists)
    pulse.configure("beat_gap = 0\n")
    seen = len(journal.find(LOOOP_EVENT="sandbox_measured"))
    systemctl("reload", pulse.service)
    journal.wait("sandbox_measured", count=seen + 1)
    quiet(pulse, events)
    proof.unlink()
    seen = len(journal.find(LOOOP_EVENT="sense_done"))
    looopctl("beat")
    journal.wait("sense_done", count=seen + 1)
    assert not proof.exists()


def test_an_unknown_key_stops_the_start_with_one_clear_line(pulse: Pulse, journal: Journal) -> None:
    pulse.configure("sensor_timeot = 3\n")
    command("systemctl", "--user", "start", pulse.service, check=False)
    said = journal.wait("pulse_failed")["MESSAGE"]
    assert "sensor_timeot" in said and "sensor_timeout" in said and "looop.toml" in said
    assert unit(pulse.service, "NRestarts")["NRestarts"] == "0"
    assert looopctl("up", check=False).returncode == 64


def test_a_hung_pulse_is_brought_back_by_the_watchdog(pulse: Pulse, journal: Journal, events: Events) -> None:
    drop_in = CONFIG.parent / "systemd/user/looop.service.d"
    drop_in.mkdir(parents=True)
    (drop_in / "watchdog.conf").write_text("[Service]\nWatchdogSec=3\n")
    systemctl("daemon-reload")
    pulse.start()
    looopctl("worker", "start", "w1", *WORKER)
    before = pulse.pid
    pulse.kill("STOP")
    journal.wait("pulse_started", count=2, timeout=30)
    assert pulse.pid != before
    assert units("looop-worker-w1.scope", "active")


SLOW = {
    "sensing": "",
    "deciding": """
decider_cost_usd = 0
decider_command = "echo >../../reports/now; sleep 5"
decider_write_paths = ["{data}"]
""",
    "executing": """
decider_cost_usd = 0
decider_command = "cp {config}/decision .decision.json"
shell_write_paths = ["{data}/reports"]
""",
}
SHELL = "touch $LOOOP_DATA_DIR/reports/now; echo x >>$LOOOP_DATA_DIR/reports/done; sleep 5"


@pytest.mark.parametrize("phase", SLOW)
def test_a_pulse_killed_in_any_phase_of_a_beat_comes_back_whole(
    pulse: Pulse, journal: Journal, events: Events, phase: str
) -> None:
    pulse.configure("beat_gap = 0\n" + SLOW[phase].format(data=pulse.data, config=CONFIG))
    (CONFIG / "decision").write_text(json.dumps({"action": "run_shell", "cmd": SHELL}))
    looopctl("goal", "write", "g1", "something to do")
    if phase == "sensing":
        pulse.sensor("slow", "exec sleep 5")
    pulse.start()
    looopctl("worker", "start", "w1", *WORKER)
    looopctl("claim", "repo", "--session", "w1")
    if phase == "sensing":
        events.wait_for(lambda: units("looop-sense.service", "activating"))
    else:
        events.wait_for(lambda: (pulse.data / "reports/now").exists())
    pulse.kill()
    journal.wait("pulse_started", count=2)
    assert units("looop-worker-w1.scope", "active")
    [claim] = looopctl_json_claims()
    assert claim["state"] == "live"
    if phase == "executing":
        cut = journal.wait("tick_interrupted")
        assert cut["LOOOP_ACTION"] == "shell"
        assert "INTERRUPTED" in (pulse.data / "journal.md").read_text()
        assert (pulse.data / "reports/done").read_text().count("x") <= 2
    events.wait_for(lambda: not [u for u in units("looop-decide-*", "activating") if cut_units(pulse, u)])


def cut_units(pulse: Pulse, name: str) -> bool:
    """Whether this decider unit belongs to a run that is over."""
    run = name.removeprefix("looop-decide-").removesuffix(".service")
    record = json.loads((pulse.data / "runs" / run / "record.json").read_text())
    return bool(record["state"] != "deciding")


def looopctl_json_claims() -> list[dict[str, str]]:
    found = json.loads(looopctl("claims", "--json").stdout)
    assert isinstance(found, list)
    return found


def test_stop_with_a_decide_in_flight_ends_it_within_the_stop_timeout(
    pulse: Pulse, journal: Journal, events: Events
) -> None:
    pulse.configure('decider_cost_usd = 0\ndecider_command = "sleep 60"\n')
    looopctl("goal", "write", "g1", "something to do")
    pulse.start()
    journal.wait("decide_start")
    events.wait_for(lambda: units("looop-decide-*", "activating"))
    pulse.stop()
    assert unit(pulse.service, "Result")["Result"] == "success"
    assert not units("looop-decide-*", "activating", "active")


def test_a_worker_is_adopted_by_the_next_pulse(pulse: Pulse, journal: Journal) -> None:
    pulse.start()
    looopctl("worker", "start", "w1", "--command", 'read -r line; exit 7', "wait")
    pulse.kill()
    journal.wait("pulse_started", count=2)
    looopctl("kill", "w1")
    ended = journal.wait("worker_ended", LOOOP_SESSION="w1")
    assert "SIGTERM" in ended["MESSAGE"] or "143" in ended["MESSAGE"], ended["MESSAGE"]


def test_a_lease_of_any_unit_is_reaped_by_its_signal_not_by_the_next_beat(
    pulse: Pulse, journal: Journal, events: Events
) -> None:
    pulse.configure("beat_gap = 600\n")
    pulse.start()
    quiet(pulse, events)
    hold = f"{LOOOPCTL} claim repo && exec sleep infinity"
    command("systemd-run", "--user", "--quiet", "--collect", "--unit=probe-holder", "/bin/bash", "-c", hold)
    journal.wait("claim_taken", LOOOP_CLAIM="repo")
    systemctl("kill", "--signal=KILL", "probe-holder.service")
    journal.wait("claim_reaped", timeout=5, LOOOP_CLAIM="repo")
    assert not (pulse.data / "claims/repo.json").exists()
