"""A data directory of the portable looop is taken over, and looop lives on it from the next beat on."""

import json
from pathlib import Path

from tests.machine.harness import DATA, Journal, Pulse, looopctl, looopctl_json, systemctl
from tests.unit.upstream import lay_out

DECIDER = """cat >seen.txt; echo '{"action": "noop", "journal": "all is well"}' >.decision.json"""


def decided(record: Path) -> dict[str, object]:
    found = json.loads(record.read_text())
    assert isinstance(found, dict)
    return found


def test_one_beat_on_an_imported_directory(pulse: Pulse, journal: Journal, tmp_path: Path) -> None:
    other = lay_out(tmp_path / "other", config={"tick_command": DECIDER, "worker_command": "cat {{prompt_file}}"})
    document = looopctl_json("import", str(other))
    assert not document["conflicts"] and {"goal roof", "sensor today", "schedule weekly"} <= set(document["taken"])
    pulse.start()
    entry = journal.wait("decided")
    folder = DATA / "runs" / entry["LOOOP_RUN"]
    assert decided(folder / "record.json")["state"] in ("executed", "committed")
    prompt = (folder / "seen.txt").read_text()
    for text in ("Keep the roof tight.", "The roof does not leak.", '"date"', '"rain"', "write-goal roof", "weekly"):
        assert text in prompt, text
    assert {p.name for p in (DATA / "snapshots").glob("sensor-*.json")} == {"sensor-rain.json", "sensor-today.json"}
    assert not journal.find(LOOOP_EVENT="sensor_failed") and not journal.find(LOOOP_EVENT="state_degraded")
    assert "looop-schedule@weekly.timer" in systemctl("list-timers", "--all", "looop-*")
    again = looopctl_json("import", str(other))
    assert again["taken"] == [] and not again["conflicts"]


def test_importing_beside_a_pulse_is_one_change(pulse: Pulse, journal: Journal, tmp_path: Path) -> None:
    pulse.configure(f"decider_command = '''{DECIDER}'''\ndecider_cost_usd = 0\nbeat_gap = 0\n")
    pulse.start()
    journal.wait("decided")
    before = {folder.name for folder in (DATA / "runs").iterdir()}
    other = lay_out(tmp_path / "other", config={})
    looopctl("import", str(other), "--force")
    pulse.events.wait_for(lambda: "garden" in seen(before), what="a decision on the imported goals")
    for run in {folder.name for folder in (DATA / "runs").iterdir()} - before:
        goals = set(json.loads((DATA / "runs" / run / "world.json").read_text())["goals"])
        assert goals in (set(), {"roof", "garden"}), f"{run} saw half of it: {goals}"


def seen(before: set[str]) -> str:
    """What the runs since then were given to decide on."""
    worlds = [p for p in (DATA / "runs").glob("*/world.json") if p.parent.name not in before]
    return " ".join(path.read_text() for path in worlds)
