"""Bad input and bad days: each gives one clear entry or error, loses nothing, leaks nothing, and the loop goes on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine.harness import (
    CONFIG,
    LOOOPCTL,
    Events,
    Journal,
    Pulse,
    cgroup_pids,
    command,
    looopctl,
    looopctl_json,
    systemctl,
    unit,
    units,
)

FREE = "decider_cost_usd = 0\nbeat_gap = 0\n"
SLEEPER = ("--command", "sleep infinity", "wait")


def decider(pulse: Pulse, script: str, config: str = FREE) -> None:
    """Configure a bash script as the decider and give it something to decide on."""
    path = CONFIG / "decider"
    CONFIG.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    pulse.configure(f'{config}decider_command = "{path}"\n')
    looopctl("goal", "write", "g1", "something to do")


def goes_on(pulse: Pulse, journal: Journal) -> None:
    """One more beat starts and ends."""
    seen = len(journal.find(LOOOP_EVENT="tick_start"))
    looopctl("beat")
    journal.wait("tick_start", count=seen + 1)
    assert pulse.active


# -- rules and decisions


def test_broken_rules_are_named_and_the_loop_goes_on(pulse: Pulse, journal: Journal) -> None:
    pulse.start()
    (pulse.data / "rules.toml").write_text('[[rule]]\nname = "x"\nwhen = "asks["\nmove = {action = "noop"}\n')
    said = journal.wait("rule_broken")["MESSAGE"]
    assert "rules.toml" in said and "when" in said
    assert looopctl("rules", "check", check=False).returncode == 1
    goes_on(pulse, journal)


@pytest.mark.parametrize(
    ("output", "named"),
    [
        pytest.param("not json at all", "not JSON", id="not JSON"),
        pytest.param('{"action": "fly"}', "action", id="unknown action"),
        pytest.param('{"action": "write_goal", "id": "g2"}', "write_goal.body: missing", id="lacking a field"),
        pytest.param('{"action": "start_worker", "id": 7, "prompt": "x"}', "start_worker.id", id="wrong type"),
        pytest.param('{"action": "write_goal", "id": "../x", "body": "x"}', "write_goal.id", id="a path for a name"),
        pytest.param('{"action": "archive_goal", "id": "a\\\\u0000b"}', "archive_goal.id", id="NUL in a name"),
    ],
)
def test_a_bad_decision_names_its_field_and_does_nothing(
    pulse: Pulse, journal: Journal, output: str, named: str
) -> None:
    decider(pulse, f"printf '%b' '{output}' >.decision.json")
    pulse.start()
    assert named in journal.wait("tick_failed")["MESSAGE"]
    assert sorted(p.name for p in (pulse.data / "goals").glob("*.md")) == ["g1.md"]
    [attempt] = journal.find(LOOOP_EVENT="decide_start")
    prompt = pulse.data / "runs" / attempt["LOOOP_RUN"] / "prompt.md"
    assert prompt.exists()
    goes_on(pulse, journal)
    assert len(journal.find(LOOOP_EVENT="decide_start")) == 1, "the failure has to back off"


def test_the_next_prompt_tells_what_was_wrong(pulse: Pulse, journal: Journal) -> None:
    decider(pulse, "cp prompt.md seen; echo '{\"action\": \"fly\"}' >.decision.json")
    pulse.start()
    journal.wait("tick_failed")
    looopctl("goal", "write", "g1", "try again")  # an edit of the policy cuts the wait
    journal.wait("tick_failed", count=2)
    newest = max((pulse.data / "runs").glob("*/seen"), key=lambda p: p.stat().st_mtime)
    assert "action: expected one of" in newest.read_text()


def test_a_decision_of_an_earlier_run_is_never_used(pulse: Pulse, journal: Journal, events: Events) -> None:
    decider(
        pulse,
        'n=$(cat "$LOOOP_DATA_DIR/reports/n" 2>/dev/null || echo 0); echo $((n + 1)) >"$LOOOP_DATA_DIR/reports/n"\n'
        'if [ "$n" = 0 ]; then echo "$PWD" >"$LOOOP_DATA_DIR/reports/first"; exit 0; fi\n'
        # the second run answers in the first one's folder
        'echo \'{"action":"write_goal","id":"late","body":"x"}\' >"$(cat "$LOOOP_DATA_DIR/reports/first")/.decision.json"',
        FREE + f'decider_write_paths = ["{pulse.data}/reports", "{pulse.data}/runs"]\n',
    )
    pulse.start()
    journal.wait("tick_failed")
    looopctl("goal", "write", "g1", "again")
    journal.wait("tick_failed", count=2)
    assert not (pulse.data / "goals/late.md").exists()


def test_a_decider_sees_the_world_read_only_and_without_the_user_bus(pulse: Pulse, journal: Journal) -> None:
    decider(
        pulse,
        'echo x >"$LOOOP_DATA_DIR/PLAYBOOK.md"; echo x >"$HOME/stolen"; echo x >"$LOOOP_DATA_DIR/goals/g2.md"\n'
        "systemd-run --user touch ~/escaped; busctl --user list >/dev/null && touch bus-seen\n"
        'echo \'{"action":"noop","reason":"tried"}\' >.decision.json',
    )
    pulse.start()
    journal.wait("decided", LOOOP_ACTION="noop")
    assert not (Path.home() / "stolen").exists() and not (Path.home() / "escaped").exists()
    assert (pulse.data / "PLAYBOOK.md").read_text() != "x\n"
    assert not (pulse.data / "goals/g2.md").exists()
    assert not list((pulse.data / "runs").glob("*/bus-seen"))


# -- names


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "x" * 300, "-x", ""])
@pytest.mark.parametrize(
    "verb",
    [("goal", "write"), ("sensor", "write"), ("claim",), ("worker", "start"), ("kill",), ("answer",), ("log",)],
    ids=" ".join,
)
def test_bad_names_are_usage_errors_everywhere(pulse: Pulse, verb: tuple[str, ...], name: str) -> None:
    text = () if verb[0] in ("claim", "kill", "log") else ("#!/bin/sh",)
    refused = looopctl(*verb, "--", name, *text, check=False)
    assert refused.returncode == 64, refused
    assert "Traceback" not in refused.stderr and refused.stdout == ""
    assert not list(pulse.data.rglob("*x" * 20 + "*"))


# -- state files


STATE_FILES: dict[str, Callable[[Pulse], Path]] = {
    "guards": lambda p: p.data / ".guards.json",
    "committed": lambda p: p.data / ".committed.json",
    "rules fired": lambda p: p.data / ".rules-fired.json",
    "follow-ups": lambda p: p.data / ".nudges.json",
    "sensors": lambda p: p.data / ".sensors.json",
    "goal activity": lambda p: p.data / ".goal-activity.json",
    "last shell": lambda p: p.data / ".last-shell.json",
    "cost ledger": lambda p: p.data / "cost.jsonl",
    "claim": lambda p: p.data / "claims/repo.json",
    "ask": lambda p: p.data / "asks/w1-1.json",
    "answer": lambda p: p.data / "answers/w1-1.json",
    "tell": lambda p: p.data / "tells/w1-1.json",
    "schedule": lambda p: p.data / "schedules/s1.json",
    "session": lambda p: p.data / "sessions/w1/meta.json",
    "exit record": lambda p: p.data / "sessions/w1/exit.json",
    "verdict": lambda p: p.data / "sessions/w1/verdict.json",
    "verify": lambda p: p.data / "sessions/w1/verify.json",
    "snapshot": lambda p: p.data / "snapshots/sys-sessions.json",
    "run record": lambda p: p.data / "runs/beat-20200101-000000/record.json",
    "journal": lambda p: p.data / "journal.md",
    "playbook": lambda p: p.data / "PLAYBOOK.md",
    "goal": lambda p: p.data / "goals/g1.md",
    "rules": lambda p: p.data / "rules.toml",
}


@pytest.mark.parametrize("damage", ["truncated", "replaced by a folder"])
@pytest.mark.parametrize("name", STATE_FILES)
def test_a_damaged_state_file_stops_neither_pulse_nor_verbs(
    pulse: Pulse, journal: Journal, events: Events, name: str, damage: str
) -> None:
    pulse.configure("beat_gap = 0\n")
    looopctl("goal", "write", "g1", "a goal")
    pulse.start()
    looopctl("worker", "start", "w1", "--verify", "true", *SLEEPER)
    scope = "looop-worker-w1.scope"
    before = unit(scope, "InvocationID")["InvocationID"]
    path = STATE_FILES[name](pulse)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        content = path.read_bytes()
        path.unlink()
    else:
        content = b'{"v": 1, "id": "w1-1"'
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.mkdir()
    goes_on(pulse, journal)
    goes_on(pulse, journal)
    pulse.restart()
    goes_on(pulse, journal)
    assert unit(scope, "InvocationID", "ActiveState") == {"InvocationID": before, "ActiveState": "active"}
    for verb in (("status",), ("state", "--json"), ("asks",), ("claims",), ("worker", "list"), ("goal", "list")):
        done = looopctl(*verb, check=False)
        assert done.returncode in (0, 1), (verb, done)
        assert "internal error" not in done.stderr, (verb, done.stderr)
    assert not [e for e in journal.find(LOOOP_EVENT="beat_failed") if "internal error" in e["MESSAGE"]], events.tail()
    if path.is_dir():
        shutil.rmtree(path)


def test_a_read_only_data_directory_is_said_and_survived(pulse: Pulse, journal: Journal, events: Events) -> None:
    pulse.start()
    events.wait_for(lambda: unit(pulse.service, "StatusText")["StatusText"].startswith("idle"))
    folders = [pulse.data, *(p for p in pulse.data.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        seen = len(journal.find(LOOOP_EVENT="beat_failed"))
        looopctl("beat")
        failed = journal.wait("beat_failed", count=seen + 1)
        assert str(pulse.data) in failed["MESSAGE"] and "internal" not in failed["MESSAGE"]
        assert "cannot write" in looopctl("goal", "write", "g1", "x", check=False).stderr
    finally:
        for folder in folders:
            folder.chmod(0o700)
    goes_on(pulse, journal)


def test_a_full_disk_is_said_and_survived(pulse: Pulse, journal: Journal, events: Events) -> None:
    """A small tmpfs of our own, in a mount namespace the unit makes, stands for the full disk."""
    drop_in = CONFIG.parent / "systemd/user/looop.service.d"
    drop_in.mkdir(parents=True)
    pulse.data.mkdir(mode=0o700, parents=True)
    (drop_in / "full.conf").write_text(
        f"[Service]\nPrivateUsers=yes\nTemporaryFileSystem={pulse.data}:size=256k,mode=0700\n"
    )
    systemctl("daemon-reload")
    pulse.configure('beat_gap = 0\nsandbox = "off"\n')
    pulse.start()
    journal.wait("tick_start")
    root = f"/proc/{pulse.pid}/root{pulse.data}"
    command("/bin/bash", "-c", f"head -c 1M /dev/zero >{root}/ballast", check=False)
    seen = len(journal.find(LOOOP_EVENT="beat_failed"))
    looopctl("beat")
    assert "No space" in journal.wait("beat_failed", count=seen + 1)["MESSAGE"]
    os.unlink(f"{root}/ballast")
    goes_on(pulse, journal)


# -- systemd's own bad days


def test_reload_and_reexec_of_the_manager_kill_no_worker_and_no_claim(pulse: Pulse, journal: Journal) -> None:
    pulse.configure("beat_gap = 0\n")
    pulse.start()
    before = {}
    for n in range(3):
        looopctl("worker", "start", f"w{n}", *SLEEPER)
        looopctl("claim", f"c{n}", "--session", f"w{n}")
        before[f"w{n}"] = unit(f"looop-worker-w{n}.scope", "InvocationID")
    for verb in ("daemon-reload", "daemon-reexec", "daemon-reload"):
        systemctl(verb)
        goes_on(pulse, journal)
    assert {w: unit(f"looop-worker-{w}.scope", "InvocationID") for w in before} == before
    assert [c["state"] for c in json.loads(looopctl("claims", "--json").stdout)] == ["live"] * 3
    assert not journal.find(LOOOP_EVENT="claim_reaped") and not journal.find(LOOOP_EVENT="worker_ended")
    looopctl("kill", "w1")
    assert journal.wait("claim_reaped")["LOOOP_CLAIM"] == "c1"


def test_a_lost_user_bus_is_unknown_never_dead_and_comes_back(
    pulse: Pulse, journal: Journal, events: Events
) -> None:
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    bus = unit("dbus.service", "MainPID")["MainPID"]
    os.kill(int(bus), 9)
    journal.wait("bus_lost")
    # systemd#21177: the manager itself may hang for 90 s on its own bus
    journal.wait("bus_back", timeout=150)
    assert not journal.find(LOOOP_EVENT="claim_reaped") and not journal.find(LOOOP_EVENT="worker_ended")
    goes_on(pulse, journal)
    assert units("looop-worker-w1.scope", "active")


def test_verbs_without_a_bus_say_so_and_steal_nothing(pulse: Pulse, tmp_path: Path) -> None:
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    nowhere = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/none"}
    for verb in (("claim", "repo"), ("worker", "list"), ("up",), ("kill", "w1")):
        done = looopctl(*verb, check=False, env=nowhere)
        assert done.returncode == 69, (verb, done)
    assert [c["state"] for c in json.loads(looopctl("claims", "--json").stdout)] == ["live"]
    assert looopctl("status", env=nowhere).returncode == 0


# -- workers


def test_a_worker_that_ignores_sigterm_and_its_setsid_children_are_gone_after_a_kill(pulse: Pulse) -> None:
    pulse.configure("stop_timeout = 1\n")
    stubborn = "trap '' TERM HUP; setsid bash -c 'trap \"\" TERM HUP; while :; do read -rt 60 <> <(:); done' & while :; do wait; done"
    pulse.start()
    looopctl("worker", "start", "w1", "--command", stubborn, "resist")
    pids = cgroup_pids("looop-worker-w1.scope")
    assert len(pids) >= 3
    looopctl("kill", "w1")
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    [session] = looopctl_json("worker", "list", "--all")
    assert session["state"] == "killed" and session["alive"] is False


def test_a_scope_stopped_by_hand_ends_the_worker_and_frees_its_claims(pulse: Pulse, journal: Journal) -> None:
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    systemctl("stop", "looop-worker-w1.scope")
    journal.wait("claim_reaped", LOOOP_CLAIM="repo")
    journal.wait("worker_ended", LOOOP_SESSION="w1")
    assert not (pulse.data / "claims/repo.json").exists()


def test_a_clock_set_back_an_hour_frees_nothing_and_blocks_nothing(
    pulse: Pulse, journal: Journal, events: Events
) -> None:
    """libfaketime moves the wall clock of the pulse alone; the boot clock, which ages are taken on, is left."""
    [library] = Path("/usr/lib").rglob("libfaketime.so.1")
    offset = CONFIG / "clock"
    drop_in = CONFIG.parent / "systemd/user/looop.service.d"
    drop_in.mkdir(parents=True)
    CONFIG.mkdir(parents=True, exist_ok=True)
    offset.write_text("+0\n")
    (drop_in / "clock.conf").write_text(
        f"[Service]\nEnvironment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={offset} FAKETIME_NO_CACHE=1"
        " FAKETIME_DONT_FAKE_MONOTONIC=1\n"
    )
    systemctl("daemon-reload")
    decider(pulse, 'echo "{\\"action\\":\\"fly\\"}" >.decision.json')
    pulse.start()
    journal.wait("tick_failed")
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    offset.write_text("-3600\n")
    goes_on(pulse, journal)
    assert "claim_reaped" not in {e.get("LOOOP_EVENT") for e in journal.find()}
    status = unit(pulse.service, "StatusText")["StatusText"]
    events.wait_for(lambda: "next try in" in unit(pulse.service, "StatusText")["StatusText"])
    wait = int(unit(pulse.service, "StatusText")["StatusText"].split("next try in ")[1].split()[0])
    assert wait <= 120, status
    looopctl("goal", "write", "g1", "again")
    journal.wait("tick_failed", count=2)


def test_a_symlink_planted_in_claims_is_not_followed(pulse: Pulse, tmp_path: Path) -> None:
    pulse.start()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (pulse.data / "claims").mkdir(parents=True, exist_ok=True)
    (pulse.data / "claims/repo.json").symlink_to(victim)
    refused = command(LOOOPCTL, "claim", "repo", check=False)
    assert refused.returncode != 0 and victim.read_text() == "precious"
