"""Bad input and bad days: each gives one clear entry or error, loses nothing, leaks nothing, and the loop goes on."""

import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.machine.harness import (
    CONFIG,
    LOOOPCTL,
    UNITS,
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
NOOP = """echo '{"action": "noop"}' >.decision.json"""
RULE = '[[rule]]\nname = "r1"\nwhen = "`true`"\nmove = {action = "notify", message = "seen"}\n'


def decider(pulse: Pulse, script: str, config: str = FREE, env: dict[str, str] | None = None) -> None:
    """Configure a bash script as the decider and give it something to decide on."""
    path = CONFIG / "decider"
    CONFIG.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    pulse.configure(f'{config}decider_command = "{path}"\n')
    looopctl("goal", "write", "g1", "something to do", env=env)


def drop_in(service: str, *lines: str) -> None:
    """Change a unit the way `systemctl --user edit` does."""
    folder = UNITS / f"{service}.d"
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text("\n".join(["[Service]", *lines, ""]))
    systemctl("daemon-reload")


def look(pulse: Pulse, journal: Journal) -> None:
    """One more beat, which senses, or says why not."""

    def ends() -> int:
        return sum(len(journal.find(LOOOP_EVENT=event)) for event in ("sense_done", "beat_failed", "fleet_unknown"))

    seen, starts = ends(), len(journal.find(LOOOP_EVENT="tick_start"))
    looopctl("beat")
    journal.wait("tick_start", count=starts + 1)
    journal.events.wait_for(lambda: ends() > seen)
    assert pulse.active


def decides(journal: Journal, env: dict[str, str] | None = None) -> None:
    """An edited goal brings one more decision."""
    seen = len(journal.find(LOOOP_EVENT="decided"))
    looopctl("goal", "write", "g1", f"something else to do, {time.monotonic_ns()}", env=env)
    if env:
        looopctl("beat", env=env)
    journal.wait("decided", count=seen + 1)


def healthy(pulse: Pulse, journal: Journal, env: dict[str, str] | None = None) -> None:
    """The verbs that show things work, and nothing that went wrong was a surprise to the program."""
    for verb in ("status", "state --json", "asks", "claims", "worker list --all", "goal list"):
        done = looopctl(*verb.split(), check=False, env=env)
        assert done.returncode == 0, (verb, done)
    surprises = [e for e in journal.find() if "LOOOP_TRACE" in e or "Traceback" in str(e.get("MESSAGE"))]
    assert not surprises, surprises
    assert pulse.active


# -- rules and decisions


def test_broken_rules_are_named_and_the_loop_goes_on(pulse: Pulse, journal: Journal) -> None:
    pulse.configure("beat_gap = 0\n")
    pulse.start()
    (pulse.data / "rules.toml").write_text('[[rule]]\nname = "x"\nwhen = "asks["\nmove = {action = "noop"}\n')
    said = journal.wait("rule_broken")["MESSAGE"]
    assert "rules.toml" in said and "when" in said
    assert looopctl("rules", "check", check=False).returncode == 1
    look(pulse, journal)


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
    look(pulse, journal)
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
        'first=$LOOOP_DATA_DIR/reports/first\n'
        'if [ ! -e "$first" ]; then echo "$PWD" >"$first"; exit; fi\n'
        # the second run answers in the first one's folder
        'echo \'{"action":"write_goal","id":"late","body":"x"}\' >"$(cat "$first")/.decision.json"',
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

BAD_NAMES = ["a/b", "..", "a\nb", "x" * 300, "-x", ".x", "ü", ""]


@pytest.mark.parametrize(
    "verb",
    [
        ("goal", "write"), ("goal", "archive"), ("goal", "show"), ("sensor", "write"), ("sensor", "run"), ("claim",),
        ("unclaim",), ("worker", "start"), ("worker", "kill"), ("kill",), ("answer",), ("tell",), ("log",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_names_are_usage_errors_everywhere(pulse: Pulse, verb: tuple[str, ...]) -> None:
    text = ("#!/bin/sh",) if verb[-1] in ("write", "start", "answer", "tell") else ()
    for name in BAD_NAMES:
        refused = looopctl(*verb, "--", name, *text, check=False)
        assert refused.returncode == 64, (name, refused)
        assert "Traceback" not in refused.stderr and refused.stdout == ""
    assert not [path for path in pulse.data.rglob("*") if path.is_file() and "x" * 20 in path.name]


def test_bad_names_in_a_decision_are_refused(pulse: Pulse, journal: Journal) -> None:
    names = [*BAD_NAMES, "a\0b"]
    (CONFIG / "names").mkdir(parents=True)
    for n, name in enumerate(names):
        decision = {"action": "start_worker", "id": name, "prompt": "x", "command": "true"}
        (CONFIG / f"names/{n}").write_text(json.dumps(decision))
    # the number of the try is the goal's text
    decider(pulse, f"cp {CONFIG}/names/$(tr -cd 0-9 <$LOOOP_DATA_DIR/goals/g1.md) .decision.json")
    for n in range(len(names)):
        looopctl("goal", "write", "g1", f"try {n}")
        if n == 0:
            pulse.start()
        assert "start_worker.id" in journal.wait("tick_failed", count=n + 1)["MESSAGE"]
    assert not list((pulse.data / "sessions").glob("[!.]*")) and not units("looop-worker-*.scope")


@pytest.mark.parametrize(
    "verb",
    [("goal", "write", "g1"), ("playbook", "write"), ("sensor", "write", "s1"), ("answer", "w1-1"), ("tell", "w1")],
    ids=" ".join,
)
def test_a_text_with_a_nul_character_or_not_utf8_is_a_usage_error(pulse: Pulse, verb: tuple[str, ...]) -> None:
    looopctl("init")
    before = {path: path.read_bytes() for path in pulse.data.rglob("*") if path.is_file()}
    for text in ("a\\0b", "\\xff\\xfe"):
        refused = command("/bin/bash", "-c", f"printf '#!/bin/sh {text}' | {LOOOPCTL} {' '.join(verb)}", check=False)
        assert refused.returncode == 64 and "looopctl: cannot" in refused.stderr, refused
    assert {path: path.read_bytes() for path in before} == before


def test_files_with_impossible_names_are_passed_over(pulse: Pulse, journal: Journal) -> None:
    decider(pulse, NOOP)
    for name in ("a b", "x" * 200, "line\nbreak", b"\xff".decode(errors="surrogateescape")):
        for folder, suffix in (
            ("goals", ".md"), ("sensors", ".sh"), ("claims", ".json"), ("asks", ".json"), ("answers", ".json"),
            ("tells", ".json"), ("schedules", ".json"), ("snapshots", ".json"),
        ):  # fmt: skip
            (pulse.data / folder / f"{name}{suffix}").write_text("{}")
        (pulse.data / "sessions" / name).mkdir()
        (pulse.data / "runs" / name).mkdir()
    pulse.start()
    journal.wait("decided")
    decides(journal)
    healthy(pulse, journal)


# -- state files


# looop's own records, and whether it is worth a word when half of one is missing: half a text is a text, and losing
# a mere note loses nothing
RECORDS = {
    "rules.toml": False,
    "PLAYBOOK.md": False,
    "goals/g2.md": False,
    "journal.md": False,
    ".committed.json": True,
    ".nudges.json": True,
    ".sensors.json": True,
    ".schedules.json": True,
    ".goal-activity.json": True,
    ".last-shell.json": True,
    "claims/broken.json": True,
    "asks/w1-1.json": True,
    "answers/w1-2.json": True,
    "tells/w1-1.json": True,
    "schedules/s1.json": True,
    "snapshots/sys-sessions.json": False,
    "runs/LAST/record.json": True,
    "sessions/w1/meta.json": True,
    "sessions/w2/exit.json": True,
    "sessions/w3/verify.json": True,
}
# these only help: damaged they are made anew or passed over without a word
NOTES = (
    ".frame-tag", "asks/.numbers.json", "tells/.numbers.json", "snapshots/sensor-failed-units.json",
    "runs/LAST/baseline.json", "sessions/w2/ended.json", "sessions/w2/stop.json",
)  # fmt: skip
# while one of these is damaged no decider may run
GATES = (".guards.json", "cost.jsonl")


def put(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(json.dumps({"v": 1, **record}))


def inhabit(pulse: Pulse, journal: Journal) -> None:
    """A pulse with something in every file: a living worker, dead ones, leases, asks, an answer, a message."""
    decider(pulse, NOOP)
    looopctl("goal", "write", "g2", "another goal")
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    for name in ("w2", "w3"):
        looopctl("worker", "start", name, "--verify", "true", *SLEEPER)
        looopctl("kill", name)
        journal.wait("worker_verified", LOOOP_SESSION=name)
    for name in ("repo", "broken"):
        looopctl("claim", name, "--session", "w1")
    looopctl("tell", "w1", "hello")
    for n in (1, 2):
        put(pulse.data / f"asks/w1-{n}.json", {"id": f"w1-{n}", "worker": "w1", "prompt": "which?", "ts": 1.0})
    put(pulse.data / "answers/w1-2.json", {"answer": "this", "ts": 4e9})
    put(pulse.data / "schedules/s1.json", {"every_s": 3600, "anchor": 0})
    decides(journal)


def break_(path: Path, damage: str) -> None:
    """Leave half of a file, or a folder in its place."""
    content = path.read_bytes() if path.is_file() else b'{"v": 1, "something": "that is longer than half of it"}'
    path.unlink(missing_ok=True)
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.mkdir()
        (path / "inside").touch()


def between_beats(pulse: Pulse, journal: Journal) -> None:
    """Halt the pulse where no beat is in flight: one that is may use up a record before it reads it again."""

    def halted() -> bool:
        pulse.kill("STOP")
        idle = unit(pulse.service, "StatusText")["StatusText"].startswith("idle")
        if not idle:
            pulse.kill("CONT")
        return idle

    journal.events.wait_for(halted)


@pytest.mark.parametrize("damage", ["truncated", "a folder"])
def test_damaged_records_are_each_named_and_the_loop_goes_on(pulse: Pulse, journal: Journal, damage: str) -> None:
    inhabit(pulse, journal)
    before = unit("looop-worker-w1.scope", "InvocationID", "ActiveState")
    between_beats(pulse, journal)
    newest = max((pulse.data / "runs").iterdir(), key=lambda p: p.stat().st_mtime).name
    seen = len(journal.find())
    for name in (*RECORDS, *NOTES):
        break_(pulse.data / name.replace("LAST", newest), damage)
    pulse.kill("CONT")
    decides(journal)
    answered = looopctl("answer", "w1-2", "that", check=False)
    assert answered.returncode == 1 and "answers/w1-2.json" in answered.stderr and "--force" in answered.stderr
    pulse.restart()
    decides(journal)
    said = "\n".join(str(e["MESSAGE"]) for e in journal.find()[seen:] if "LOOOP_EVENT" in e) + answered.stderr
    for name, half_is_bad in RECORDS.items():
        if damage == "a folder" or half_is_bad:
            assert name.replace("LAST", newest) in said, (name, said)
    assert unit("looop-worker-w1.scope", "InvocationID", "ActiveState") == before
    alive = {s["id"]: s for s in looopctl_json("worker", "list")}
    assert alive["w1"]["alive"] and alive["w1"]["health"] != "dead"
    states = {c["name"]: c["state"] for c in looopctl_json("claims")}
    assert states == {"repo": "live", "broken": "broken"}
    assert not journal.find(LOOOP_EVENT="claim_reaped")
    healthy(pulse, journal)


@pytest.mark.parametrize("name", GATES)
def test_without_its_guards_no_decider_runs_until_they_are_mended(pulse: Pulse, journal: Journal, name: str) -> None:
    decider(pulse, NOOP)
    pulse.start()
    journal.wait("decided")
    tries = len(journal.find(LOOOP_EVENT="decide_start"))
    break_(pulse.data / name, "a folder")
    looopctl("goal", "write", "g1", "something new")
    event = "guard_degraded" if name == ".guards.json" else "beat_failed"
    assert name in journal.wait(event)["MESSAGE"]
    look(pulse, journal)
    pulse.restart()
    look(pulse, journal)
    assert len(journal.find(LOOOP_EVENT="decide_start")) == tries
    healthy(pulse, journal)
    if name == "cost.jsonl":  # the guards mend themselves, and an edit cuts their wait
        shutil.rmtree(pulse.data / name)
    decides(journal)


def test_mended_rules_are_looked_at_though_nothing_else_has_changed(pulse: Pulse, journal: Journal) -> None:
    looopctl("init")
    pulse.configure("beat_gap = 0\n")
    ledger = pulse.data / ".rules-fired.json"
    ledger.mkdir()
    (pulse.data / "rules.toml").write_text(RULE)
    pulse.start()
    assert ".rules-fired.json" in journal.wait("rule_broken")["MESSAGE"]
    look(pulse, journal)
    assert not journal.find(LOOOP_EVENT="notify")
    ledger.rmdir()
    looopctl("beat")
    assert "seen" in journal.wait("notify")["MESSAGE"]
    (pulse.data / "rules.toml").write_text(RULE.replace('"seen"', '"changed"').replace('"r1"', '"r2"'))
    journal.wait("notify", count=2)


# -- no room, no right


def fails(pulse: Pulse, journal: Journal, *why: str, env: dict[str, str] | None = None) -> None:
    """It was told why: once, as trouble that lasts is. Beats go on and decide nothing."""
    looopctl("beat", env=env)
    said = journal.wait("beat_failed")["MESSAGE"]
    assert all(part in said for part in why), said
    decided = len(journal.find(LOOOP_EVENT="decided"))
    for _ in range(2):  # the start of one is the end of the one before
        seen = len(journal.find(LOOOP_EVENT="tick_start"))
        looopctl("beat", env=env)
        journal.wait("tick_start", count=seen + 1)
    assert len(journal.find(LOOOP_EVENT="decided")) == decided
    assert pulse.active


def test_a_read_only_data_directory_is_said_and_survived(pulse: Pulse, journal: Journal) -> None:
    decider(pulse, NOOP)
    pulse.sensor("restless", "echo $EPOCHREALTIME")
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    decides(journal)
    folders = [pulse.data, *(path for path in pulse.data.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        fails(pulse, journal, str(pulse.data), "Permission denied")
        pulse.restart()
        fails(pulse, journal, str(pulse.data), "Permission denied")
        refused = looopctl("goal", "write", "g1", "x", check=False)
        assert refused.returncode == 1 and "Permission denied" in refused.stderr and str(pulse.data) in refused.stderr
        assert units("looop-worker-w1.scope", "active")
        assert [c["state"] for c in looopctl_json("claims")] == ["live"]
        healthy(pulse, journal)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    decides(journal)


def test_a_full_disk_is_said_and_survived(pulse: Pulse, journal: Journal) -> None:
    """/srv/small is a file system of 4 MB that tests/machine/machine gives every machine."""
    small = Path("/srv/small")
    data = small / "looop"
    shutil.rmtree(data, ignore_errors=True)
    (small / "ballast").unlink(missing_ok=True)
    drop_in(pulse.service, f"Environment=LOOOP_DATA_DIR={data}")
    env = {"LOOOP_DATA_DIR": str(data)}
    decider(pulse, NOOP, env=env)
    looopctl("sensor", "write", "restless", "#!/bin/bash\necho $EPOCHREALTIME", env=env)
    pulse.start()
    journal.wait("decided")
    for name in ("w1", "w2"):
        looopctl("worker", "start", name, *SLEEPER, env=env)
        looopctl("claim", name, "--session", name, env=env)
    decides(journal, env)
    lines = (data / "journal.md").read_text()
    command("/bin/bash", "-c", f"head -c 8M /dev/zero >{small}/ballast", check=False)
    fails(pulse, journal, "No space left", env=env)
    pulse.restart()
    tries = len(journal.find(LOOOP_EVENT="decide_start"))
    fails(pulse, journal, "No space left", env=env)
    assert len(journal.find(LOOOP_EVENT="decide_start")) == tries, "no decider is paid for what cannot be recorded"
    before = (data / "goals/g1.md").read_text()
    refused = looopctl("goal", "write", "g1", "lost", check=False, env=env)
    assert refused.returncode == 1 and "No space left" in refused.stderr
    assert (data / "goals/g1.md").read_text() == before
    command("systemctl", "--user", "kill", "--signal=KILL", "looop-worker-w2.scope")
    journal.wait("claim_reaped", LOOOP_CLAIM="w2")
    assert units("looop-worker-w1.scope", "active")
    healthy(pulse, journal, env)
    (small / "ballast").unlink()
    decides(journal, env)
    assert (data / "journal.md").read_text().startswith(lines)
    assert {c["name"]: c["state"] for c in json.loads(looopctl("claims", "--json", env=env).stdout)} == {"w1": "live"}
    sessions = json.loads(looopctl("worker", "list", "--all", "--json", env=env).stdout)
    assert {s["id"]: s["state"] for s in sessions} == {"w1": "running", "w2": "killed"}
    pulse.stop()
    shutil.rmtree(data)


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
        look(pulse, journal)
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
    look(pulse, journal)
    assert units("looop-worker-w1.scope", "active")


def test_verbs_without_a_bus_say_so_and_steal_nothing(pulse: Pulse, tmp_path: Path) -> None:
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    nowhere = {"XDG_RUNTIME_DIR": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/none"}
    for verb in (("claim", "repo"), ("worker", "list"), ("up",), ("kill", "w1")):
        done = looopctl(*verb, check=False, env=nowhere)
        assert done.returncode == 69, (verb, done)
    assert [c["state"] for c in json.loads(looopctl("claims", "--json").stdout)] == ["live"]
    assert looopctl("status", env=nowhere).returncode == 0


# -- workers


def test_a_worker_that_ignores_sigterm_and_its_setsid_children_are_gone_after_a_kill(pulse: Pulse) -> None:
    pulse.configure("stop_timeout = 1\n")
    ignore = "trap '' TERM HUP; while :; do read -rt 60 <> <(:); done"
    stubborn = f"setsid bash -c {shlex.quote(ignore)} & {ignore}"
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


def clock_of(pulse: Pulse) -> Path:
    """libfaketime moves the wall clock of the pulse alone; the file whose content says by how much."""
    [library] = Path("/usr/lib").rglob("libfaketime.so.1")
    CONFIG.mkdir(parents=True, exist_ok=True)
    offset = CONFIG / "clock"
    offset.write_text("+0\n")
    # the boot clock, which ages are taken on, is left alone
    faked = f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={offset} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1"
    drop_in(pulse.service, f"Environment={faked}")
    return offset


def test_a_clock_set_back_an_hour_frees_nothing_and_blocks_nothing(
    pulse: Pulse, journal: Journal, events: Events
) -> None:
    def wait_left() -> int:
        status = unit(pulse.service, "StatusText")["StatusText"]
        return int(status.partition("next try in ")[2].split()[0]) if "next try in " in status else 0

    offset = clock_of(pulse)
    decider(pulse, 'echo "{\\"action\\":\\"fly\\"}" >.decision.json')
    pulse.start()
    looopctl("worker", "start", "w1", *SLEEPER)
    looopctl("claim", "repo", "--session", "w1")
    looopctl("goal", "write", "g1", "again")
    journal.wait("tick_failed")
    look(pulse, journal)
    before = events.wait_for(wait_left)
    offset.write_text("-3600\n")
    look(pulse, journal)
    assert 0 < events.wait_for(wait_left) <= before
    assert not journal.find(LOOOP_EVENT="claim_reaped") and not journal.find(LOOOP_EVENT="worker_ended")
    tries = len(journal.find(LOOOP_EVENT="tick_failed"))
    looopctl("goal", "write", "g1", "once more")
    journal.wait("tick_failed", count=tries + 1)
    look(pulse, journal)
    assert units("looop-worker-w1.scope", "active")


def test_a_follow_up_comes_in_time_though_the_clock_is_set_back(pulse: Pulse, journal: Journal) -> None:
    offset = clock_of(pulse)
    decider(pulse, """echo '{"action": "noop", "next_interval_s": 5}' >.decision.json""")
    pulse.start()
    journal.wait("decided")
    offset.write_text("-3600\n")
    journal.wait("decided", count=2)


def test_a_symlink_planted_in_claims_is_not_followed(pulse: Pulse, tmp_path: Path) -> None:
    pulse.start()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (pulse.data / "claims").mkdir(parents=True, exist_ok=True)
    (pulse.data / "claims/repo.json").symlink_to(victim)
    refused = command(LOOOPCTL, "claim", "repo", check=False)
    assert refused.returncode != 0 and victim.read_text() == "precious"


@pytest.mark.parametrize(
    "words",
    [
        "claim x --json", "unclaim x", "ask w1 --prompt x", "answer w1-1 yes --json", "rules check", "sensor run disk",
        "kill w1", "log w1", "screenshot w1", "attach w1", "flag --session w1 x", "goal list --json", "why w1",
    ],
)  # fmt: skip
def test_a_data_directory_of_somebody_else_is_an_error_in_words(tmp_path: Path, words: str) -> None:
    data = tmp_path / "data"
    data.mkdir(0)
    done = looopctl(*words.split(), env={"LOOOP_DATA_DIR": str(data)}, check=False)
    assert done.returncode == 1 and done.stdout == "" and str(data) in done.stderr
    assert "Permission denied" in done.stderr and "internal" not in done.stderr
    assert "--json" not in words or json.loads(done.stderr)["exit"] == 1
