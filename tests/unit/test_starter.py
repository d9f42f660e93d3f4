"""The starter scripts, with stand-ins for systemctl and looopctl: a unit name is data; only the human's word acts."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from looop import seed

HOSTILE = r"a\x2db$(touch pwned);'\".service"

SYSTEMCTL = """#!/bin/bash
printf '%s\\n' "$*" >>"$CALLS"
unit=${!#}
case "$2" in
  list-units) cat "$FAILED" ;;
  show) [[ $* == *InvocationID* ]] && echo 0123abcd || echo exit-code ;;
  is-active) [[ -e $ACTIVE ]] && echo active || { echo failed; exit 3; } ;;
  restart) [[ -e $MENDED ]] && touch "$ACTIVE" ;;
  status) echo "status of $unit"; exit 3 ;;
esac
"""
LOOOPCTL = """#!/bin/bash
printf '%s\\n' "$*" >>"$CALLS"
printf '%s\\n' "$ANSWER"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", "#!/bin/sh\necho log"), ("looopctl", LOOOPCTL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "reports").mkdir()
    names = {name.upper(): str(tmp_path / name) for name in ("calls", "failed", "active", "mended")}
    return names | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "LOOOP_DATA_DIR": str(tmp_path), "LOOOP_REPORTS_DIR": str(tmp_path / "reports"),
        "LOOOP_SESSION_ID": "w", "LOOOP_BIN": str(tmp_path / "bin/looopctl"), "ANSWER": "leave",
    }  # fmt: skip


def run(script: str, env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    where = env["LOOOP_DATA_DIR"]
    return subprocess.run([seed.STARTER / script, *args], env=env, cwd=where, capture_output=True, text=True)


def failed_units(env: dict[str, str], *units: str) -> list[dict[str, str]]:
    Path(env["FAILED"]).write_text("".join(f"{unit} loaded failed failed What it is\n" for unit in units))
    done = run("sensors/failed-units.sh", env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["signal"]["failed"]
    assert isinstance(found, list)
    return found


def test_failed_units_are_listed_but_for_looops_own_and_the_ignored(env: dict[str, str]) -> None:
    (Path(env["LOOOP_REPORTS_DIR"]) / "ignored-units").write_text("b.service\n")
    found = failed_units(env, r"a\x2da.service", "b.service", "bb.service", "looop-sense.service", "looop.service")
    assert found == [
        {"unit": r"a\x2da.service", "invocation": "0123abcd"},
        {"unit": "bb.service", "invocation": "0123abcd"},
    ]


def test_no_failed_unit_is_an_empty_list_and_many_are_bounded(env: dict[str, str]) -> None:
    assert failed_units(env) == []
    assert len(failed_units(env, *(f"u{n}.service" for n in range(100)))) == 40


@pytest.mark.parametrize(
    ("answer", "mended", "code", "restarts", "ignored"),
    [
        ("restart", True, 0, 1, False),
        ("restart", False, 1, 1, False),
        ("leave", True, 0, 0, False),
        ("stop watching", True, 0, 0, True),
        ("restart it\nplease", True, 0, 0, False),
    ],
)
def test_repair_does_what_the_human_chose_and_nothing_else(
    env: dict[str, str], answer: str, mended: bool, code: int, restarts: int, ignored: bool
) -> None:
    if mended:
        Path(env["MENDED"]).touch()
    done = run("repair-unit", env | {"ANSWER": answer}, "x.service")
    assert done.returncode == code, done.stderr
    calls = Path(env["CALLS"]).read_text()
    assert calls.count("--user restart -- x.service") == restarts
    assert "--option restart --option leave --option stop watching" in calls
    assert (Path(env["LOOOP_REPORTS_DIR"]) / "ignored-units").exists() is ignored
    report = (Path(env["LOOOP_REPORTS_DIR"]) / "w.md").read_text()
    assert "status of x.service" in report and "choice: " in report
    verdict = run("verify-unit", env, "x.service").returncode
    assert verdict == (1 if answer == "restart" and not mended else 0)


def test_a_hostile_unit_name_is_never_run(env: dict[str, str]) -> None:
    Path(env["MENDED"]).touch()
    assert run("repair-unit", env | {"ANSWER": "restart"}, HOSTILE).returncode == 0
    assert run("verify-unit", env, HOSTILE).returncode == 0
    assert f"--user restart -- {HOSTILE}" in Path(env["CALLS"]).read_text()
    assert not (Path(env["LOOOP_DATA_DIR"]) / "pwned").exists()
