"""A question is asked once, answered once, and its answer reaches whoever asked or nobody."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from looop import mailbox, store, tells
from looop.clock import Stamp, boot_id
from looop.ctl import main
from looop.errors import Refused, StateError, Unavailable, UsageError
from looop.mailbox import Answer, Ask
from looop.paths import Paths
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit
from looop.watch import Watcher

NOW = 1000.0
TREE = Path(__file__).parents[2]


def holder(worker: str, invocation: str = "1" * 32) -> Holder:
    return Holder(worker_unit(worker), "user", invocation, boot_id())


def stamp(wall: float = NOW) -> Stamp:
    return Stamp(wall, boot_id(), wall)


def live(who: Holder) -> bool:
    return True


def dead(who: Holder) -> bool:
    return False


def unknown(who: Holder) -> bool:
    raise Unavailable("cannot reach systemd: no bus")


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    seen: list[str] = []
    monkeypatch.setattr(mailbox, "_tell", lambda event, ask, said: seen.append(f"{event} {ask.id}"))
    monkeypatch.setattr(tells, "_emit", lambda event, message: seen.append(f"{event} {message.id}"))
    yield seen


def ask(paths: Paths, worker: str = "w", prompt: str = "Deploy?", now: float = NOW, who: Holder | None = None) -> Ask:
    return mailbox.raise_ask(paths, worker, prompt, now, holder=who)


# -- asks


def test_an_ask_is_recorded_with_who_asked(paths: Paths, events: list[str]) -> None:
    made = mailbox.raise_ask(
        paths, "w", "Deploy?\nreally?", NOW, reference="http://x", options=("yes, now", "no"), holder=holder("w")
    )
    assert json.loads((paths.asks / "w-1.json").read_text()) == {
        "v": 1, "id": "w-1", "worker": "w", "prompt": "Deploy?\nreally?", "reference": "http://x",
        "options": ["yes, now", "no"], "ts": NOW, **holder("w").to_json(),
    }  # fmt: skip
    assert mailbox.pending(paths) == [made] and made.options == ("yes, now", "no")
    assert events == ["ask_raised w-1"]


def test_numbers_count_up_and_are_never_used_again(paths: Paths) -> None:
    assert [ask(paths, prompt=str(n)).id for n in range(3)] == ["w-1", "w-2", "w-3"]
    assert mailbox.withdraw(paths, "w-3") is None
    assert ask(paths).id == "w-4"
    mailbox.answer(paths, "w-4", "yes", NOW)
    (paths.asks / "w-4.json").unlink()
    assert ask(paths).id == "w-5"
    mailbox.answer(paths, "w-5", "yes", NOW)
    assert mailbox.prune(paths, 10, NOW + 11) == ["w-4", "w-5"]
    assert ask(paths).id == "w-6"
    assert ask(paths, "w-6").id == "w-6-1"
    assert ask(paths).id == "w-7"


def test_older_asks_come_first_and_2_before_10(paths: Paths) -> None:
    for n in range(11):
        ask(paths, prompt=str(n))
    ask(paths, "early", now=NOW - 1)
    assert [a.id for a in mailbox.pending(paths)] == ["early-1"] + [f"w-{n}" for n in range(1, 12)]


def test_a_killed_ask_is_taken_up_again_by_the_same_question(paths: Paths) -> None:
    first = ask(paths, who=holder("w"))
    assert ask(paths, who=holder("w"), now=NOW + 60) == first
    assert ask(paths, who=holder("w"), prompt="Other?").id == "w-2"
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert ask(paths, who=holder("w")) == first  # answered, but nobody was there to read it
    mailbox.deliver(paths, "w-1")
    assert ask(paths, who=holder("w")).id == "w-3"


def test_the_next_generation_asks_anew(paths: Paths) -> None:
    ask(paths, who=holder("w"))
    mailbox.answer(paths, "w-1", "yes", NOW)
    again = ask(paths, who=holder("w", "2" * 32))
    assert again.id == "w-2" and mailbox.read_answer(paths, again.id) is None


@pytest.mark.parametrize("prompt", ["", " \n", "a\0b", "\udcff"])
def test_a_prompt_without_text_is_refused(paths: Paths, prompt: str) -> None:
    with pytest.raises(UsageError):
        ask(paths, prompt=prompt)
    assert mailbox.pending(paths) == []


@pytest.mark.parametrize("ask_id", [
    "", "w", "w-", "-1", "w-x", "../x-1", "w-1/..", "w-²", ".w-1", "w\n-1", "x" * 300 + "-1",
])  # fmt: skip
def test_a_bad_ask_id_is_refused(paths: Paths, ask_id: str) -> None:
    with pytest.raises(UsageError):
        mailbox.answer(paths, ask_id, "yes", NOW)
    with pytest.raises(UsageError):
        mailbox.read(paths, ask_id)


def test_the_longest_worker_name_can_ask(paths: Paths) -> None:
    worker = "x" * 64
    made = ask(paths, worker)
    mailbox.answer(paths, made.id, "yes", NOW)
    assert mailbox.read_answer(paths, made.id) == Answer("yes", NOW)


def test_an_unreadable_ask_is_shown_and_hides_nothing(paths: Paths) -> None:
    ask(paths)
    ask(paths, "x")
    (paths.asks / "w-1.json").write_text("{")
    (paths.asks / "y-1.json").mkdir()
    (paths.asks / "z-1.json").symlink_to(paths.asks / "x-1.json")
    found = {a.id: bool(a.broken) for a in mailbox.pending(paths)}
    assert found == {"w-1": True, "x-1": False, "y-1": True, "z-1": True}
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert "w-1" not in {a.id for a in mailbox.pending(paths)}


def test_what_is_not_an_ask_is_left_alone(paths: Paths) -> None:
    (paths.asks / "notes.json").write_text("{}")
    (paths.asks / ".hidden-1.json").write_text("{}")
    assert mailbox.pending(paths) == []


def test_an_old_record_is_read(paths: Paths) -> None:
    (paths.asks / "w-1.json").write_text('{"id":"w-1","worker":"w","prompt":"?","ts":12,"detach":true,"v":2}')
    assert mailbox.pending(paths) == [Ask("w-1", "w", "?", ts=12.0)]


# -- answers


def test_the_first_answer_wins_unless_forced(paths: Paths, events: list[str]) -> None:
    ask(paths)
    mailbox.answer(paths, "w-1", "yes", NOW)
    with pytest.raises(Refused, match="already answered.*--force"):
        mailbox.answer(paths, "w-1", "no", NOW)
    assert mailbox.read_answer(paths, "w-1") == Answer("yes", NOW)
    mailbox.answer(paths, "w-1", "no", NOW, force=True)
    assert mailbox.read_answer(paths, "w-1") == Answer("no", NOW)
    assert mailbox.pending(paths) == []
    assert events.count("ask_answered w-1") == 2


def test_only_what_was_asked_can_be_answered(paths: Paths) -> None:
    with pytest.raises(Refused, match="no such ask"):
        mailbox.answer(paths, "w-1", "yes", NOW, force=True)
    assert store.names(paths.answers, ".json") == []


def test_a_corrupt_answer_keeps_the_ask_open_and_force_mends_it(paths: Paths) -> None:
    ask(paths)
    (paths.answers / "w-1.json").write_text('{"answer": 7}')
    assert [a.id for a in mailbox.pending(paths)] == ["w-1"]
    with pytest.raises(StateError, match="--force w-1"):
        mailbox.read_answer(paths, "w-1")
    assert mailbox.prune(paths, 0, NOW) == []
    mailbox.answer(paths, "w-1", "yes", NOW, force=True)
    assert mailbox.pending(paths) == []


def test_an_ask_is_answered_or_withdrawn_never_both(paths: Paths) -> None:
    ask(paths)
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert mailbox.withdraw(paths, "w-1") == Answer("yes", NOW)
    ask(paths, prompt="Again?")
    assert mailbox.withdraw(paths, "w-2") is None
    with pytest.raises(Refused):
        mailbox.answer(paths, "w-2", "yes", NOW)


def test_pruning_never_opens_an_answered_ask_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(paths)
    ask(paths, prompt="Open?")
    mailbox.answer(paths, "w-1", "yes", NOW)
    assert mailbox.prune(paths, 10, NOW + 5) == []
    removed: list[str] = []

    def stop_after_one(path: Path) -> bool:
        if removed:
            raise StateError("cannot remove: interrupted")
        removed.append(path.parent.name)
        path.unlink()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(store, "remove", stop_after_one)
        with pytest.raises(StateError):
            mailbox.prune(paths, 10, NOW + 11)
    assert [a.id for a in mailbox.pending(paths)] == ["w-2"]
    assert mailbox.prune(paths, 10, NOW + 11) == ["w-1"]
    assert store.names(paths.answers, ".json") == []


# -- who waits


def test_state(paths: Paths) -> None:
    asked = ask(paths, who=holder("w"))
    assert [mailbox.state(asked, j) for j in (live, dead, unknown)] == ["live", "stranded", "unknown"]
    assert mailbox.state(ask(paths, prompt="By hand?"), live) == "unknown"


def test_only_asks_of_the_present_generation_make_a_worker_wait(paths: Paths) -> None:
    now = holder("w", "2" * 32)
    ask(paths, who=holder("w", "1" * 32))
    assert mailbox.waiting(paths, lambda who: who == now, NOW + 9) == {}
    ask(paths, who=now, now=NOW + 2)
    ask(paths, who=now, now=NOW + 4, prompt="More?")
    ask(paths, "x", who=holder("terminal"))
    ask(paths, "y")
    assert mailbox.waiting(paths, lambda who: who == now, NOW + 9) == {"w": 7.0}
    with pytest.raises(Unavailable):
        mailbox.waiting(paths, unknown, NOW)
    mailbox.answer(paths, "w-2", "yes", NOW)
    assert mailbox.waiting(paths, lambda who: who == now, NOW + 9) == {"w": 5.0}


# -- tells


def test_a_message_reaches_its_generation_once(paths: Paths, events: list[str]) -> None:
    sent = [tells.send(paths, "w", holder("w").invocation, f"m{n}", stamp()) for n in range(11)]
    assert events[0] == "tell_queued w-1"
    with tells.told(paths, "w", holder("w"), NOW) as messages:
        assert messages == sent  # oldest first, w-2 before w-10
    with tells.told(paths, "w", holder("w"), NOW) as messages:
        assert messages == []
    assert tells.send(paths, "w", "1" * 32, "next", stamp()).id == "w-12"
    assert json.loads((paths.tells / "consumed/w-1.json").read_text())["consumed"] == {"reason": "read", "ts": NOW}


def test_a_reader_that_dies_while_printing_loses_nothing(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "hello", stamp())
    with pytest.raises(BrokenPipeError), tells.told(paths, "w", holder("w"), NOW):
        raise BrokenPipeError
    with tells.told(paths, "w", holder("w"), NOW) as messages:
        assert [m.text for m in messages] == ["hello"]


def test_messages_of_a_dead_generation_are_dropped_with_the_reason(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "old", stamp())
    tells.send(paths, "x", "1" * 32, "other", stamp())
    with tells.told(paths, "w", holder("w", "2" * 32), NOW) as messages:
        assert messages == []
    assert json.loads((paths.tells / "consumed/w-1.json").read_text())["consumed"]["reason"] == "stale"
    assert tells.drop_stale(paths, unknown, NOW) == []
    assert tells.drop_stale(paths, live, NOW) == []
    assert [m.id for m in tells.drop_stale(paths, dead, NOW)] == ["x-1"]


def test_a_message_needs_a_living_worker_and_a_text(paths: Paths) -> None:
    with pytest.raises(Refused, match="no worker of that id lives"):
        tells.send(paths, "w", None, "hello", stamp())
    for text in ("", " ", "\0", "\udcff"):
        with pytest.raises(UsageError):
            tells.send(paths, "w", "1" * 32, text, stamp())
    with pytest.raises(UsageError):
        tells.send(paths, "../w", "1" * 32, "hello", stamp())
    assert store.names(paths.tells, ".json") == []


def test_an_unreadable_message_stays_and_is_named(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "hello", stamp())
    (paths.tells / "w-2.json").write_text("[]")
    found, broken = tells.pending(paths, "w")
    assert [m.id for m in found] == ["w-1"] and "w-2.json" in broken[0]


def test_archived_messages_are_pruned_and_their_numbers_are_not_reused(paths: Paths) -> None:
    tells.send(paths, "w", "1" * 32, "hello", stamp())
    with tells.told(paths, "w", holder("w"), NOW):
        pass
    os.utime(paths.tells / "consumed/w-1.json", (NOW, NOW))
    assert tells.prune(paths, 10, NOW + 5) == []
    assert tells.prune(paths, 10, NOW + 11) == ["w-1"]
    assert tells.send(paths, "w", "1" * 32, "next", stamp()).id == "w-2"


# -- the verbs, without systemd


def asking(paths: Paths, *words: str) -> "subprocess.Popen[str]":
    """A blocked `looopctl ask`, once its question is there."""
    with Watcher(paths.asks) as watcher:
        process = subprocess.Popen(
            [sys.executable, "-m", "looop", "ask", *words], cwd=TREE, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "LOOOP_DATA_DIR": str(paths.data)},
        )  # fmt: skip
        while not mailbox.pending(paths):
            assert watcher.wait(20)
    return process


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_ask_prints_exactly_the_answer(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?", "--options", "yes,no", "--option", "a, b", "--ref", "r")
    assert mailbox.pending(paths)[0].options == ("a, b", "yes", "no")
    mailbox.answer(paths, "w-1", "ja, später\n  – bitte", NOW)
    code, out, _ = ended(process)
    assert (code, out) == (0, "ja, später\n  – bitte\n")
    found = mailbox.read(paths, "w-1")
    assert found and found.delivered


def test_ask_waits_through_a_corrupt_answer(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    store.write(paths.answers / "w-1.json", "{")
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert "answer --force w-1" in next(line for line in lines if "still waiting" in line)
    mailbox.answer(paths, "w-1", "yes", NOW, force=True)
    assert ended(process)[:2] == (0, "yes\n")


def test_ask_whose_question_is_taken_away_fails(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    (paths.asks / "w-1.json").unlink()
    code, out, err = ended(process)
    assert (code, out) == (1, "") and "withdrawn" in err


def test_ask_with_a_timeout_withdraws_the_question(paths: Paths) -> None:
    code, out, err = ended(asking(paths, "w", "--prompt", "Deploy?", "--timeout", "0.2"))
    assert (code, out) == (124, "") and "w-1" in err
    assert mailbox.pending(paths) == []


def test_a_killed_ask_leaves_the_question(paths: Paths) -> None:
    process = asking(paths, "w", "--prompt", "Deploy?")
    process.kill()
    ended(process)
    assert [a.id for a in mailbox.pending(paths)] == ["w-1"]


@pytest.mark.parametrize("words", [
    ["ask", "--prompt", "?"],
    ["ask", "w"],
    ["ask", "w", "--prompt", " "],
    ["ask", "a/b", "--prompt", "?"],
    ["ask", "w", "--prompt", "?", "--timeout", "-1"],
    ["ask", "w", "--prompt", "?", "--timeout", "soon"],
    ["ask", "w", "--prompt", "?", "--timeout", "nan"],
    ["answer"],
    ["answer", "w-1", ""],
    ["answer", "../w-1", "yes"],
    ["told"],
    ["told", ".."],
    ["tell"],
])  # fmt: skip
def test_misuse_is_exit_64(words: list[str], paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    monkeypatch.delenv("LOOOP_SESSION_ID", raising=False)
    assert main(words) == 64
    assert mailbox.pending(paths) == []


def test_asks_shows_a_question_without_its_control_characters(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    mailbox.raise_ask(paths, "w", "\x1b[2JDeploy?\nNow?\x07", NOW, reference="r\x1b", options=("a\nb", "c"))
    assert main(["asks"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "w-1" in out and "[2JDeploy?" in out and "\n    Now?" in out and "options: a | c" in out
    assert main(["asks", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["id"], row["state"], row["options"], row["reference"]) == ("w-1", "unknown", ["a\nb", "c"], "r\x1b")


def test_answer_by_words_by_stdin_and_with_a_dash(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    said: list[tuple[list[str], str]] = [
        (["yes", "-", "please"], ""), (["--", "-v", "--x"], ""), (["-"], "from stdin\n\n"), ([], "too\n"),
    ]  # fmt: skip
    for n, (words, stdin) in enumerate(said, 1):
        ask(paths, prompt=str(n))
        read, write = os.pipe()
        os.write(write, stdin.encode())
        os.close(write)
        with open(read) as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            assert main(["answer", f"w-{n}", *words]) == 0
    answers = [mailbox.read_answer(paths, f"w-{n}") for n in range(1, 5)]
    assert [a.text for a in answers if a] == ["yes - please", "-v --x", "from stdin", "too"]
    assert capsys.readouterr().out.splitlines()[0] == "w-1: yes - please"
    assert main(["answer", "w-1", "no"]) == 1
    assert main(["answer", "w-99", "no"]) == 1
