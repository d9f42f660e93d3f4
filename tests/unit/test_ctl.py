"""The frame of looopctl: how words are read, what is printed where, and which code it exits with."""

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from looop import __version__, ctl, settings
from looop.config import SETTINGS, load
from looop.errors import LooopError, UsageError
from looop.paths import Paths


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Paths:
    """Verbs find their folders below tmp_path."""
    for name, folder in (("LOOOP_DATA_DIR", "data"), ("XDG_RUNTIME_DIR", "run"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.delenv("LOOOP_CONFIG", raising=False)
    return Paths.from_env()


@pytest.mark.parametrize("verb", ctl.VERBS)
def test_every_verb_has_a_module_and_a_help_text(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main([verb, "--help"]) == 0
    assert verb in capsys.readouterr().out


def test_without_a_verb_all_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb}" in out for verb in ctl.VERBS)


@pytest.mark.parametrize("words", [["fly"], ["goal", "write", "--bogus", "x"], ["beat", "now"], ["kill"]])
def test_wrong_usage_exits_64_and_prints_nothing_on_stdout(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(words) == 64
    shown = capsys.readouterr()
    assert shown.out == "" and "looopctl" in shown.err


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["g", "several", "words"], "several words"),
        (["g", "--journal", "J", "after", "a flag"], "after a flag"),
        (["g", "before", "--journal", "J"], "before"),
        (["g", "--", "-dash first"], "-dash first"),
        (["g", "a", "-", "b"], "a - b"),
    ],
)
def test_a_body_is_the_words_wherever_the_flags_stand(at_home: Paths, words: list[str], body: str) -> None:
    assert ctl.main(["goal", "write", *words]) == 0
    assert at_home.goal("g").read_text() == f"{body}\n"


@pytest.mark.parametrize("words", [["g"], ["g", "-"]])
def test_no_words_or_a_dash_reads_standard_input(
    at_home: Paths, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from\nstdin\n")))
    assert ctl.main(["goal", "write", *words]) == 0
    assert at_home.goal("g").read_text() == "from\nstdin\n"


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff", b"a\0b"])
def test_an_unusable_body_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert ctl.main(["goal", "write", "g"]) == 64
    assert "Traceback" not in capsys.readouterr().err


def test_errors_are_json_where_the_result_would_be(capsys: pytest.CaptureFixture[str]) -> None:
    ctl.report(UsageError("cannot x: y", hint="do z"), as_json=True)
    shown = json.loads(capsys.readouterr().err)
    assert shown == {"error": "usage", "message": "cannot x: y", "hint": "do z", "exit": 64}


@pytest.mark.parametrize("words", ["wait --json --bogus", "ask --json", "goal list --json x", "fly --json"])
def test_wrong_words_are_json_too(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(words.split()) == 64
    shown = json.loads(capsys.readouterr().err)
    assert (shown["error"], shown["exit"]) == ("usage", 64) and shown["hint"]


def test_behind_two_dashes_json_is_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["goal", "show", "--", "--json"]) == 64
    assert capsys.readouterr().err.startswith("looopctl: cannot use '--json'")


def test_a_verb_that_is_nearly_right_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["schedules"]) == 64
    assert capsys.readouterr().err == "looopctl: there is no verb 'schedules' (did you mean 'schedule'?)\n"
    assert ctl.main(["xyzzy"]) == 64
    assert "`looopctl --help` lists them" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["answer w1-1 yes", "answer w1-1 yes --json"])
def test_what_the_system_refuses_is_an_error_in_words(
    words: str, at_home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_home.data.write_text("a file")
    monkeypatch.setenv("LOOOP_DATA_DIR", str(at_home.data / "below"))
    assert ctl.main(words.split()) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "internal" not in shown and f"{at_home.data}/below" in shown


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("status", 0), ("goal write g -", 64)])
def test_a_closed_stream_is_an_empty_one(words: str, code: int, closed: str) -> None:
    line = f"exec {sys.executable} -m looop {words} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == code and "internal" not in done.stderr


# -- help


