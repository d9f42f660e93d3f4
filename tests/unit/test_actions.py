"""A decision is taken exactly as the schema says, or refused with the field and every fault in it."""

import json
from typing import Any

import jsonschema
import pytest

from looop import actions
from looop.actions import Decision, DecisionError, Limits, Move, Noop, RunShell, StartWorker, WriteSchedule, parse

EVERY: list[Move] = [
    Noop(), Noop("waiting"), RunShell("ls", "look"), actions.WriteGoal("g", "body"), actions.ArchiveGoal("g"),
    actions.WriteSensor("s", "#!/bin/sh"), actions.WritePlaybook("p"), StartWorker("w", "do it"),
    StartWorker("w", "do it", "cmd", "true", Limits(1 << 30, 100, 60)), actions.KillWorker("w", "stuck"),
    WriteSchedule("s", in_s=5), WriteSchedule("s", every_s=60, note="n"), WriteSchedule("s", calendar="daily"),
    actions.DropSchedule("s"), actions.SendTell("w", "hello"), actions.Notify("hello"),
]  # fmt: skip


@pytest.mark.parametrize("move", EVERY, ids=actions.summary)
def test_every_move_survives_json_and_fits_the_published_schema(move: Move) -> None:
    data = actions.to_json(move)
    jsonschema.validate(data, actions.SCHEMA, jsonschema.Draft202012Validator)
    assert parse(json.dumps(data)) == Decision(move)
    assert actions.word(move) and actions.summary(move)


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(actions.SCHEMA)
    assert {type(move) for move in EVERY} == set(actions.MOVES.values())


def test_metadata_is_lifted_off() -> None:
    decision = parse('{"action": "noop", "journal": " why\\n", "next_interval_s": 30, "cost_usd": 0.5, "extra": [1]}')
    assert decision == Decision(Noop(), "why", 30, 0.5)


def test_null_is_an_absent_optional_everywhere() -> None:
    text = '{"action": "start_worker", "id": "w", "prompt": "p", "command": null, "verify": null, "limits": null}'
    assert parse(text) == Decision(StartWorker("w", "p"))
    assert parse('{"action": "noop", "reason": null, "journal": null, "next_interval_s": null}') == Decision(Noop())
    once = parse('{"action": "write_schedule", "name": "s", "in_s": 60.0, "every_s": null}')
    assert once.move == WriteSchedule("s", 60)


def test_a_markdown_fence_is_taken_off_once() -> None:
    assert parse('```json\n{"action": "noop"}\n```\n') == Decision(Noop())
    with pytest.raises(DecisionError, match="not JSON"):
        parse('```\n```\n{"action": "noop"}\n```\n```')


@pytest.mark.parametrize(("text", "said"), [
    ("", "not JSON: Expecting value at line 1 column 1"),
    ('{"action": "noop"} {}', "not JSON: Extra data at line 1 column 20"),
    ("[]", "expected one JSON object, got []"),
    ("{}", "action: missing, expected one of noop, run_shell"),
    ('{"action": "zap"}', 'action: expected one of noop, .*; got "zap"'),
    ('{"action": ["noop"]}', 'got \\["noop"\\]'),
    ('{"action": "noop", "a": 1, "a": 2}', "the key 'a' appears twice"),
    ('{"action": "noop", "a": NaN}', "NaN is not a JSON number"),
    ('{"action": "noop", "next_interval_s": 1e999}', "the number 1e999 is too large"),
    ('{"action": "noop", "next_interval_s": 1%s}' % ("0" * 5000), "too many digits"),
    ("[" * 100_000, "nested too deeply"),
    ('{"action": "noop", "reason": "\\ud800"}', "half of a surrogate pair"),
    ("x" * 1_000_001, "1000001 characters"),
    ('{"action": "start_worker", "id": "x"}', "start_worker.prompt: missing"),
    ('{"action": "start_worker", "prompt": 5}', "start_worker.id: missing; start_worker.prompt: expected a string"),
    ('{"action": "start_worker", "id": "x", "prompt": " "}', "start_worker.prompt: must not be blank"),
    ('{"action": "start_worker", "id": "x", "prompt": "p", "limits": {"memory_max": "X"}}', 'limits.memory_max: .*"X"'),
    ('{"action": "start_worker", "id": "x", "prompt": "p", "limits": {"tasks_max": 0}}', "limits.tasks_max: .*least 1"),
    ('{"action": "run_shell", "cmd": "a\\u0000b"}', "run_shell.cmd: holds a NUL character"),
    ('{"action": "write_schedule", "name": "s"}', "exactly one of in_s, every_s, calendar is needed, got none"),
    ('{"action": "write_schedule", "name": "s", "in_s": 9, "every_s": 60}', "got in_s and every_s"),
    ('{"action": "write_schedule", "name": "s", "every_s": 59}', "every_s: must be at least 60, got 59"),
    ('{"action": "write_schedule", "name": "s", "in_s": -1}', "in_s: must be at least 1, got -1"),
    ('{"action": "noop", "next_interval_s": "5"}', 'noop.next_interval_s: expected a whole number, got "5"'),
    ('{"action": "noop", "journal": 5}', "noop.journal: expected a string, got 5"),
])  # fmt: skip
def test_a_refusal_names_the_field_and_the_fault(text: str, said: str) -> None:
    with pytest.raises(DecisionError, match=said.replace("[]", r"\[\]")):
        parse(text)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-flag", "a b", "a\0", "a\n", "x" * 300, "é"])
@pytest.mark.parametrize(
    ("action", "key"), [("archive_goal", "id"), ("drop_schedule", "name"), ("send_tell", "worker")]
)
def test_names_that_could_leave_their_folder_are_refused(action: str, key: str, name: str) -> None:
    data: dict[str, Any] = {"action": action, key: name, "message": "m"}
    with pytest.raises(DecisionError, match=f"{action}.{key}: "):
        actions.from_json(data)


def test_a_summary_is_one_bounded_line() -> None:
    text = actions.summary(RunShell("a\nb\n" * 500))
    assert "\n" not in text and len(text) <= 240


def test_what_was_missed_is_caught_up_with_once_or_skipped() -> None:
    written = '{"action": "write_schedule", "name": "s", "calendar": "daily", "catch_up": %s}'
    for word, expected in (('"once"', "once"), ('"skip"', "skip"), ("null", "once")):
        move = parse(written % word).move
        assert isinstance(move, WriteSchedule) and move.catch_up == expected
    with pytest.raises(DecisionError, match="catch_up: expected once or skip, got \"twice\""):
        parse(written % '"twice"')
