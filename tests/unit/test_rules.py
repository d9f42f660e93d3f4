"""Rules decide by the first match, once per occurrence, and put no value into a shell unquoted."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import looop
from looop import rules
from looop.actions import Notify, RunShell, StartWorker
from looop.clock import Stamp
from looop.paths import safe_name
from looop.rules import Evaluation, Fired, RuleError, evaluate, parse

STARTER = Path(looop.__file__).parent / "starter" / "rules.toml"
NOTIFY = 'move = { action = "notify", message = "%s" }'


def at(seconds: float) -> Stamp:
    return Stamp(1_700_000_000.0 + seconds, "b" * 32, seconds)


def rule(name: str = "r", message: str = "m", **keys: Any) -> str:
    lines = [f"[[rule]]\nname = {json.dumps(name)}\n", *(f"{key} = {json.dumps(v)}\n" for key, v in keys.items())]
    return "".join(lines) + NOTIFY % message + "\n"


def run(text: str, world: dict[str, Any], fired: Fired = Fired(), now: Stamp = at(0)) -> Evaluation:
    return evaluate(parse(text), world, fired, now)


def messages(text: str, world: dict[str, Any], rounds: int = 6) -> list[str]:
    """What fires beat after beat while the world stays as it is."""
    fired, found = Fired(), []
    for n in range(rounds):
        result = run(text, world, fired, at(n))
        assert result.problems == ()
        if result.match is None:
            break
        assert isinstance(result.match.decision.move, Notify)
        found.append(result.match.decision.move.message)
        fired = rules.add(result.fired, result.match.rule, result.match.key, f"run-{n}", at(n))
    return found


# -- matching


def test_the_first_match_in_file_order_decides() -> None:
    text = rule("a", "one", when="x") + rule("b", "two", when="`true`") + rule("c", "three", when="`true`")
    assert messages(text, {"x": []}) == ["two", "three"]
    assert messages(text, {"x": [1]}) == ["one", "two", "three"]
    assert run(text, {}).more is True and run(rule(when="`true`"), {}).more is False


@pytest.mark.parametrize(("value", "fires"), [(None, 0), (False, 0), ("", 0), ([], 0), ({}, 0), (0, 1), ("x", 1)])
def test_truth_is_jmespaths(value: object, fires: int) -> None:
    assert len(messages(rule(when="v"), {"v": value})) == fires


def test_each_fires_once_for_every_item_and_can_see_the_world() -> None:
    text = rule(message="{{item.n}} of {{total}}", each="list", when="item.ok")
    world = {"total": 3, "list": [{"n": 1, "ok": True}, {"n": 2, "ok": False}, {"n": 3, "ok": True}]}
    assert messages(text, world) == ["1 of 3", "3 of 3"]
    assert messages(rule(each="absent"), {}) == []


def test_without_once_per_a_rule_fires_again_after_its_condition_has_ended() -> None:
    text = rule(when="full")
    first = run(text, {"full": True})
    assert first.match is not None
    fired = rules.add(first.fired, "r", first.match.key, "run-1", at(0))
    held = run(text, {"full": True}, fired)
    assert held.match is None and held.fired == fired
    ended = run(text, {"full": False}, fired)
    assert ended.fired == Fired()
    assert run(text, {"full": True}, ended.fired).match is not None


def test_with_once_per_an_occurrence_is_remembered() -> None:
    text = rule(when="full", once_per="day")
    fired = rules.add(Fired(), "r", "mon", "run-1", at(0))
    assert run(text, {"full": False, "day": "mon"}, fired).fired == fired
    assert run(text, {"full": True, "day": "mon"}, fired).match is None
    assert run(text, {"full": True, "day": "tue"}, fired).match is not None


def test_again_after_s_fires_for_the_same_occurrence_again() -> None:
    text = rule(when="full", again_after_s=60)
    fired = rules.add(Fired(), "r", "true", "run-1", at(0))
    assert run(text, {"full": True}, fired, at(59)).match is None
    assert run(text, {"full": True}, fired, at(60)).match is not None


# -- the ledger


def test_a_released_run_lets_its_rule_fire_again() -> None:
    fired = rules.add(rules.add(Fired(), "r", "a", "run-1", at(0)), "r", "b", "run-2", at(1))
    assert list(rules.release(fired, "run-1").entries["r"]) == ["b"]
    assert rules.release(fired, "other") == fired


def test_the_ledger_survives_its_file_and_is_bounded() -> None:
    fired = Fired()
    for n in range(1005):
        fired = rules.add(fired, f"r{n % 7}", f"key-{n}", f"run-{n}", at(n))
    kept = [key for keys in fired.entries.values() for key in keys]
    assert len(kept) == 1000 and "key-4" not in kept and "key-5" in kept
    assert Fired.from_json(json.loads(json.dumps(fired.to_json()))) == fired


def test_a_long_key_stays_unique_and_short() -> None:
    one, two = (run(rule(each="l"), {"l": ["x" * 5000 + end]}).match for end in "ab")
    assert one is not None and two is not None and one.key != two.key and len(one.key) < 250


# -- what is wrong with a file


@pytest.mark.parametrize(("text", "said"), [
    ("rule = [\nx", "line 2, column 1"),
    ("x = 1", "unknown key 'x'"),
    ("rule = 1", "expected \\[\\[rule\\]\\] tables"),
    (rule(when="a.b["), "rule 'r': when: column 5: .*'a.b\\['"),
    (rule(when="a ? b"), "when: column 3: "),
    (rule(when="f(slog(x))"), "when: column 1: no function f\\(\\)"),
    (rule(when="length(a, b)", each="slog(x)"), "each: column 1: no function slog\\(\\)"),
    (rule(when="a", message="{{b..c}}"), "move.message: column 3: "),
    (rule(when=5), "when: expected a filled string, got 5"),
    (rule(), "rule 'r': when: missing"),
    (rule(when="a", wen="b"), "rule 'r': unknown key 'wen'"),
    (rule(when="a", again_after_s=-1), "again_after_s: expected a whole number"),
    (rule(when="a") + rule(when="b"), "rule 'r': name: another rule has it"),
    ("[[rule]]\nwhen = 'a'\n", "rule 1: name: missing; rule 1: move: missing"),
    ('[[rule]]\nname = "r"\nwhen = "a"\nmove = {action = "zap"}', "move: action: expected one of"),
    ('[[rule]]\nname = "r"\nwhen = "a"\nmove = {action = "start_worker", id = "x"}', "start_worker.prompt: missing"),
    ('[[rule]]\nname = "r"\nwhen = "a"\nmove = {action = "noop", resaon = "x"}', "move.resaon: unknown key"),
])  # fmt: skip
def test_a_broken_file_names_file_rule_key_and_column(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=f"cannot use my.toml: .*{said}"):
        parse(text, "my.toml")


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(RuleError) as error:
        parse(rule("a", when="[") + rule("b", when="]"))
    assert len(error.value.faults) == 2


@pytest.mark.parametrize(("text", "said"), [
    (rule(when="length(n)"), "'r': In function length"),
    (rule(when="`true`", message="{{absent}}"), "{{absent}} gave null"),
    (rule(each="n"), "each: expected a list, got 5"),
    (rule(when="`true`", once_per="absent"), "once_per: gave null"),
    (rule(when="l[::0]"), "'r': "),
    (rule(when="`true`", message="{{blank}}"), "notify.message: must not be blank"),
])  # fmt: skip
def test_a_rule_that_fails_is_named_and_the_next_one_decides(text: str, said: str) -> None:
    found = run(text + rule("next", when="`true`"), {"n": 5, "l": [1], "blank": " "})
    assert len(found.problems) == 1 and said in found.problems[0]
    assert found.match is not None and found.match.rule == "next"


def test_one_item_that_cannot_be_judged_does_not_hold_up_the_others() -> None:
    found = run(rule(message="{{item}}", each="l", when="length(item) > `0`"), {"l": [5, "good"]})
    assert found.match is not None and found.match.key == "good" and len(found.problems) == 1


def test_a_rule_that_cannot_be_judged_is_not_re_armed() -> None:
    fired = rules.add(Fired(), "r", "true", "run-1", at(0))
    assert run(rule(when="length(n) > `0`"), {"n": 5}, fired).fired == fired


# -- values in shell text


def shell_rule(cmd: str) -> str:
    return f"[[rule]]\nname = 'r'\neach = 'l'\nmove = {{action = 'run_shell', cmd = {json.dumps(cmd)}}}\n"


HOSTILE = [
    "a;rm -rf $HOME.service", "$(touch pwned)", "`touch pwned`", "a' ; touch pwned '", 'a" ; touch pwned "',
    "a\ntouch pwned", "-rf", "*", "~", "a b", "{{prompt_file}}", "#", "\\", "é",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("cmd", ["printf %s {{item}}", "x='a''b'; echo $(echo {{item}})", "printf %s\\\n {{item}}"])
def test_a_value_stays_one_word_in_the_shell(cmd: str, value: str, tmp_path: Path) -> None:
    found = run(shell_rule(cmd), {"l": [value]})
    assert found.match is not None and isinstance(found.match.decision.move, RunShell)
    command = found.match.decision.move.cmd
    if "$(" not in cmd:  # there the outer expansion splits words, as in any shell text
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, text=True)
        assert done.stdout == value
    else:
        subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cmd", [
    "echo '{{item}}'", 'echo "{{item}}"', 'echo "$(echo {{item}})"', "echo `echo {{item}}`", "cat <<E\n{{item}}\nE",
    "true # {{item}}", "echo \\{{item}}", "echo $(({{item}}))", "echo $'{{item}}'", "echo $[{{item}}]",
])  # fmt: skip
def test_a_place_where_quoting_cannot_hold_is_refused(cmd: str) -> None:
    with pytest.raises(RuleError, match="move.cmd: "):
        parse(shell_rule(cmd))


def test_shell_text_without_values_is_left_as_it_is() -> None:
    for cmd in ("echo \"`date`\" # x", "cat <<E\n$((1+1))\nE", "run '{{prompt_file}}'"):
        found = run(shell_rule(cmd), {"l": [1]})
        assert found.match is not None and found.match.decision.move == RunShell(cmd)


def test_every_shell_field_is_quoted_and_no_other() -> None:
    text = """[[rule]]\nname = 'r'\neach = 'l'\n[rule.move]\naction = 'start_worker'\nid = 'w-{{slug(item)}}'
