"""Starting a worker: what is refused, and that a start that fails leaves nothing."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from looop import clock, store
from looop.config import Config
from looop.environment import environment
from looop.errors import LooopError, Refused, Unavailable, UsageError
from looop.paths import Paths
from looop.sessions import contract, launch, records

CONFIG = Config(worker_command="agent --file '{{prompt_file}}'")


class FakeLive:
    """A manager that takes every scope and makes none."""

    def __init__(self, units: dict[str, str] | None = None, result: str = "done") -> None:
        self.units, self.result = units or {}, result
        self.properties: dict[str, Any] = {}
        self.results: dict[str, str] = {}
        self.stopped: list[str] = []

    def live(self, patterns: list[str]) -> dict[str, str]:
        return dict(self.units)

    def start_transient(self, unit: str, properties: dict[str, Any]) -> str:
        self.properties = properties
        return "/job/1"

    async def run_job(self, job: str, unit: str, timeout: float) -> str:
        return self.result

    def invocation(self, unit: str) -> str:
        return "f" * 32

    def stop(self, unit: str) -> str:
        self.stopped.append(unit)
        return ""


def brief(**changes: Any) -> launch.Brief:
    given: dict[str, Any] = {"id": "w", "prompt": "do it"}
    return launch.Brief(**given | changes)


def start(paths: Paths, live: Any, given: launch.Brief, config: Config = CONFIG) -> str:
    return asyncio.run(launch.start(live, paths, config, given, clock.now()))


@pytest.mark.parametrize(
    "given, config, words",
    [
        (brief(id="../x"), CONFIG, "as a worker name"),
        (brief(id="pulse"), CONFIG, "reserved"),
        (brief(prompt=" \n"), CONFIG, "prompt is empty"),
        (brief(), Config(), "no command"),
        (brief(), Config(worker_command="agent"), "does not hold {{prompt_file}}"),
        (brief(command="a\0b"), CONFIG, "NUL"),
        (brief(limits={"memory_max": "lots"}), CONFIG, "memory_max"),
        (brief(limits={"colour": 1}), CONFIG, "unknown limit"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_touched(
    paths: Paths, given: launch.Brief, config: Config, words: str
) -> None:
    with pytest.raises((Refused, UsageError), match=words):
        start(paths, FakeLive(), given, config)
    assert list(paths.sessions.iterdir()) == list(paths.prompts.iterdir()) == []


@pytest.mark.parametrize("template", ["x {{prompt_file}}", "x '{{prompt_file}}'", 'x "{{prompt_file}}"'])
def test_the_prompt_path_is_quoted_once(tmp_path: Path, template: str) -> None:
    paths = Paths(tmp_path / "it's data", tmp_path / "c", tmp_path / "r")
    meta, _ = launch.plan(paths, Config(worker_command=template), brief(), clock.now())
    quoted = str(paths.prompts / "w.md").replace("'", "'\"'\"'")
    assert meta.command == f"x '{quoted}'"


def test_a_command_of_its_own_needs_no_placeholder(paths: Paths) -> None:
    assert launch.plan(paths, CONFIG, brief(command="make"), clock.now())[0].command == "make"


def test_limits_become_properties_of_the_scope(paths: Paths) -> None:
    config = Config(worker_command="{{prompt_file}}", memory_max=1 << 30, tasks_max=7)
    limits = {"memory_max": "512M", "runtime_max": 60, "cpu_weight": 5}
    _, properties = launch.plan(paths, config, brief(limits=limits), clock.now())
    assert properties["MemoryMax"] == 512 << 20 and properties["TasksMax"] == 7 and properties["CPUWeight"] == 5
    assert properties["RuntimeMaxUSec"] == 60_000_000 and properties["Slice"] == "looop-worker.slice"


def test_a_live_id_and_a_full_fleet_are_refused(paths: Paths) -> None:
    with pytest.raises(Refused, match="already running"):
        start(paths, FakeLive({"looop-worker-w.scope": "a"}), brief())
    config = Config(worker_command="{{prompt_file}}", max_workers=1)
    with pytest.raises(Refused, match="max_workers is 1"):
        start(paths, FakeLive({"looop-worker-v.scope": "a"}), brief(), config)
    assert not paths.session("w").exists()


@pytest.mark.parametrize("trouble", ["no scope", "job failed", "bus lost"])
def test_a_failed_start_leaves_nothing_and_brings_the_earlier_session_back(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """The shim is the real one; as no scope was made, it must not run the command either."""
    earlier = paths.session("w")
    earlier.mkdir()
    meta, _ = launch.plan(paths, CONFIG, brief(), clock.now())
    records.write_meta(earlier, meta)
    (earlier / "output.log").write_text("transcript")
    (paths.prompts / "w.md").write_text("earlier prompt")
    live = FakeLive(result="failed" if trouble == "job failed" else "done")
    if trouble == "bus lost":

        async def lost(*args: object) -> str:
            raise Unavailable("gone")

        monkeypatch.setattr(live, "run_job", lost)
    with pytest.raises(LooopError, match="is not in looop-worker-w.scope|not started|gone"):
        start(paths, live, brief(command=f"touch {paths.data}/ran"))
    assert not (paths.data / "ran").exists()
    assert live.stopped == ["looop-worker-w.scope"]
    assert (earlier / "output.log").read_text() == "transcript"
    assert (paths.prompts / "w.md").read_text() == "earlier prompt"
    assert records.ids(paths) == ["w"] and not list((paths.sessions / records.OLD).iterdir())


def test_an_id_without_a_readable_record_is_not_wedged(paths: Paths) -> None:
    (paths.session("w")).mkdir()
    (paths.session("w") / "output.log").write_text("kept")
    live: Any = FakeLive()
    slot = launch._reserve(live, paths, CONFIG, launch.plan(paths, CONFIG, brief(), clock.now())[0], clock.now())
    assert records.starting(paths) == {"w"}
    os.close(slot.lock)
    assert records.starting(paths) == set()
    assert slot.closed is not None and (slot.closed / "output.log").read_text() == "kept"


def test_the_brief_starts_with_the_contract(paths: Paths) -> None:
    text = contract.brief("w-1", "{id} do it")
    assert text.startswith("# Worker contract") and text.endswith("\n---\n\n{id} do it\n")
    assert "`looopctl kill w-1`" in text


def test_the_environment_is_built_not_inherited(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "SECRET", "TOKEN", "INVOCATION_ID"):
        monkeypatch.setenv(name, "x")
    made = environment(paths, Config(), ("TOKEN", "ABSENT"), LOOOP_SESSION_ID="w")
    assert made["TOKEN"] == "x" and made["LOOOP_SESSION_ID"] == "w" and made["LOOOP_DATA_DIR"] == str(paths.data)
    assert f"{os.environ['HOME']}/.local/bin" in made["PATH"].split(":")
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "SECRET", "ABSENT", "INVOCATION_ID"} & set(made)


def test_reading_the_records_back_gives_what_was_written(paths: Paths) -> None:
    meta, _ = launch.plan(paths, CONFIG, brief(verify="true", run="r1"), clock.now())
    folder = paths.session("w")
    folder.mkdir()
    records.write_meta(folder, meta)
    assert records.read_meta(folder) == records.Meta.from_json(store.read_json(folder / "meta.json") or {})
    assert records.read_meta(folder).run == "r1"
