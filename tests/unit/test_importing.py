"""Importing a data directory of the portable looop: all of it is accounted for, and nothing here is lost."""

import fcntl
import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from looop import ctl, guards, history, importing, policy, runs, schedules, settings, store, upstream
from looop.clock import Stamp
from looop.config import Config, load
from looop.errors import StateError, UsageError
from looop.paths import Paths
from tests.unit.upstream import START, awkward, lay_out, put

NOW = Stamp(START + 86400.0, "b" * 32, 5000.0)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    """Verbs find the folders of `paths`."""
    for name in [name for name in os.environ if name.startswith("LOOOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    monkeypatch.setenv("LOOOP_CONFIG", str(paths.config))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(paths.runtime.parent))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "other")


def bring(capsys: pytest.CaptureFixture[str], other: Path, *words: str, code: int = 0) -> dict[str, Any]:
    assert ctl.main(["import", str(other), "--json", *words]) == code
    shown = capsys.readouterr()
    document = json.loads(shown.out if code == 0 else shown.err)
    assert isinstance(document, dict)
    return document


def reasons(document: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in document["not_used"]}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


def test_policy_and_memory_are_taken(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(other)
    document = bring(capsys, other)
    for name in ("PLAYBOOK.md", "goals/roof.md", "goals/garden.md", "sensors/today.sh", "sensors/rain.sh",
                 "goals/archive/fence.md", "goals/archive/fence-1.md", "playbook.d/20260714-081500-0001.md",
                 "reports/roof.md", "reports/pictures/tile 1.png"):  # fmt: skip
        assert (paths.data / name).read_bytes() == before[name], name
    assert paths.sensor("rain").stat().st_mode & 0o777 == 0o755
    assert paths.journal.read_bytes().startswith(before["journal.md.1"] + before["journal.md"])
    assert "imported" in paths.journal.read_text().splitlines()[-1]
    found = schedules.records(paths)
    assert not [record for record in found.values() if isinstance(record, str)] and set(found) == {"weekly", "once"}
    assert policy.activity(paths) == {"roof": json.loads(before[".goal-activity.json"])["roof"]}
    assert load(paths).decider_command == "agent --print < {{prompt_file}}"
    assert load(paths).worker_command == "agent --work {{prompt_file}}" and load(paths).session_ttl == 3600
    assert "goal roof" in document["taken"] and document["conflicts"] == [] and document["done"] is True
    assert tree(other) == before, "the other directory is only read"


def test_everything_is_accounted_for(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = bring(capsys, other)
    told = " ".join([*document["taken"], *document["same"], *reasons(document)])
    spoken = {
        "PLAYBOOK.md": "PLAYBOOK.md", "goals": "goal roof", "sensors": "sensor rain", "playbook.d": "playbook version",
        "schedules": "schedule weekly", "reports": "reports/roof.md", "journal.md.1": "journal.md",
        "asks": "asks/roof-1.json", "tells": "tells/roof-1.json", "config.json": "config.json: interval",
        ".goal-activity.json": "goal roof",
    }  # fmt: skip
    for name in os.listdir(other):
        assert spoken.get(name, name) in told, f"nobody speaks of {name}"
    why = reasons(document)
    assert "Tiles or slate?" in why["asks/roof-1.json"] and "Use the ladder." in why["tells/roof-1.json"]
    assert "asks/setup-1.json" not in why, "answered"
    assert why["claims/ (1)"] and why["sessions/ (1)"]


def test_open_questions_are_kept_in_a_report(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["import", str(other)]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{title}:" in f"\n{out}" for title in ("taken", "changed", "not used", "next"))
    [kept] = paths.reports.glob("import-*.md")
    assert "Tiles or slate?" in kept.read_text() and out in kept.read_text()


def test_a_dry_run_says_the_same_and_writes_nothing(
    paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(paths.data)
    dry = bring(capsys, other, "--dry-run")
    assert tree(paths.data) == before and not paths.config.exists() and dry["done"] is False
    done = bring(capsys, other)
    assert {**dry, "done": True} == done


def test_a_second_import_finds_everything_done(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = bring(capsys, other)
    before = tree(paths.data)
    second = bring(capsys, other)
    assert second["taken"] == [] and set(second["same"]) == set(first["taken"])
    assert tree(paths.data) == before


def test_an_interrupted_import_can_be_run_again(
    paths: Paths, other: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise StateError("cannot write: no space left on device")

    for step in ("write_all", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(store, step, full)
            assert "no space left" in bring(capsys, other, code=1)["message"]
    done = bring(capsys, other)
    assert not done["conflicts"] and paths.goal("roof").exists() and load(paths).session_ttl == 3600
    assert not list(paths.data.rglob("*-imported*")), "what the first tries had written is not taken twice"


def test_what_differs_is_refused_by_name_before_anything_is_written(
    paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_goal(paths, Config(), "roof", "My own roof.", NOW)
    put(paths.schedules / "once.json", {"v": 1, "at": 2**33})
    paths.config.parent.mkdir()
    paths.config.write_text('worker_command = "mine {{prompt_file}}"\n')
    before = tree(paths.data)
    refused = bring(capsys, other, code=1)
    conflicts = {"goal roof", "schedule once", "setting worker_command"}
    assert all(name in refused["message"] for name in conflicts)
    assert tree(paths.data) == before and paths.config.read_text() == 'worker_command = "mine {{prompt_file}}"\n'
    assert set(bring(capsys, other, "--dry-run")["conflicts"]) == conflicts


def test_force_takes_it_and_keeps_what_was_here(
    paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_goal(paths, Config(), "roof", "My own roof.", NOW)
    policy.write_playbook(paths, Config(), "My own orders.")
    paths.config.parent.mkdir()
    paths.config.write_text('worker_command = "mine {{prompt_file}}"\nmax_workers = 3\n')
    bring(capsys, other, "--force")
    assert "does not leak" in paths.goal("roof").read_text()
    assert history.find(paths, history.GOAL, "roof", "-1").text == "My own roof.\n"
    assert "My own orders.\n" in [version.text for version in history.versions(paths, history.PLAYBOOK, "")]
    assert load(paths).worker_command.startswith("agent") and load(paths).max_workers == 3
    [backup] = paths.config.parent.glob("looop.toml.*.bak")
    assert "mine" in backup.read_text()


def test_the_starter_playbook_is_nobodys_text(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from looop import seed

    seed.seed(paths)
    document = bring(capsys, other)
    assert paths.playbook.read_text().startswith("# Orders")
    assert [each["name"] for each in document["changed"]] == ["PLAYBOOK.md"]


def test_what_cannot_be_taken_is_named_with_its_reason(
    paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = awkward(other)
    found = reasons(bring(capsys, other))
    for name, word in expected.items():
        assert word in found[name], f"{name}: {found.get(name)}"
    assert set(store.names(paths.goals, ".md")) == {"roof", "garden"}
    assert set(schedules.records(paths)) == {"weekly", "once"}
    assert not any(path.is_symlink() or path.is_fifo() for path in paths.data.rglob("*"))


def test_what_has_no_history_is_put_beside(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (paths.reports / "roof.md").write_text("My own report.\n")
    (paths.archive / "fence.md").write_text("My own fence.\n")
    store.append_line(paths.journal, "- 2026-07-20 10:00 my own line")
    for _ in range(2):
        bring(capsys, other)
        assert (paths.reports / "roof.md").read_text() == "My own report.\n"
        assert (paths.reports / "roof-imported.md").read_text() == "Two tiles are broken.\n"
        assert (paths.archive / "fence-imported.md").read_text() == "The fence stands.\n"
        assert paths.journal.read_text().startswith("- 2026-07-20 10:00 my own line\n")
        assert (paths.data / "journal-imported.md").read_text().count("write-goal roof") == 20
        assert not list(paths.data.rglob("*-imported-2*"))


def test_money_spent_counts_once(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = '{"ts":"2026-07-15T06:00:00Z","kind":"tick","id":"tick-1","runner":"a","cost_usd":0.5}'
    (other / "cost.jsonl").write_text(f"{row}\nnonsense\n" + row.replace("0.5", "0.25") + "\n")
    runs.pay(paths, "beat-1", NOW, 2.0, "fixed")
    for _ in range(2):
        document = bring(capsys, other)
        assert "1 rows" in reasons(document)["cost.jsonl"]
        assert guards.spent_since(runs.ledger(paths), 0) == guards.Spent(2.75)


@pytest.mark.parametrize("kind", ["same", "inside", "around", "nothing", "a file", "another folder"])
def test_a_path_that_is_no_other_data_directory_is_refused(
    kind: str, paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.playbook.write_text("x\n")
    (tmp_path / "PLAYBOOK.md").write_text("x\n")
    (paths.reports / "goals").mkdir()
    (tmp_path / "empty").mkdir()
    path = {
        "same": paths.data, "inside": paths.reports, "around": tmp_path, "nothing": tmp_path / "nosuch",
        "a file": tmp_path / "PLAYBOOK.md", "another folder": tmp_path / "empty",
    }[kind]  # fmt: skip
    assert "cannot import" in bring(capsys, path, code=64)["message"]


def test_a_living_pulse_of_the_other_program_is_noticed_without_touching_its_lock(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upstream.read(other).running is False
    with open(other / ".lock/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listed = f":{os.fstat(lock.fileno()).st_ino} " in Path("/proc/locks").read_text()
        running = upstream.read(other).running
        first = bring(capsys, other, "-n")["next"][0]
    if listed:  # not where the file system shows another inode than the kernel's
        assert running and "stop the other program" in first


# -- settings


BOTH = {"decider_command": "a", "worker_command": "b {{prompt_file}}"}


def translated(config: dict[str, Any], env: dict[str, str] | None = None) -> settings.Chosen:
    return settings.translate(config, Path("/x/config.json"), env or {})


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ({"tick_command": "a"}, {"decider_command": "a"}),
        ({"tick": "a", "interactive": "b {{prompt_file}}"}, BOTH),
        (
            {"default": "x", "runners": {"x": {"tick": "a", "interactive": "b {{prompt_file}}"}, "y": {}}},
            BOTH,
        ),
        ({"tick_command": "a | looop _ fmt"}, {"decider_command": "a"}),
        ({"tick_command": 'a | "$LOOOP_BIN" _fmt'}, {"decider_command": "a"}),
        ({"tick_command": "a || looop fmt"}, {"decider_command": "a || looop fmt"}),
        ({"tick_command": "a | tee log"}, {"decider_command": "a | tee log"}),
        ({"session_ttl": 3600.9, "max_next_interval": 60}, {"session_ttl": 3600, "max_next_interval": 60}),
        ({"max_daily_usd": 2.5}, {"max_daily_usd": 2.5}),
        ({"tick_command": "a {{model}}"}, {}),
        ({"worker_command": "b"}, {}),
        ({"worker_command": "b {{prompt_file}} {{thinking}}"}, {}),
        ({"tick_command": 7, "session_ttl": -1, "max_next_interval": "soon", "max_daily_usd": True}, {}),
        ({"interval": 30, "busy_interval": 5, "colour": "red"}, {}),
    ],
)
def test_settings_of_any_version_are_said_in_our_keys(config: dict[str, Any], values: dict[str, Any]) -> None:
    chosen = translated(config)
    assert chosen.values == values
    refused = {name.partition(": ")[2] for name, _ in chosen.not_used}
    assert all(key in refused for key in config) or values, "a key that is not taken is named"


def test_the_cadence_is_told_as_an_edit_of_the_timer() -> None:
    chosen = translated({"interval": 30})
    assert any("systemctl --user edit looop-beat.timer" in line and "OnActiveSec=30s" in line for line in chosen.next)
    assert translated({"interval": 60}).next == []


def test_a_decider_that_goes_elsewhere_is_warned_of() -> None:
    def warned(command: str) -> bool:
        return any("has to be left" in line for line in translated({"tick_command": command}).next)

    assert warned("cd ~/work && agent") and warned("agent > $LOOOP_DATA_DIR/.decision.json") and not warned("agent -p")


def test_variables_that_mean_nothing_here_are_named() -> None:
    assert translated({}, {"LOOOP_INTERVAL": "5", "LOOOP_RUNS_KEEP": "5"}).not_used == [
        ("$LOOOP_INTERVAL", "in its place: the interval of looop-beat.timer")
    ]


def test_settings_from_another_file(paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (other / "config.json").rename(other.parent / "elsewhere.json")
    assert "setting decider_command" not in bring(capsys, other, "-n")["taken"]
    bring(capsys, other, "--config", str(other.parent / "elsewhere.json"))
    assert tomllib.loads(paths.config.read_text())["session_ttl"] == 3600
    (other / "looop.json").write_text("{")
    assert "Expecting" in reasons(bring(capsys, other))["looop.json"]
    for broken in (other / "looop.json", other / "nosuch.json"):
        bring(capsys, other, "--config", str(broken), code=64)


def test_a_broken_configuration_here_stops_it_first(
    paths: Paths, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.config.parent.mkdir()
    paths.config.write_text("nonsense")
    before = tree(paths.data)
    assert bring(capsys, other, code=64)["message"]
    assert tree(paths.data) == before


def test_an_empty_folder_and_missing_parts_are_no_trouble(
    tmp_path: Path, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    (old / "goals").mkdir(parents=True)
    document = bring(capsys, old)
    assert document["taken"] == [] and document["not_used"] == []
    assert not list(paths.reports.iterdir()) and not paths.journal.exists()


def test_the_texts_of_strangers_do_not_drive_the_terminal(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(other / "asks/evil-1.json", {"v": 1, "id": "evil-1", "worker": "evil", "prompt": "\x1b[2J\nforged:", "ts": 1})
    (other / "reports/\x1b[31mred").write_text("x")
    assert ctl.main(["import", str(other), "-n"]) == 0
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out) and "\nforged" not in out


def test_plan_and_writing_agree_on_a_file_that_came_in_between(paths: Paths, other: Path) -> None:
    found = upstream.read(other)
    made = importing.plan(paths, Config(), found, NOW, {})
    (paths.reports / "roof.md").write_text("just now\n")
    with pytest.raises(Exception, match="just now"):
        importing.apply(paths, Config(), found, made, NOW)
    assert not paths.goal("roof").exists()
    with pytest.raises(UsageError):
        upstream.read(other / "nosuch")
    shutil.rmtree(other)
