"""The ground the other tests stand on: a booted machine, an ordinary lingering user, an installed looop."""

import os
from pathlib import Path

from looop import __version__
from tests.machine.harness import UNITS, Events, Journal, command, looopctl, processes, units


def test_systemd_runs_and_the_user_lingers() -> None:
    assert command("systemctl", "is-system-running", "--wait").stdout.strip() == "running"
    assert command("systemctl", "--user", "is-system-running", "--wait").stdout.strip() == "running"
    assert os.getuid() != 0
    assert Path(f"/var/lib/systemd/linger/{os.environ['USER']}").exists()


def test_the_installed_program_is_of_this_tree() -> None:
    assert looopctl("version").stdout == f"looop {__version__}\n"


def test_the_installed_program_ignores_the_callers_python(tmp_path: Path) -> None:
    (tmp_path / "looop.py").write_text("raise SystemExit('the wrong looop')")
    assert looopctl("version", env={"PYTHONPATH": str(tmp_path)}).stdout == f"looop {__version__}\n"


def test_installed_units_are_complete_and_valid() -> None:
    installed = sorted(path for path in UNITS.glob("looop*") if path.is_file())
    assert {path.name for path in installed} >= {"looop.service", "looop.socket", "looop-beat.timer"}
    assert not [path for path in installed if "@LIBEXECDIR@" in path.read_text()]
    said = command("systemd-analyze", "--user", "--man=no", "verify", *map(str, installed)).stderr
    assert not [line for line in said.splitlines() if "looop" in line]


def test_install_over_itself_and_uninstall_leave_no_trace(tmp_path: Path) -> None:
    nowhere = {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_CONFIG_HOME": "", "DBUS_SESSION_BUS_ADDRESS": ""}
    home = {"HOME": str(tmp_path), **nowhere}
    for _ in range(2):
        assert "no user manager" in command("packaging/install.sh", "install", env=home).stdout
    data = tmp_path / ".local/state/looop"
    data.mkdir(parents=True)
    assert command(str(tmp_path / ".local/bin/looopctl"), "version", env=home).stdout == f"looop {__version__}\n"
    assert str(data) in command("packaging/install.sh", "uninstall", env=home).stdout
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert data.is_dir()


def test_a_unit_that_starts_and_stops_is_noticed(events: Events) -> None:
    name = "probe-noticed.service"
    command("systemd-run", "--user", f"--unit={name}", "--quiet", "--no-block", "cat", "/proc/self/cgroup")
    events.wait_for(lambda: name not in units("probe-*"))


def test_a_line_in_the_journal_is_noticed(journal: Journal) -> None:
    command("systemd-cat", "--identifier=probe", "echo", "hello")
    assert journal.wait(SYSLOG_IDENTIFIER="probe")["MESSAGE"] == "hello"


def test_processes_of_this_user_are_seen() -> None:
    assert any("/init.scope" in line for line in processes().values())
