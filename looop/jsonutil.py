"""Typed access to JSON that came from outside: parse at the edge, then trust.

Every getter names the attribute and the value it refused. No I/O.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
JsonObject: TypeAlias = "dict[str, JsonValue]"


class JsonError(ValueError):
    """An attribute is missing or has the wrong type; the text names it."""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def as_object(value: object, what: str = "value") -> dict[str, Any]:
    """`value` as a JSON object, or JsonError naming `what`."""
    if not isinstance(value, dict):
        raise JsonError(f"{what}: expected an object, got {_shown(value)}")
    return value


def _get(obj: Mapping[str, Any], key: str, kind: type | tuple[type, ...], kind_name: str, default: Any) -> Any:
    if key not in obj or obj[key] is None:
        if default is _REQUIRED:
            raise JsonError(f"{key}: missing, expected {kind_name}")
        return default
    value = obj[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise JsonError(f"{key}: expected {kind_name}, got {_shown(value)}")
    return value


_REQUIRED: Any = object()


def get_str(obj: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> str:
    """A string; `default` stands in when the key is absent or null."""
    return str(_get(obj, key, str, "a string", default))


def get_opt_str(obj: Mapping[str, Any], key: str) -> str | None:
    """A string or None."""
    value = _get(obj, key, str, "a string", None)
    return None if value is None else str(value)


def get_int(obj: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> int:
    """A whole number."""
    return int(_get(obj, key, int, "a whole number", default))


def get_opt_int(obj: Mapping[str, Any], key: str) -> int | None:
    """A whole number or None."""
    value = _get(obj, key, int, "a whole number", None)
    return None if value is None else int(value)


def get_num(obj: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> float:
    """A finite number."""
    value = float(_get(obj, key, (int, float), "a number", default))
    if value != value or value in (float("inf"), float("-inf")):
        raise JsonError(f"{key}: expected a finite number, got {value}")
    return value


def get_bool(obj: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> bool:
    """True or false."""
    return bool(_get(obj, key, bool, "true or false", default))


def get_strs(obj: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> list[str]:
    """A list of strings."""
    value = _get(obj, key, list, "a list of strings", default)
    for item in value:
        if not isinstance(item, str):
            raise JsonError(f"{key}: expected a list of strings, got {_shown(item)} in it")
    return list(value)


def get_object(obj: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> dict[str, Any]:
    """A JSON object."""
    value = _get(obj, key, dict, "an object", default)
    return dict(value)


def canonical(value: object) -> str:
    """`value` in the one spelling that equal values share: sorted keys, no blanks, one line."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"the number {text[:40]} is too large")
    return value


def _constant(text: str) -> Any:
    raise JsonError(f"{text} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise JsonError(f"the key {_shown(key)} appears twice")
        found[key] = value
    return found


def loads(text: str, unique_keys: bool = True) -> Any:
    """Strict `json.loads`: no NaN, no overflow, no lone surrogate, no endless nesting. Raises JsonError only.

    Python's own parser takes all four (RFC 8259 leaves them open), and each breaks a later write or comparison.
    """
    hook = _unique if unique_keys else None
    try:
        value = json.loads(text, parse_float=_number, parse_constant=_constant, object_pairs_hook=hook)
        canonical(value).encode()
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise JsonError("half of a surrogate pair in a string") from error
    except RecursionError as error:
        raise JsonError("nested too deeply") from error
    except JsonError:
        raise
    except ValueError as error:  # int() refuses more than 4300 digits
        raise JsonError("a number has too many digits") from error
    return value
