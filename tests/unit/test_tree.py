"""The shape of the tree: imports point down, the middle is pure, one module speaks D-Bus, files stay small."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "looop"

# a module or package may import the rows below its own; a file of a package its siblings too
ROWS = [
    "__main__",
    "ctl pulse",
    "tui",
    "beat",
    "housekeep holders",
    "execute recover verify why importing screens",
    "view sessions commit",
    "notifications",
    "sensors decide mailbox claims schedules tells nudges policy history probes seed environment audit notices sandbox",
    "runs upstream settings questions changes",
    "prompt rules sense_runner",
    "world actions guards denylist instants",
    "systemd store config watch",
    "clock paths",
    "jsonutil",
    "errors __init__",
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row.split()}
PURE = ("world", "actions", "guards", "denylist", "prompt", "rules")
IMPURE = {"os", "asyncio", "subprocess", "time", "pathlib", "socket", "select", "threading", "random"}
BUS = {"pystemd", "dbus", "dbus_fast", "dbus_next", "jeepney", "gi"}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in the file, as an absolute name, `from x import y` as x.y."""
    package = ["looop", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def modules(path: Path) -> set[str]:
    """The modules of ours that a file imports: "world", "systemd.bus"; "__init__" for looop itself."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "looop":
            known = [p for p in (".".join(parts[1:n]) for n in range(len(parts), 1, -1)) if is_module(p)]
            found.add(known[0] if known else "__init__")
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    top = name_of(path).split(".")[0]
    assert top in ROW, f"give {top} a row in ROWS"
    for other in (name.split(".")[0] for name in modules(path)):
        assert other == top and path.parent != PACKAGE or ROW[other] > ROW[top], f"{name_of(path)} imports {other}"


@pytest.mark.parametrize("name", PURE)
def test_the_middle_is_pure(name: str) -> None:
    found = {each.split(".")[0] for each in imports(PACKAGE / f"{name}.py")}
    assert not found & IMPURE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_one_module_speaks_d_bus(path: Path) -> None:
    found = {each.split(".")[0] for each in imports(path)}
    assert name_of(path) == "systemd.bus" or not found & BUS


def test_the_shim_is_standard_library_and_little_of_ours() -> None:
    for name in ("shim", "cgroup", "transcript", "wire"):
        path = PACKAGE / "sessions" / f"{name}.py"
        assert modules(path) <= {"sessions.cgroup", "sessions.transcript", "sessions.wire"}
        foreign = {each.split(".")[0] for each in imports(path)} - set(sys.stdlib_module_names) - {"looop"}
        assert foreign <= {"systemd"}, f"{name} imports {foreign}"
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("systemd" in ast.unparse(node) for node in top), "systemd.journal costs too much to always load"


def test_the_shim_package_costs_nothing_to_import() -> None:
    assert not (PACKAGE / "sessions" / "__init__.py").read_text().strip()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_has_a_docstring_and_fewer_than_500_lines(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 500
    assert not text.strip() or path.name == "__main__.py" or ast.get_docstring(ast.parse(text))
