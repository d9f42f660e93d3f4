"""rules.toml: conditions over world.json in JMESPath, and the move each one leads to. The first match decides.

Pure. A rule fires once per occurrence; which ones have fired is a ledger that the beat keeps. A rule that fails
while it is evaluated is named and passed over. Values put into shell text are quoted, and rules.toml is refused
where quoting could not hold.
"""

import hashlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jmespath
from jmespath import exceptions, functions

from looop import actions
from looop.actions import Decision, DecisionError
from looop.clock import Stamp
from looop.errors import LooopError
from looop.jsonutil import canonical, get_object, get_str

KEEP = 1000
KEY_CHARS = 200
_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_SHELL_FIELDS = {"run_shell": {"cmd"}, "start_worker": {"command", "verify"}, "write_sensor": {"script"}}
_KEYS = {"name", "when", "each", "once_per", "again_after_s", "move", "journal"}
_LATER = "prompt_file"  # {{prompt_file}} in a worker's command is filled in when the worker starts
# a slice step of 0 and the like escape jmespath as Python's own errors
_EVALUATION_ERRORS = (
    exceptions.JMESPathError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError
)  # fmt: skip


class RuleError(LooopError):
    """rules.toml cannot be used; `faults` holds one line for every rule and key that is wrong."""

    name = "bad-rules"

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        super().__init__(f"cannot use {source}: " + "; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Rule:
    """One [[rule]], its expressions known to parse."""

    name: str
    when: str
    move: Mapping[str, Any]
    each: str = ""
    once_per: str = ""
    again_after_s: int = 0
    journal: str = ""


@dataclass(frozen=True)
class Firing:
    """When a rule fired for an occurrence, and the run that carried its move."""

    at: Stamp
    run: str


@dataclass(frozen=True)
class Fired:
    """The ledger: rule -> occurrence key -> firing."""

    entries: Mapping[str, Mapping[str, Firing]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            rule: {key: {"at": f.at.to_json(), "run": f.run} for key, f in keys.items()}
            for rule, keys in self.entries.items()
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> "Fired":
        """Raises JsonError naming the bad attribute."""
        return cls({rule: _firings(get_object(obj, rule)) for rule in obj})


def _firings(obj: dict[str, Any]) -> dict[str, Firing]:
    rows = {key: get_object(obj, key) for key in obj}
    return {key: Firing(Stamp.from_json(get_object(row, "at")), get_str(row, "run")) for key, row in rows.items()}


@dataclass(frozen=True)
class Match:
    """The rule that decides, the occurrence it decides on, and what it decides."""

    rule: str
    key: str
    decision: Decision
    again_after_s: int = 0


@dataclass(frozen=True)
class Evaluation:
    """One pass over the rules. `more`: another match waits for the next beat. `fired`: the ledger, re-armed."""

    match: Match | None
    problems: tuple[str, ...]
    fired: Fired
    more: bool


# -- ledger


def add(fired: Fired, rule: str, key: str, run: str, now: Stamp) -> Fired:
    """Note that `rule` fired; past KEEP entries the oldest are forgotten."""
    entries = {name: dict(keys) for name, keys in fired.entries.items()}
    keys = entries.setdefault(rule, {})
    keys[key] = Firing(now, run)
    return _pruned(entries)


def _pruned(entries: Mapping[str, Mapping[str, Firing]]) -> Fired:
    flat = [(firing.at.wall, rule, key) for rule, keys in entries.items() for key, firing in keys.items()]
    dropped = {(rule, key) for _, rule, key in sorted(flat)[: max(0, len(flat) - KEEP)]}
    return _without(entries, dropped)


def _without(entries: Mapping[str, Mapping[str, Firing]], dropped: set[tuple[str, str]]) -> Fired:
    left = {
        rule: {key: firing for key, firing in keys.items() if (rule, key) not in dropped}
        for rule, keys in entries.items()
    }
    return Fired({rule: keys for rule, keys in left.items() if keys})


def release(fired: Fired, run: str) -> Fired:
    """Let what fired in `run` fire again, because its move failed."""
    dropped = {(rule, key) for rule, keys in fired.entries.items() for key, f in keys.items() if f.run == run}
    return _without(fired.entries, dropped)


# -- expressions


def slug(text: str) -> str:
    """`text` as part of a name: at most 40 characters, and different for different texts."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip(".-")
    if safe == text and len(text) <= 40:
        return text
    return f"{safe[:31].rstrip('.-')}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}".lstrip("-")


class _Functions(functions.Functions):
    """JMESPath's functions, with slug(string) and quote(string)."""

    @functions.signature({"types": ["string"]})
    def _func_slug(self, text: str) -> str:
        return slug(text)

    @functions.signature({"types": ["string"]})
    def _func_quote(self, text: str) -> str:
        return shlex.quote(text)


_OPTIONS = jmespath.Options(custom_functions=_Functions())


@cache
def _compiled(expression: str) -> Any:
    return jmespath.compile(expression)


def _value(expression: str, root: Mapping[str, Any]) -> Any:
    return _compiled(expression).search(root, options=_OPTIONS)


def _true(value: object) -> bool:
    """Truth as JMESPath has it: null, false and everything empty are false, 0 is true."""
    return not (value is None or value is False or value == "" or value == [] or value == {})


def _expression_fault(expression: str) -> str:
    try:
        tree = _compiled(expression).parsed
    except exceptions.ParseError as error:
        word = str(error).partition("\n")[0].removesuffix(":")
        return f"column {error.lex_position + 1}: {word}, in {expression!r}"
    except (exceptions.JMESPathError, RecursionError) as error:
        return f"column 1: {str(error) or 'nested too deeply'}, in {expression!r}"
    unknown = sorted(set(_calls(tree)) - set(_Functions.FUNCTION_TABLE))
    return f"column {expression.find(unknown[0]) + 1}: no function {unknown[0]}(), in {expression!r}" if unknown else ""


def _calls(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "function_expression":
            yield node["value"]
        for child in node.get("children", []):
            yield from _calls(child)


# -- templates


def _shell_fault(text: str) -> str:
    """Why a value put into this shell text could be more than one word of it; "" when it cannot."""
    spans = [match.span() for match in _PLACEHOLDER.finditer(text) if match[1].strip() != _LATER]
    if not spans:
        return ""
    state, position = "", 0
    while position < len(text):
        char = text[position]
        inside = next((end for start, end in spans if start == position), 0)
        if inside:
            if state:
                return f"{text[position:inside]} stands inside quotes: leave them out, the value is quoted for you"
            position = inside
            continue
        if char == "\\" and state != "'":
            position += 1
            if any(start == position for start, _ in spans):
                return "a placeholder follows a backslash"
        elif char in "'\"":
            state = "" if state == char else state or char
        elif char == "`" and state != "'":
            return "a text with placeholders cannot hold backquotes: use $(...)"
        elif not state and (char == "#" or text.startswith(("<<", "((", "$["), position)):
            return f"a text with placeholders cannot hold an unquoted {char if char == '#' else text[position:][:2]}"
        position += 1
    return ""


def _template_faults(rule: Mapping[str, Any]) -> Iterator[str]:
    move = rule.get("move", {})
    shell = _SHELL_FIELDS.get(str(move.get("action")), set())
    for key, text in [*move.items(), ("journal", rule.get("journal"))]:
        if not isinstance(text, str):
            continue
        where = key if key == "journal" else f"move.{key}"
        for match in _PLACEHOLDER.finditer(text):
            if match[1].strip() != _LATER and (fault := _expression_fault(match[1].strip())):
                yield f"{where}: {fault}"
        if key in shell and (fault := _shell_fault(text)):
            yield f"{where}: {fault}"


def _filled(text: str, root: Mapping[str, Any], shell: bool) -> str:
    def value(match: re.Match[str]) -> str:
        expression = match[1].strip()
        if expression == _LATER:
            return match[0]
        found = _value(expression, root)
        if found is None:
            raise ValueError(f"{{{{{expression}}}}} gave null")
        word = found if isinstance(found, str) else canonical(found)
        # a value must not bring a placeholder of its own: '{{' stays '{{' for the shell, but not for us
        return shlex.quote(word).replace("{{", "{''{") if shell else word

    return _PLACEHOLDER.sub(value, text)


def _decision(rule: Rule, root: Mapping[str, Any]) -> Decision:
    shell = _SHELL_FIELDS.get(str(rule.move.get("action")), set())
    filled = {k: _filled(v, root, k in shell) if isinstance(v, str) else v for k, v in rule.move.items()}
    decision = actions.from_json({**filled, "journal": _filled(rule.journal, root, False) if rule.journal else ""})
    said = decision.journal or f"{actions.summary(decision.move)} (rule {rule.name})"
    return replace(decision, journal=said)


# -- rules.toml


def parse(text: str, source: str = "rules.toml") -> tuple[Rule, ...]:
    """The rules in the order of the file. Raises RuleError naming every rule and key that is wrong."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(source, [str(error)]) from error
    tables = content.get("rule", [])
    faults = [f"unknown key {key!r}, expected only [[rule]]" for key in content if key != "rule"]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RuleError(source, [*faults, "rule: expected [[rule]] tables"])
    names = [table.get("name") for table in tables]
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        label = f"rule {name!r}" if isinstance(name, str) and name else f"rule {number}"
        faults += [f"{label}: {fault}" for fault in _rule_faults(table)]
        if name in names[: number - 1]:
            faults.append(f"{label}: name: another rule has it already")
    if faults:
        raise RuleError(source, faults)
    return tuple(_rule(table) for table in tables)


def _rule(table: Mapping[str, Any]) -> Rule:
    return Rule(**dict({"when": "`true`"}, **table))


def _rule_faults(table: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"unknown key {key!r}" for key in table if key not in _KEYS)
    for key in ("name", "when", "each", "once_per", "journal"):
        if key in table and (not isinstance(table[key], str) or not table[key].strip()):
            yield f"{key}: expected a filled string, got {table[key]!r}"
        elif key in ("when", "each", "once_per") and key in table and (fault := _expression_fault(table[key])):
            yield f"{key}: {fault}"
    again = table.get("again_after_s", 0)
    if not isinstance(again, int) or isinstance(again, bool) or again < 0:
        yield f"again_after_s: expected a whole number of seconds, got {again!r}"
    if "name" not in table:
        yield "name: missing"
    if "when" not in table and "each" not in table:
        yield "when: missing (or give each)"
    move = table.get("move")
    if not isinstance(move, dict):
        yield "move: missing" if move is None else f"move: expected a table, got {move!r}"
        return
    yield from _move_faults(move)
    yield from _template_faults(table)


def _move_faults(move: Mapping[str, Any]) -> Iterator[str]:
    """Check the move's form, with a stand-in that any field takes where a placeholder is."""
    kind = actions.MOVES.get(str(move.get("action")))
    if kind is not None:
        known = {"action", "next_interval_s", *actions.BRANCHES[kind.action]["properties"]} - {"journal", "cost_usd"}
        yield from (f"move.{key}: unknown key" for key in move if key not in known)
    try:
        actions.from_json({k: _PLACEHOLDER.sub("x", v) if isinstance(v, str) else v for k, v in move.items()})
    except DecisionError as error:
        yield f"move: {error.message.partition(': ')[2]}"


# -- evaluation


def evaluate(rules: Sequence[Rule], world: Mapping[str, Any], fired: Fired, now: Stamp) -> Evaluation:
    """The first rule with an occurrence that has not fired yet. Never raises for what rules or sensors hold."""
    found: list[Match] = []
    problems: list[str] = []
    seen: dict[str, set[str]] = {}
    for rule in rules:
        keys: set[str] = set()
        earlier = len(problems)
        for root, key in _occurrences(rule, world, problems):
            keys.add(key)
            if not _spent(rule, fired.entries.get(rule.name, {}).get(key), now):
                try:
                    found.append(Match(rule.name, key, _decision(rule, root), rule.again_after_s))
                except (*_EVALUATION_ERRORS, DecisionError) as error:
                    problems.append(f"rule {rule.name!r}: {_text(error)}")
        if len(problems) == earlier:
            seen[rule.name] = keys
    return Evaluation(found[0] if found else None, tuple(problems), _rearmed(rules, fired, seen), len(found) > 1)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _occurrences(
    rule: Rule, world: Mapping[str, Any], problems: list[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """What the rule matches now, each with its key; an item that cannot be judged does not hold up the others."""
    try:
        items = _items(rule, world)
    except _EVALUATION_ERRORS as error:
        problems.append(f"rule {rule.name!r}: {_text(error)}")
        return
    for item in items:
        root = {**world, "item": item}
        try:
            result = _value(rule.when, root)
            if _true(result):
                yield root, _key(_value(rule.once_per, root) if rule.once_per else item if rule.each else result)
        except _EVALUATION_ERRORS as error:
            problems.append(f"rule {rule.name!r}: {_text(error)}")


def _items(rule: Rule, world: Mapping[str, Any]) -> list[Any]:
    if not rule.each:
        return [None]
    items = _value(rule.each, world)
    if items is not None and not isinstance(items, list):
        raise ValueError(f"each: expected a list, got {canonical(items)[:80]}")
    return items or []


def _key(occurrence: Any) -> str:
    if occurrence is None:
        raise ValueError("once_per: gave null")
    text = occurrence if isinstance(occurrence, str) else canonical(occurrence)
    if len(text) <= KEY_CHARS:
        return text
    return f"{text[:KEY_CHARS]}...{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _spent(rule: Rule, firing: Firing | None, now: Stamp) -> bool:
    return firing is not None and not (rule.again_after_s and firing.at.age(now) >= rule.again_after_s)


def _rearmed(rules: Sequence[Rule], fired: Fired, seen: Mapping[str, set[str]]) -> Fired:
    """Without once_per an occurrence is the time during which `when` holds: it ends, and the rule may fire again."""
    dropped = {
        (rule.name, key)
        for rule in rules
        if not rule.once_per and rule.name in seen
        for key in fired.entries.get(rule.name, {})
        if key not in seen[rule.name]
    }
    return _without(fired.entries, dropped)
