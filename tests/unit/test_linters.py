"""Types, style, shell scripts and units are checked wherever the tools are; in CI they have to be."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "looop-mypy"


def need(found: object, tool: str) -> None:
    if not found and os.environ.get("CI") == "true":
        pytest.fail(f"{tool} is not installed")
    elif not found:
        pytest.skip(f"{tool} is not installed")


def check(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_mypy_strict() -> None:
    need(importlib.util.find_spec("mypy"), "mypy")
    check(sys.executable, "-m", "mypy", "--strict", "--cache-dir", CACHE, "looop", "tests", "bench")


def test_flake8() -> None:
    need(importlib.util.find_spec("flake8"), "flake8")
    check(sys.executable, "-m", "flake8", "looop", "tests", "bench")


def shell_scripts() -> list[Path]:
    """Every file of the project that begins like a shell script."""
    skipped = {".git", "__pycache__", ".mypy_cache", ".pytest_cache", "build"}
    files = (p for p in ROOT.rglob("*") if not skipped & set(p.relative_to(ROOT).parts) and p.is_file())
    begins = (b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash")
    return sorted(p for p in files if p.read_bytes().startswith(begins))


def test_shellcheck() -> None:
    need(shutil.which("shellcheck"), "shellcheck")
    scripts = shell_scripts()
    if not scripts:
        pytest.skip("there are no shell scripts")
    check("shellcheck", *scripts)


def test_units_are_valid(tmp_path: Path) -> None:
    need(shutil.which("systemd-analyze"), "systemd-analyze")
    units = sorted(p for p in (ROOT / "units" / "user").glob("*.*") if p.suffix != ".in")
    if not units:
        pytest.skip("there are no units")
    for unit in units:  # the installer fills in @WORDS@, and puts the programs there
        (tmp_path / unit.name).write_text(re.sub("@[A-Z]+@", "/usr/libexec/looop", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", *(tmp_path / unit.name for unit in units)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    wrong = [line for line in done.stdout.splitlines() if "looop" in line and "is not executable" not in line]
    assert not wrong, "\n".join(wrong)