def parsers() -> list[argparse.ArgumentParser]:
    """Those of all verbs and their actions."""
    found = [ctl.make_parser(verb) for verb in ctl.VERBS]
    for parser in found:
        found += [b for a in parser._actions if isinstance(a, argparse._SubParsersAction) for b in a.choices.values()]
    return found


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: str(parser.prog))
def test_help_says_what_it_does_and_names_values_alike(parser: argparse.ArgumentParser) -> None:
    assert re.match(r"[A-Z].*\.\Z", parser.description or "", re.DOTALL)
    for action in parser._actions:
        assert action.help and not action.help.endswith(".")
        shown = action.metavar or ("" if action.option_strings else action.dest)
        assert shown == str(shown).upper() or action.choices


def test_errors_are_told_apart_by_name() -> None:
    kinds: list[type[LooopError]] = [LooopError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    names = [kind.name for kind in kinds]
    assert len(set(names)) == len(names)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["version"]) == 0
    assert capsys.readouterr().out == f"looop {__version__}\n"


def test_a_beat_without_a_pulse_is_refused_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["beat"]) == 1
    assert "systemctl --user start looop" in capsys.readouterr().err


# -- init


def test_init_keeps_other_settings_comments_and_a_backup(at_home: Paths) -> None:
    at_home.config.parent.mkdir(parents=True)
    at_home.config.write_text('# mine\nmax_workers = 3\ndecider_command = "old"\n')
    assert ctl.main(["init", "--decider", 'say "hi" \\ there', "--decider-cost", "0"]) == 0
    config = load(at_home, {})
    assert (config.max_workers, config.decider_command, config.decider_cost_usd) == (3, 'say "hi" \\ there', 0.0)
    assert "# mine" in at_home.config.read_text()
    [backup] = at_home.config.parent.glob("*.bak")
    assert "old" in backup.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["--runner", "command"],
        ["--runner", "rules", "--decider", "x"],
        ["--worker", "no placeholder"],
        ["--decider", "x", "--decider-cost", "much"],
    ],
)
def test_init_refuses_what_would_not_work_and_writes_nothing(at_home: Paths, words: list[str]) -> None:
    assert ctl.main(["init", *words]) == 64
    assert not at_home.config.exists()


@pytest.mark.parametrize("words", [[], ["--decider-cost", "0"], ["--worker", "w {{prompt_file}}"]])
def test_init_changes_only_what_it_is_told(at_home: Paths, words: list[str]) -> None:
    assert ctl.main(["init", "--decider", "mine"]) == 0
    assert ctl.main(["init", *words]) == 0
    assert load(at_home, {}).decider_command == "mine"
    assert ctl.main(["init", "--runner", "rules"]) == 0
    assert load(at_home, {}).decider_command == ""


def test_settings_are_shown_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["doctor", "--settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines[0].index("VALUE"), lines[0].index("WHAT")
    for line, setting in zip(lines[1:], SETTINGS, strict=True):
        value = tomllib.loads(f"x = {line[start[0]:start[1]]}")["x"]
        assert setting.parse(value) == setting.default


@pytest.mark.parametrize("text", ["plain", 'quo"te', "back\\slash", "new\nline", "\x1b[0m", "ünïcode"])
def test_any_text_survives_as_toml(text: str) -> None:
    assert tomllib.loads(f"x = {settings.toml_string(text)}") == {"x": text}


# -- events


@pytest.mark.parametrize("verb", ["events", "watch"])
@pytest.mark.parametrize("text", ["5x", "", "-5m", "infinity", "yesterday"])
def test_a_bad_duration_is_a_usage_error(verb: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main([verb, f"--since={text}"]) == 64
    assert "cannot use time span" in capsys.readouterr().err


def test_a_reader_that_leaves_early_ends_the_program_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "looop", "help"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_a_socket_whose_other_end_is_gone_is_an_error_and_no_death() -> None:
    code = (
        "import signal, sys; sys.argv[1:] = ['version']; from looop.ctl import main; main();"
        " print(signal.getsignal(signal.SIGPIPE).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "SIG_IGN"


def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "looop", "help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (75, b"looopctl: cannot write what was found: No space left on device\n")
