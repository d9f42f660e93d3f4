"""`looopctl status`: what it says of a world that is known, half known and unknown, and that it fits the screen."""

import json
import time
from typing import Any

import pytest

from looop import nudges
from looop.clock import Stamp
from looop.ctl import status, status_facts
from looop.ctl.command import Context
from looop.ctl.survey import Survey
from looop.errors import StateError, Unavailable
from looop.paths import Paths
from looop.tui.text import columns
from tests.unit.fakes import Clock

WORKER = {
    "id": "w1", "alive": True, "health": "waiting-ask", "state": "running", "idle_s": 5, "uptime_s": 600,
    "ask_age_s": 4, "note": "look",
}  # fmt: skip
ASK = {"id": "w1-1", "worker": "w1", "state": "pending", "age_s": 4.0, "prompt": "Which?", "options": ["a", "b"]}
IDLE = "idle: the world is unchanged; 1 worker, 1 waiting for an answer"


@pytest.fixture
def look(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The overview of this survey; `timers` is what systemd says of them."""

    def of(found: Survey, timers: dict[str, float | None] | None = None) -> dict[str, Any]:
        def pending() -> dict[str, float | None]:
            if timers is None:
                raise Unavailable("cannot reach systemd: gone")
            return timers

        monkeypatch.setattr(status_facts, "survey", lambda context: found)
        monkeypatch.setattr(status_facts, "timers", pending)
        return status_facts.overview(Context(paths))

    return of


def shown(found: dict[str, Any], cols: int = 80, rows: int = 0, colour: bool = False) -> str:
    return "\n".join(status.page(found, cols, rows, colour))


def last_beat(paths: Paths, **changed: Any) -> None:
    at = time.time()
    beat = {"number": 7, "started": at - 43, "ended": at - 42, "outcome": IDLE, "acted": False, "forced": ""}
    paths.last_beat.write_text(json.dumps(beat | {"why": status_facts.UNCHANGED, "since": at} | changed))


def test_one_line_says_it_all(paths: Paths, look: Any) -> None:
    last_beat(paths)
    found = look(Survey("active", IDLE, [], [ASK]), {})
    clock = time.strftime("%H:%M")
    assert found["summary"] in (
        f"looop is running, 0 workers, 1 asks you, idle: nothing changed since {clock}",
        f"looop is running, 0 workers, 1 asks you, idle: nothing changed since {time.strftime('%H:%M')}",
    )
    assert shown(found).splitlines()[0] == found["summary"]


@pytest.mark.parametrize(
    ("pulse", "said"),
    [
        ("inactive", "looop is stopped, 0 workers"), ("failed", "looop has failed, 0 workers"),
        ("activating", "looop is starting, 0 workers"), ("unknown", "nobody knows whether looop is running, 0 workers"),
    ],
)  # fmt: skip
def test_a_pulse_that_does_not_run_is_said_first(look: Any, pulse: str, said: str) -> None:
    found = look(Survey(pulse, "", [], []), {})
    assert found["summary"] == said and found["idle"] is None and "next beat" not in shown(found)


@pytest.mark.parametrize(
    "content", ["[]", "{", "{}", '{"ended": null}', json.dumps({"ended": 1e308, "since": -1, "why": 5})]
)
def test_word_of_a_last_beat_that_cannot_be_used_is_said_to_be_unknown(paths: Paths, look: Any, content: str) -> None:
    paths.last_beat.write_text(content)
    found = look(Survey("active", IDLE, [], []), {})
    assert found["last_beat"] is None
    assert found["trouble"] and "beat.json" in found["trouble"][0] and "idle: the world" in shown(found)


def test_a_broken_ask_says_what_is_wrong_with_it(look: Any) -> None:
    broken = ASK | {"state": "broken", "error": "cannot read w1-1.json: not JSON (mend it)", "prompt": "", "age_s": 9e8}
    text = shown(look(Survey("inactive", "", [], [broken]), {}))
    assert "w1-1 is broken: cannot read w1-1.json: not JSON (mend it)" in text and "answer w1-1" not in text


def test_the_last_and_the_next_beat(paths: Paths, look: Any) -> None:
    last_beat(paths, forced="a follow-up is due")
    text = shown(look(Survey("active", IDLE, [], []), {status_facts.BEAT: time.time() + 17.8}))
    assert "last beat 42s ago, number 7, forced (a follow-up is due): idle: the world" in text
    assert "next beat in 1" in text and text.replace("\n          ", " ").count("the world is unchanged") == 1


def test_while_it_decides_that_is_what_it_does(paths: Paths, look: Any) -> None:
    last_beat(paths)
    found = look(Survey("active", "beat 8: deciding (20261120-1)", [], []), {})
    assert found["idle"] is None and found["summary"].endswith("beat 8: deciding (20261120-1)")
    assert "pulse     active: beat 8: deciding" in shown(found)


@pytest.mark.parametrize("why", ["2 failures in a row, next try in 60 s", "no rule matches", "somebody else decides"])
def test_why_it_is_idle(paths: Paths, look: Any, why: str) -> None:
    last_beat(paths, why=why, since=time.time() - 3 * 86400)
    found = look(Survey("active", f"idle: {why}; 0 workers", [], []), {})
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - 3 * 86400))
    assert found["summary"].endswith(f"idle: {why} since {day}")


def test_each_ask_says_how_to_answer_it(look: Any) -> None:
    stranded = ASK | {"id": "w2-1", "state": "stranded"}
    found = look(Survey("active", IDLE, [], [ASK, stranded, ASK | {"id": "w3-1", "state": "answered"}]), {})
    text = shown(found)
    assert "ask       w1-1 (pending, 4s): Which?\n          looopctl answer w1-1 TEXT; options: a, b" in text
    assert "looopctl answer w2-1 --redispatch TEXT" in text and "answer w3-1" not in text
    assert "1 asks you, 1 stranded" in found["summary"]


def test_what_fails_and_what_flaps_is_named(paths: Paths, look: Any) -> None:
    blob = {"signal": {"error": True, "exit_code": 3, "reason": "exit"}, "detail": {"message": "exited 3"}}
    (paths.snapshots / "sensor-disk.json").write_text(json.dumps(blob))
    (paths.snapshots / "sensor-fine.json").write_text(json.dumps({"signal": {"errors": 0}, "detail": {}}))
    flap = {"last": "x", "streak": 9, "warned": True}
    paths.guards.write_text(json.dumps({"v": 1, "flaps": {"sensor-cpu": flap, "sensor-b": {**flap, "warned": False}}}))
    found = look(Survey("active", IDLE, [], []), {})
    assert [row["name"] for row in found["sensors"]["failing"]] == ["disk"] and found["sensors"]["flapping"] == ["cpu"]
    assert "disk fails (exit): exited 3" in shown(found) and "cpu is flapping" in shown(found)
    assert "1 sensor failing" in found["summary"]


def test_what_waits_on_the_clock_is_there_with_the_pulse_down(paths: Paths, look: Any) -> None:
    (paths.schedules / "report.json").write_text(json.dumps({"at": time.time() + 7200, "note": "weekly"}))
    (paths.schedules / "broken.json").write_text("{")
    now = time.time()
    for name, left in (("a", 60.5), ("retry", 600.5)):
        at = Stamp(now + left, "another", 0.0).to_json()
        known = json.loads(paths.nudges.read_text()) if paths.nudges.exists() else {}
        paths.nudges.write_text(json.dumps(known | {name: at}))
    text = shown(look(Survey("inactive", "", [], []), {"looop-notify@w1-1.timer": now + 30.5}))
    assert "schedule  report in 2h: weekly" in text and "schedule  broken is invalid: " in text
    assert "follow-up a in 60s" in text or "follow-up a in 61s" in text
    assert "follow-up retry in 10min" in text and "reminder  w1-1 in 30s" in text or "in 31s" in text


def test_looking_repairs_nothing(paths: Paths, look: Any) -> None:
    for path in (paths.nudges, paths.guards, paths.last_beat, paths.schedule_state, paths.ledger):
        path.write_text('{"damaged": 1')
    found = look(Survey("active", IDLE, [], []), {})
    assert found["follow_ups"] is None and found["last_beat"] is None and found["decides"] is None
    assert len(found["trouble"]) >= 3 and "unknown " in shown(found)
    assert paths.nudges.read_text() == paths.guards.read_text() == '{"damaged": 1'
    with pytest.raises(StateError):
        nudges.pending(paths, Clock()())


def test_unknown_is_not_empty(look: Any) -> None:
    found = look(Survey("unknown", "", None, None, ["cannot reach systemd: gone"]))
    assert found["workers"] is found["asks"] is found["timers"] is None
    assert "workers unknown" in found["summary"] and "asks      unknown" in shown(found)
    assert shown(found).count("cannot reach systemd: gone") == 1


def test_it_fits_the_screen_and_nobodys_text_drives_the_terminal(paths: Paths, look: Any) -> None:
    nasty = ASK | {"prompt": "\033]0;owned\a" + "漢字 many words " * 100, "options": ["\033[31m" * 9] * 30}
    last_beat(paths, outcome="x" * 5000, why="y" * 5000)
    found = look(Survey("active", "idle: " + "z" * 5000, [], [nasty] * 30), {})
    found["workers"] = [WORKER | {"note": "\033[2J" + "n" * 500}]
    for cols, rows in ((80, 24), (20, 5), (200, 50)):
        page = status.page(found, cols, rows, colour=False)
        assert len(page) < rows and all(columns(line) <= cols for line in page)
        assert "\033" not in "".join(page) and "\a" not in "".join(page)
    assert "lines more" in status.page(found, 80, 24, colour=False)[-1]
    assert "\033[1m" in shown(found, colour=True)


def test_the_fleet_is_a_table_of_those_that_live(look: Any) -> None:
    found = look(Survey("active", IDLE, [], []), {})
    found["workers"] = [WORKER, WORKER | {"id": "gone", "alive": False}]
    rows = shown(found).splitlines()[-2:]
    assert rows[0].split() == ["WORKER", "HEALTH", "STATE", "IDLE", "UP", "ASK", "NOTE"]
    assert rows[1].split() == ["w1", "waiting-ask", "running", "5s", "10m", "4s", "look"]