prompt = 'fix {{item}}'\ncommand = 'agent {{prompt_file}} {{item}}'\nverify = 'test -e {{item}}'\n"""
    found = run(text, {"l": ["a b"]})
    assert found.match is not None and isinstance(found.match.decision.move, StartWorker)
    move = found.match.decision.move
    assert (move.prompt, move.command, move.verify) == ("fix a b", "agent {{prompt_file}} 'a b'", "test -e 'a b'")


@pytest.mark.parametrize("text", [*HOSTILE, "", "x" * 300, "a.service", "../..", "-", "a@1.service", "a\\x2db.service"])
def test_a_slug_fits_a_name(text: str) -> None:
    assert safe_name("a worker", "repair-" + rules.slug(text)) and len(rules.slug(text)) <= 40


def test_slugs_of_different_texts_differ() -> None:
    texts = [*HOSTILE, "a-b", "a b", "a/b", "x" * 41, "x" * 42, "-.mount", ".mount", "mount"]
    assert len({rules.slug(text) for text in texts}) == len(set(texts))
    assert rules.slug("demo.service") == "demo.service"


# -- the starter set


def starter_world(*units: str, alive: tuple[str, ...] = (), unknown: tuple[str, ...] = ()) -> dict[str, Any]:
    failed = [{"unit": unit, "invocation": f"{n:032x}"} for n, unit in enumerate(units)]
    return {
        "sensors": {"failed-units": {"signal": {"failed": failed}, "detail": None}},
        "sessions": [{"id": name, "alive": True} for name in alive] + [{"id": "repair-old", "alive": False}],
        "unknown": list(unknown),
    }


def starter(world: dict[str, Any], fired: Fired = Fired()) -> Evaluation:
    found = evaluate(parse(STARTER.read_text()), world, fired, at(0))
    assert found.problems == ()
    return found


def test_starter_repairs_each_failed_unit_once() -> None:
    world = starter_world("a.service", "b.service")
    first = starter(world)
    assert first.match is not None and first.more
    move = first.match.decision.move
    assert isinstance(move, StartWorker) and move.id == "repair-a.service"
    assert move.command == '"$LOOOP_STARTER/repair-unit" a.service'
    assert move.verify == '"$LOOOP_STARTER/verify-unit" a.service'
    assert "a.service" in first.match.decision.journal
    fired = rules.add(first.fired, first.match.rule, first.match.key, "run-1", at(0))
    second = starter(world, fired)
    assert second.match is not None and second.match.key == f"b.service {1:032x}"
    done = starter(world, rules.add(second.fired, second.match.rule, second.match.key, "run-2", at(1)))
    assert done.match is None


def test_starter_takes_a_new_failure_of_the_same_unit() -> None:
    fired = rules.add(Fired(), "repair-failed-unit", "a.service " + "f" * 32, "run-1", at(0))
    assert starter(starter_world("a.service"), fired).match is not None


def test_starter_waits_for_the_worker_that_is_at_it() -> None:
    assert starter(starter_world("a.service", alive=("repair-a.service",))).match is None
    assert starter(starter_world("a.service", alive=("repair-b.service",))).match is not None


def test_starter_does_nothing_while_the_fleet_is_unknown() -> None:
    assert starter(starter_world("a.service", unknown=("sessions",))).match is None


@pytest.mark.parametrize("blob", [None, {"error": True}, {"failed": []}, [], "x"])
def test_starter_does_nothing_without_a_failed_unit(blob: object) -> None:
    world = starter_world() | {"sensors": {"failed-units": {"signal": blob}}}
    assert starter(world).match is None
    assert starter(starter_world() | {"sensors": {}}).match is None


@pytest.mark.parametrize("unit", ["a;rm -rf $HOME.service", "app@$(id).service", "-.mount", "x" * 200 + ".service"])
def test_starter_keeps_hostile_unit_names_one_word(unit: str) -> None:
    found = starter(starter_world(unit))
    assert found.match is not None and isinstance(found.match.decision.move, StartWorker)
    move = found.match.decision.move
    assert shlex.split(move.command) == ["$LOOOP_STARTER/repair-unit", unit]
    assert shlex.split(move.verify) == ["$LOOOP_STARTER/verify-unit", unit]
    assert starter(starter_world(unit, alive=(move.id,))).match is None
