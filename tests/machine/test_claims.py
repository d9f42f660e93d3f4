"""Leases on a real systemd: held by whatever unit the caller runs in, for exactly as long as that lives."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machine.harness import (
    DATA, LOOOPCTL, WITHOUT_INOTIFY, Done, Events, command, looopctl, looopctl_json, systemctl, unit, units, wipe,
)  # fmt: skip

HOLD = 'read -r _ < "$0"'  # a shell that lives until somebody opens the FIFO


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


def scope(name: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["systemd-run", "--user", "--scope", "--quiet", f"--unit={name}", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def claims() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in looopctl_json("claims")}


def held_in(events: Events, name: str, claim: str, gate: Path) -> "subprocess.Popen[str]":
    """A scope that takes a lease and lives on."""
    process = scope(name, "sh", "-c", f"{LOOOPCTL} claim {claim} && {HOLD}", str(gate))
    events.wait_for(lambda: claim in claims(), what=f"claim {claim}")
    return process


def end(name: str, process: "subprocess.Popen[str]") -> str:
    systemctl("kill", "--signal=KILL", name)
    return process.communicate(timeout=20)[0]


def in_scope(*words: str) -> Done:
    return command("systemd-run", "--user", "--scope", "--quiet", *words, check=False)


def test_the_holder_is_the_callers_unit_and_the_lease_ends_with_it(events: Events, gate: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    row = claims()["repo-x"]
    assert (row["unit"], row["manager"], row["state"]) == ("probe-holder.scope", "user", "live")
    assert row["invocation"] == unit("probe-holder.scope", "InvocationID")["InvocationID"]
    refused = in_scope(LOOOPCTL, "claim", "repo-x")
    assert refused.returncode == 1 and "held by live probe-holder.scope since" in refused.stderr
    released = in_scope(LOOOPCTL, "unclaim", "repo-x")
    assert released.returncode == 1 and "probe-holder.scope" in released.stderr
    assert end("probe-holder.scope", process) == "claimed repo-x\n"
    events.wait_for(lambda: bool(claims()["repo-x"]["state"] == "dead"))
    assert in_scope(LOOOPCTL, "claim", "repo-x").stdout == "claimed repo-x\n"


def test_the_next_run_of_a_unit_does_not_inherit(events: Events, gate: Path) -> None:
    end("probe-again.scope", held_in(events, "probe-again.scope", "repo-x", gate))
    events.wait_for(lambda: "probe-again.scope" not in units("probe-again.scope"))
    process = scope("probe-again.scope", "sh", "-c", HOLD, str(gate))
    events.wait_for(lambda: "probe-again.scope" in units("probe-again.scope", "active"))
    assert claims()["repo-x"]["state"] == "dead"
    end("probe-again.scope", process)


def test_a_session_and_a_service_can_hold(events: Events) -> None:
    looopctl("claim", "mine")
    mine = claims()["mine"]
    assert mine["manager"] == "system" and mine["state"] == "live"
    assert looopctl("claim", "mine").stdout == ""
    command(
        "systemd-run", "--user", "--quiet", "--unit=probe-pre.service", "--property=Type=exec",
        f"--property=ExecStartPre={LOOOPCTL} claim repo-x", "sleep", "infinity",
    )  # fmt: skip
    assert (claims()["repo-x"]["unit"], claims()["repo-x"]["state"]) == ("probe-pre.service", "live")
    systemctl("stop", "probe-pre.service")
    assert claims()["repo-x"]["state"] == "dead"


def test_a_worker_can_be_named_if_it_lives(events: Events, gate: Path) -> None:
    dead = looopctl("claim", "repo-x", "--session", "w1", check=False)
    assert dead.returncode == 1 and "no worker of that id lives" in dead.stderr and claims() == {}
    process = scope("looop-worker-w1.scope", "sh", "-c", HOLD, str(gate))
    events.wait_for(lambda: units("looop-worker-w1.scope", "active"))
    assert looopctl("claim", "--session", "w1", "repo-x").stdout == "claimed repo-x\n"
    assert claims()["repo-x"]["session"] == "w1"
    assert looopctl("unclaim", "repo-x", check=False).returncode == 1
    looopctl("unclaim", "repo-x", "--session", "w1")
    assert claims() == {}
    end("looop-worker-w1.scope", process)


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_leases_survive_the_manager_rereading_itself(events: Events, gate: Path, verb: str) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    systemctl(verb)
    assert claims()["repo-x"]["state"] == "live"
    assert in_scope(LOOOPCTL, "claim", "repo-x").returncode == 1
    end("probe-holder.scope", process)


def test_without_a_bus_nothing_is_stolen_and_everything_is_shown(events: Events, gate: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    nowhere = {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"}
    refused = looopctl("claim", "repo-x", check=False, env=nowhere)
    assert refused.returncode == 69 and "Traceback" not in refused.stderr
    assert looopctl("unclaim", "repo-x", check=False, env=nowhere).returncode == 69
    shown = looopctl("claims", "--json", env=nowhere)
    assert [row["state"] for row in json.loads(shown.stdout)] == ["unknown"]
    assert claims()["repo-x"]["state"] == "live"
    end("probe-holder.scope", process)


def waiter(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([LOOOPCTL, "claim", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_wait_wakes_when_the_holder_dies_with_no_pulse(events: Events, gate: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    waiting = waiter("--wait", "repo-x")
    end("probe-holder.scope", process)
    assert waiting.communicate(timeout=20) == ("claimed repo-x\n", "")


def test_wait_wakes_when_the_lease_is_given_back(events: Events, gate: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    waiting = waiter("repo-x", "--wait=30")
    looopctl("unclaim", "--force", "repo-x")
    assert waiting.communicate(timeout=20) == ("claimed repo-x\n", "")
    end("probe-holder.scope", process)


def test_without_inotify_wait_looks_now_and_then_and_says_so(events: Events, gate: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    blind = (*WITHOUT_INOTIFY, "claim", "repo-x")
    late = command(*blind, "--wait=0.2", check=False)
    assert late.returncode == 124 and late.stderr.count("max_user_instances") == 1
    waiting = subprocess.Popen([*blind, "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None and "max_user_instances" in waiting.stderr.readline()
    looopctl("unclaim", "--force", "repo-x")
    assert waiting.communicate(timeout=20)[0] == "claimed repo-x\n"
    end("probe-holder.scope", process)


def test_wait_has_a_deadline(events: Events, gate: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    late = looopctl("claim", "repo-x", "--wait=0.2", check=False)
    assert (late.returncode, late.stdout) == (124, "")
    assert looopctl("claim", "repo-x", "--wait=0", check=False).returncode == 124
    end("probe-holder.scope", process)


def test_a_command_holds_the_lease_while_it_runs(tmp_path: Path) -> None:
    script = f"cat; {LOOOPCTL} claims --json > {tmp_path}/during; exit 7"
    done = looopctl("claim", "repo-x", "--", "sh", "-c", script, input="stdin\n", check=False)
    assert (done.returncode, done.stdout) == (7, "stdin\n")
    row = json.loads((tmp_path / "during").read_text())[0]
    assert row["state"] == "live" and row["unit"].startswith("looop-hold-")
    assert claims() == {}
    assert looopctl("claim", "repo-x", "--", "/nowhere", check=False).returncode == 127
    assert looopctl("claim", "repo-x", "--", "/etc", check=False).returncode == 126
    assert looopctl("claim", "repo-x", "--", "sh", "-c", "kill -9 $$", check=False).returncode == 137
    assert claims() == {}


def test_a_command_does_not_run_while_another_holds(events: Events, gate: Path, tmp_path: Path) -> None:
    process = held_in(events, "probe-holder.scope", "repo-x", gate)
    done = looopctl("claim", "repo-x", "--", "touch", str(tmp_path / "ran"), check=False)
    assert done.returncode == 1 and not (tmp_path / "ran").exists()
    end("probe-holder.scope", process)


def running(events: Events, gate: Path, *before: str) -> "subprocess.Popen[str]":
    """`claim -- COMMAND` whose command runs."""
    process = subprocess.Popen([*before, LOOOPCTL, "claim", "repo-x", "--", "sh", "-c", HOLD, str(gate)], text=True)
    events.wait_for(lambda: "repo-x" in claims())
    return process


def test_signals_reach_the_command(events: Events, gate: Path) -> None:
    process = running(events, gate)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert claims() == {}


def test_the_lease_outlives_looopctl_and_not_the_command(events: Events, gate: Path) -> None:
    process = running(events, gate)
    process.kill()
    process.wait(20)
    row = claims()["repo-x"]
    assert row["state"] == "live"
    with open(gate, "w"):
        pass
    events.wait_for(lambda: bool(claims()["repo-x"]["state"] == "dead"))


def test_a_held_command_ends_with_the_unit_it_was_started_from(events: Events, gate: Path) -> None:
    process = running(events, gate, "systemd-run", "--user", "--scope", "--quiet", "--unit=looop-worker-w1.scope")
    row = claims()["repo-x"]
    assert row["session"] == "w1" and row["unit"].startswith("looop-hold-")
    systemctl("kill", "--signal=KILL", "looop-worker-w1.scope")
    process.wait(20)
    events.wait_for(lambda: row["unit"] not in units("looop-hold-*", "active", "deactivating"))
    assert claims()["repo-x"]["state"] == "dead"


def test_a_unit_with_an_escaped_name_is_known(events: Events, gate: Path) -> None:
    name = command("systemd-escape", "--suffix=scope", "probe a-b").stdout.strip()
    process = held_in(events, name, "repo-x", gate)
    assert (claims()["repo-x"]["unit"], claims()["repo-x"]["state"]) == (name, "live")
    end(name, process)


def test_racers_for_a_dead_holders_lease_one_wins_each_round() -> None:
    bench = Path(__file__).parents[2] / "bench/claim_race.py"
    done = command("systemd-run", "--user", "--scope", "--quiet", str(bench), "--rounds=3", "--racers=16", LOOOPCTL)
    assert "3 rounds, one winner in each" in done.stdout


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    looopctl("claim", "one")
    (DATA / "claims/two.json").symlink_to(DATA / "claims/one.json")
    (DATA / "claims/three.json").write_text('{"v":')
    (DATA / "claims/four.json").mkdir()
    assert {name: row["state"] for name, row in claims().items()} == {
        "one": "live", "two": "broken", "three": "broken", "four": "broken",
    }  # fmt: skip
    for name in ("two", "three", "four"):
        done = looopctl("claim", name, check=False)
        assert done.returncode == 1 and f"{name}.json" in done.stderr
    looopctl("unclaim", "--force", "three")
    assert looopctl("claim", "three").stdout == "claimed three\n"
