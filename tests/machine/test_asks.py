"""Questions, answers and messages belong to one run of a worker's unit."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.harness import DATA, LOOOPCTL, Events, Journal, looopctl, looopctl_json, systemctl, units, wipe

WORKER = "looop-worker-w1.scope"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


def worker(script: str, *words: str) -> "subprocess.Popen[str]":
    """`script` in the scope of worker w1."""
    return subprocess.Popen(
        ["systemd-run", "--user", "--scope", "--quiet", f"--unit={WORKER}", "sh", "-c", script, *words],
        env={**os.environ, "LOOOP_SESSION_ID": "w1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def states() -> dict[str, str]:
    return {row["id"]: row["state"] for row in looopctl_json("asks")}


def gone(events: Events) -> None:
    events.wait_for(lambda: WORKER not in units(WORKER))


def test_the_answer_and_nothing_else_arrives_on_stdout(events: Events, journal: Journal) -> None:
    process = worker(f'answer=$({LOOOPCTL} ask --prompt "Deploy?" --options yes,no); printf "<%s>" "$answer"')
    events.wait_for(lambda: states() == {"w1-1": "live"})
    assert looopctl("answer", "w1-1", "yes").stdout == "w1-1: yes\n"
    assert process.communicate(timeout=20)[0] == "<yes>"
    assert states() == {} and [row["state"] for row in looopctl_json("asks", "-a")] == ["answered"]
    journal.wait("ask_raised", LOOOP_ASK="w1-1", LOOOP_SESSION="w1")
    journal.wait("ask_answered", LOOOP_ASK="w1-1")


def test_a_question_of_the_dead_is_stranded_and_its_answer_reaches_nobody(events: Events) -> None:
    first = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    events.wait_for(lambda: states() == {"w1-1": "live"})
    systemctl("kill", "--signal=KILL", WORKER)
    first.communicate(timeout=20)
    gone(events)
    assert states() == {"w1-1": "stranded"}
    second = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    events.wait_for(lambda: states() == {"w1-1": "stranded", "w1-2": "live"})
    late = looopctl("answer", "w1-1", "for the dead")
    assert late.stdout == "w1-1: for the dead\n" and "nobody will read it" in late.stderr
    looopctl("answer", "w1-2", "for the living")
    assert second.communicate(timeout=20)[0] == "for the living\n"


def test_a_worker_that_lost_its_ask_gets_the_answer_when_it_asks_again(events: Events, gate: Path) -> None:
    ask = f"{LOOOPCTL} ask --prompt Deploy?"
    lost = gate.with_name("lost")
    os.mkfifo(lost)
    process = worker(f'{ask} & read -r _ <"$0"; kill -9 $!; wait; read -r _ <"$1"; {ask}', str(gate), str(lost))
    events.wait_for(lambda: states() == {"w1-1": "live"})
    with open(gate, "w"):
        pass
    with open(lost, "w"):  # opens when the ask has been killed
        looopctl("answer", "w1-1", "yes")
    assert process.communicate(timeout=20)[0] == "yes\n"
    assert [row["id"] for row in looopctl_json("asks", "-a")] == ["w1-1"]


def test_without_a_bus_a_question_can_be_asked(events: Events) -> None:
    nowhere = {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"}
    blind = " ".join(f"{name}={value}" for name, value in nowhere.items())
    process = worker(f"{blind} exec {LOOOPCTL} ask me --prompt ?")
    events.wait_for(lambda: states() == {"me-1": "unknown"})
    assert json.loads(looopctl("asks", "--json", env=nowhere).stdout)[0]["state"] == "unknown"
    looopctl("answer", "me-1", "yes", env=nowhere)
    assert process.communicate(timeout=20)[0] == "yes\n"


def test_a_message_reaches_the_generation_it_was_sent_to(events: Events, gate: Path) -> None:
    refused = looopctl("tell", "w1", "too early", check=False)
    assert refused.returncode == 1 and "no worker of that id lives" in refused.stderr
    read = f'read -r _ <"$0"; {LOOOPCTL} told'
    first = worker(read, str(gate))
    events.wait_for(lambda: units(WORKER, "active"))
    looopctl("tell", "w1", "one")
    looopctl("tell", "w1", "-", input="two\n")
    peek = looopctl("told", "w1")
    assert peek.stdout == "• one\n• two\n" and "not marked as read" in peek.stderr
    with open(gate, "w"):
        pass
    assert first.communicate(timeout=20)[0] == "• one\n• two\n"
    assert looopctl("told", "w1").stdout == ""
    gone(events)

    second = worker('read -r _ <"$0"', str(gate))
    events.wait_for(lambda: units(WORKER, "active"))
    looopctl("tell", "w1", "for the second")
    with open(gate, "w"):
        pass
    second.communicate(timeout=20)
    gone(events)
    third = worker(f"{LOOOPCTL} told")
    assert third.communicate(timeout=20)[0] == ""
    assert json.loads((DATA / "tells/consumed/w1-3.json").read_text())["consumed"]["reason"] == "stale"


def test_an_answer_brings_word_of_messages_on_stderr(events: Events) -> None:
    process = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    events.wait_for(lambda: states() == {"w1-1": "live"})
    looopctl("tell", "w1", "mind the gap")
    looopctl("answer", "w1-1", "yes")
    out, err = process.communicate(timeout=20)
    assert out == "yes\n" and "• mind the gap" in err and "looopctl told" in err
