"""The unit files: only known placeholders, and systemd has nothing to say about them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "units/user").iterdir())


def test_only_the_install_folder_is_filled_in() -> None:
    for unit in UNITS:
        assert set(re.findall(r"@[A-Z]+@", unit.read_text())) <= {"@LIBEXECDIR@"}, unit


def test_the_pulse_outlasts_its_longest_blocking_call() -> None:
    text = next(unit for unit in UNITS if unit.name == "looop.service").read_text()
    timeout = re.search(r"SYSTEMD_BUS_TIMEOUT=(\d+)", text)
    watchdog = re.search(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)
    assert timeout and watchdog and int(watchdog[1]) >= 3 * int(timeout[1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_accepts_every_unit_file(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program
    for name in ("looopd", "looop-sense", "looop-notify", "looop-desktop"):
        (tmp_path / name).symlink_to(program)
    folder = tmp_path / "units"
    folder.mkdir()
    for unit in UNITS:
        (folder / unit.name).write_text(unit.read_text().replace("@LIBEXECDIR@", str(tmp_path)))
    done = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", *sorted(map(str, folder.iterdir()))],
        capture_output=True, text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if str(folder) in line or "looop" in line]
    assert not said and done.returncode == 0, done.stderr
