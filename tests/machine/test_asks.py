"""Questions, answers and messages belong to one run of a worker's unit."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from looop.systemd.names import worker_of
from tests.machine.harness import (
    CONFIG, DATA, LOOOPCTL, Events, Journal, Pulse, cgroup_pids, looopctl, looopctl_json, systemctl, units, wipe,
)  # fmt: skip

WORKER = "looop-worker-w1.scope"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


def worker(script: str, *words: str, unit: str = WORKER) -> "subprocess.Popen[str]":
    """`script` in the scope of worker w1, or of another."""
    return subprocess.Popen(
        ["systemd-run", "--user", "--scope", "--quiet", f"--unit={unit}", "sh", "-c", script, *words],
        env={**os.environ, "LOOOP_SESSION_ID": worker_of(unit) or ""},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def states() -> dict[str, str]:
    return {row["id"]: row["state"] for row in looopctl_json("asks")}


def gone(events: Events) -> None:
    events.wait_for(lambda: WORKER not in units(WORKER))


def pending(events: Events, ask_id: str = "w1-1") -> None:
    events.wait_for(lambda: states().get(ask_id) == "pending", what=f"ask {ask_id}")


def process_of(verb: str) -> int:
    """The `looopctl VERB` that runs in the scope of worker w1."""
    [pid] = [pid for pid in cgroup_pids(WORKER) if f"{LOOOPCTL}\0{verb}" in cmdline(pid)]
    return pid


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def killed(process: "subprocess.Popen[str]", events: Events) -> None:
    systemctl("kill", "--signal=KILL", WORKER)
    process.communicate(timeout=20)
    gone(events)


# -- the two phases of an answer


def test_the_answer_and_nothing_else_arrives_on_stdout(events: Events, journal: Journal) -> None:
    process = worker(f'answer=$({LOOOPCTL} ask --prompt "Deploy?" --options yes,no); printf "<%s>" "$answer"')
    pending(events)
    assert looopctl("answer", "w1-1", "yes").stdout == "w1-1: yes\ndelivered\n"
    assert process.communicate(timeout=20)[0] == "<yes>"
    assert states() == {} and [row["state"] for row in looopctl_json("asks", "-a")] == ["delivered"]
    assert not list(DATA.glob("asks/[!.]*.json")) and not list(DATA.glob("answers/[!.]*.json"))
    journal.wait("ask_raised", LOOOP_ASK="w1-1", LOOOP_SESSION="w1")
    journal.wait("ask_answered", LOOOP_ASK="w1-1")
    journal.wait("ask_delivered", LOOOP_ASK="w1-1", LOOOP_SESSION="w1")


def test_an_answer_is_delivered_when_its_asker_has_it_and_not_before(events: Events) -> None:
    process = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    pending(events)
    asker = process_of("ask")
    os.kill(asker, signal.SIGSTOP)
    said = looopctl("answer", "w1-1", "yes")
    assert (said.stdout, said.stderr) == ("w1-1: yes\nrecorded; w1 has not read it yet\n", "")
    [row] = looopctl_json("asks")
    assert (row["state"], row["answer"], row["by"]) == ("answered", "yes", "human")
    assert [row["state"] for row in looopctl_json("state")["asks"]] == ["answered"]
    os.kill(asker, signal.SIGCONT)
    assert process.communicate(timeout=20)[0] == "yes\n"
    assert states() == {}
    late = looopctl("answer", "w1-1", "no", check=False)
    assert late.returncode == 1 and "already answered: 'yes', and w1 has read it" in late.stderr


def test_of_two_humans_one_wins_and_the_other_is_told_what_was_said(events: Events) -> None:
    process = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    pending(events)
    humans = [
        subprocess.Popen(
            [LOOOPCTL, "answer", "w1-1", f"human-{n}", "--json"], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) for n in range(8)
    ]  # fmt: skip
    said = [(*human.communicate(timeout=30), human.returncode) for human in humans]
    heard = process.communicate(timeout=20)[0].strip()
    [winner] = [json.loads(out) for out, _, code in said if code == 0]
    assert winner == {"id": "w1-1", "answer": heard, "state": "delivered"}
    refusals = [json.loads(err)["message"] for _, err, code in said if code == 1]
    assert len(refusals) == 7 and all(f"already answered: {heard!r}" in text for text in refusals), refusals


def test_two_processes_that_wait_on_one_ask_both_get_the_answer(events: Events) -> None:
    ask = f"{LOOOPCTL} ask --prompt Deploy?"
    process = worker(f"{ask} & {ask}; wait")
    events.wait_for(lambda: len([pid for pid in cgroup_pids(WORKER) if f"{LOOOPCTL}\0ask" in cmdline(pid)]) == 2)
    pending(events)
    looopctl("answer", "w1-1", "yes")
    assert process.communicate(timeout=20)[0] == "yes\nyes\n"
    assert [(row["id"], row["state"]) for row in looopctl_json("asks", "-a")] == [("w1-1", "delivered")]


def test_a_question_of_the_dead_is_stranded_and_its_answer_reaches_nobody(events: Events) -> None:
    first = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    pending(events)
    killed(first, events)
    assert states() == {"w1-1": "stranded"}
    second = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    events.wait_for(lambda: states() == {"w1-1": "stranded", "w1-2": "pending"})
    late = looopctl("answer", "w1-1", "for the dead")
    assert late.stdout == "w1-1: for the dead\nrecorded; w1 is gone\n"
    assert "nobody will act" in late.stderr and "--redispatch" in late.stderr
    assert [(row["state"], row["answer"]) for row in looopctl_json("asks")][0] == ("stranded", "for the dead")
    looopctl("answer", "w1-2", "for the living")
    assert second.communicate(timeout=20)[0] == "for the living\n"
    assert states() == {"w1-1": "stranded"}


def test_what_needs_no_answer_any_more_is_closed_unless_somebody_waits(events: Events) -> None:
    process = worker(f"{LOOOPCTL} ask --prompt Deploy?")
    pending(events)
    refused = looopctl("asks", "--close", "w1-1", check=False)
    assert refused.returncode == 1 and "waits for its answer" in refused.stderr
    killed(process, events)
    assert looopctl("asks", "--close", "w1-1").stdout == "w1-1: closed\n"
    assert states() == {} and [row["state"] for row in looopctl_json("asks", "-a")] == ["closed"]
    refused = looopctl("answer", "w1-1", "yes", check=False)
    assert refused.returncode == 1 and "it was closed" in refused.stderr


# -- redispatch


AGAIN = 'grep -q "started again" {{prompt_file}} || exec %s ask --prompt "Deploy to A?" --ref reports/a.md; '
AGAIN += "cp {{prompt_file}} reports/got.new; mv reports/got.new reports/got; exec sleep infinity"


def asking_worker(events: Events, *words: str) -> None:
    looopctl("worker", "start", "w1", "--command", AGAIN % LOOOPCTL, *words, "Put it online.")
    pending(events)


def end_worker(events: Events) -> None:
    systemctl("kill", "--signal=KILL", WORKER)
    gone(events)


def test_redispatch_starts_the_work_again_with_question_and_answer(events: Events, journal: Journal) -> None:
    asking_worker(events, "--limit", "stop_timeout=3", "--verify", "test -e reports/got")
    refused = looopctl("answer", "w1-1", "yes", "--redispatch", check=False)
    assert refused.returncode == 1 and "lives and waits for its answer" in refused.stderr
    assert states() == {"w1-1": "pending"}
    end_worker(events)
    assert "nobody will act" in looopctl("answer", "w1-1", "yes, on Monday").stderr

    again = looopctl("answer", "w1-1", "--redispatch")
    assert again.stdout == "w1-1: yes, on Monday\nw1 is started again with it\n"
    events.wait_for((DATA / "reports/got").exists)
    brief = (DATA / "reports/got").read_text()
    for text in ("Put it online.", "> Deploy to A?", "> yes, on Monday", "w1-1", "reports/a.md"):
        assert text in brief, text
    assert brief.count("# Worker contract") == 1
    meta = json.loads((DATA / "sessions/w1/meta.json").read_text())
    assert (meta["limits"], meta["stop_timeout"]) == ({"stop_timeout": "3"}, 3)
    assert meta["verify"] == "test -e reports/got"
    assert states() == {} and [row["state"] for row in looopctl_json("asks", "-a")] == ["redispatched"]
    journal.wait("ask_redispatched", LOOOP_ASK="w1-1", LOOOP_SESSION="w1")
    late = looopctl("answer", "w1-1", "--redispatch", check=False)
    assert late.returncode == 1 and "redispatched already" in late.stderr


def test_a_redispatch_that_cannot_be_loses_no_word(events: Events) -> None:
    asking_worker(events)
    end_worker(events)
    later = worker("sleep infinity")
    events.wait_for(lambda: units(WORKER, "active"))
    refused = looopctl("answer", "w1-1", "yes", "--redispatch", check=False)
    assert refused.returncode == 1 and "a later worker w1 lives" in refused.stderr and "tell w1" in refused.stderr
    killed(later, events)

    CONFIG.mkdir(parents=True, exist_ok=True)
    (CONFIG / "looop.toml").write_text("max_workers = 1\n")
    looopctl("worker", "start", "x", "--command", "sleep infinity", "wait")
    full = looopctl("answer", "w1-1", "yes", "--redispatch", check=False)
    assert full.returncode == 1 and "max_workers is 1" in full.stderr
    [row] = looopctl_json("asks")
    assert (row["state"], row["answer"]) == ("stranded", "yes")
    looopctl("kill", "x")

    shutil.rmtree(DATA / "sessions")
    (DATA / "prompts/w1.md").unlink()
    unknown = looopctl("answer", "w1-1", "--redispatch", check=False)
    assert unknown.returncode == 1 and "not kept any more" in unknown.stderr and "worker start w1" in unknown.stderr
    assert states() == {"w1-1": "stranded"}


# -- expiry


def test_an_expired_ask_goes_on_with_its_default(events: Events, journal: Journal) -> None:
    process = worker(f"{LOOOPCTL} ask --prompt Deploy? --expires 300ms --default 'not today' --json")
    out, err = process.communicate(timeout=20)
    told = {"id": "w1-1", "answer": "not today", "by": "default", "state": "delivered", "tells": []}
    assert json.loads(out) == told, err
    [row] = looopctl_json("asks", "-a")
    assert (row["state"], row["by"], row["answer"]) == ("delivered", "default", "not today")
    journal.wait("ask_expired", LOOOP_ASK="w1-1")
    assert "nobody answered w1-1 in time · it goes on with not today" in (DATA / "journal.md").read_text()
    assert not journal.find(LOOOP_EVENT="ask_answered")
    bad = looopctl("ask", "w1", "--prompt", "?", "--expires", "soon", "--default", "x", check=False)
    assert bad.returncode == 64 and "soon" in bad.stderr
    assert looopctl("ask", "w1", "--prompt", "?", "--expires", "1h", check=False).returncode == 64


def test_the_beat_gives_the_default_to_an_asker_that_hangs(pulse: Pulse, events: Events, journal: Journal) -> None:
    looopctl("init")
    process = worker(f"{LOOOPCTL} ask --prompt Deploy? --expires 2s --default no")
    pending(events)
    asker = process_of("ask")
    os.kill(asker, signal.SIGSTOP)
    stranded = worker(f"{LOOOPCTL} ask --prompt Deploy? --expires 1s --default no", unit="looop-worker-w2.scope")
    events.wait_for(lambda: states().get("w2-1") == "pending")
    systemctl("kill", "--signal=KILL", "looop-worker-w2.scope")
    stranded.communicate(timeout=20)
    pulse.start()
    looked = 0

    def expired() -> bool:
        nonlocal looked
        if len(journal.find(LOOOP_EVENT="sense_done")) > looked:  # a beat is over
            looked += 1
            looopctl("beat")
        return bool(journal.find(LOOOP_EVENT="ask_expired"))

    pulse.configure("beat_gap = 0\n")
    pulse.restart()
    events.wait_for(expired, timeout=30)
    assert states() == {"w1-1": "answered", "w2-1": "stranded"}
    os.kill(asker, signal.SIGCONT)
    assert process.communicate(timeout=20)[0] == "no\n"
    [row] = looopctl_json("asks")
    assert (row["id"], row["answer"]) == ("w2-1", None), "a dead asker's question stays the human's"


# -- asking again


def test_a_worker_that_lost_its_ask_gets_the_answer_when_it_asks_again(events: Events, gate: Path) -> None:
    ask = f"{LOOOPCTL} ask --prompt Deploy?"
    lost = gate.with_name("lost")
    os.mkfifo(lost)
    process = worker(f'{ask} & read -r _ <"$0"; kill -9 $!; wait; read -r _ <"$1"; {ask}', str(gate), str(lost))
    pending(events)
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


# -- tells


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
    pending(events)
    looopctl("tell", "w1", "mind the gap")
    looopctl("answer", "w1-1", "yes")
    out, err = process.communicate(timeout=20)
    assert out == "yes\n" and "• mind the gap" in err and "looopctl told" in err


def test_ask_json_brings_the_messages_and_marks_them_as_read(events: Events) -> None:
    process = worker(f"{LOOOPCTL} ask --prompt Deploy? --json")
    pending(events)
    looopctl("tell", "w1", "mind the gap")
    looopctl("tell", "w1", "and the step")
    looopctl("answer", "w1-1", "yes")
    document = json.loads(process.communicate(timeout=20)[0])
    assert (document["answer"], document["by"], document["state"]) == ("yes", "human", "delivered")
    assert [message["msg"] for message in document["tells"]] == ["mind the gap", "and the step"]
    read = [json.loads((DATA / f"tells/consumed/w1-{n}.json").read_text())["consumed"]["reason"] for n in (1, 2)]
    assert read == ["read", "read"] and not list(DATA.glob("tells/[!.]*.json"))


def test_a_worker_that_works_under_a_lease_is_told_as_well(events: Events) -> None:
    process = worker(f"{LOOOPCTL} claim repo -- {LOOOPCTL} ask --prompt Deploy? --json")
    pending(events)
    looopctl("tell", "w1", "mind the gap")
    looopctl("answer", "w1-1", "yes")
    document = json.loads(process.communicate(timeout=20)[0])
    assert [message["msg"] for message in document["tells"]] == ["mind the gap"]


def test_a_reader_killed_while_it_prints_loses_nothing_and_holds_up_nobody(events: Events, gate: Path) -> None:
    pipe = gate.with_name("pipe")
    os.mkfifo(pipe)
    process = worker(f'read -r _ <"$0"; {LOOOPCTL} told >"$1"; {LOOOPCTL} told', str(gate), str(pipe))
    events.wait_for(lambda: units(WORKER, "active"))
    long = "x" * 300_000  # more than a pipe holds (pipe(7))
    looopctl("tell", "w1", "-", input=long)
    looopctl("tell", "w1", "second")
    with open(gate, "w"):
        pass
    with open(pipe, "rb", buffering=0) as reader:
        assert reader.read(1)  # it prints, and cannot end while the pipe is full
        told = process_of("told")
        looopctl("tell", "w1", "third", timeout=5)
        assert not list(DATA.glob("tells/consumed/*.json"))
        os.kill(told, signal.SIGKILL)
    out, _ = process.communicate(timeout=20)
    assert out == f"• {long}\n• second\n• third\n"
    assert len(list(DATA.glob("tells/consumed/*.json"))) == 3 and not list(DATA.glob("tells/[!.]*.json"))


def test_a_message_that_races_with_death_reaches_its_generation_or_nobody(events: Events) -> None:
    accepted: list[str] = []
    for generation in range(6):
        process = worker(f"{LOOOPCTL} told --json; exec sleep infinity")
        assert process.stdout is not None
        events.wait_for(lambda: units(WORKER, "active"))
        assert process.stdout.readline() == "[]\n", f"generation {generation} was told what was said to an earlier one"
        senders = [
            subprocess.Popen(
                [LOOOPCTL, "tell", "w1", f"for {generation}", "--json"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            ) for _ in range(4)
        ]  # fmt: skip
        if generation % 2:
            assert senders[0].wait(20) == 0
        killed(process, events)
        for sender in senders:
            out, err = sender.communicate(timeout=20)
            assert sender.returncode == 0 or "no worker of that id lives" in err, err
            accepted += [json.loads(out)["id"]] if sender.returncode == 0 else []
    last = worker(f"{LOOOPCTL} told")
    assert last.communicate(timeout=20)[0] == ""
    records = DATA.glob("tells/consumed/[!.]*")
    reasons = {path.stem: json.loads(path.read_text())["consumed"]["reason"] for path in records}
    assert set(reasons) == set(accepted) and set(reasons.values()) <= {"stale"} and len(accepted) >= 3
