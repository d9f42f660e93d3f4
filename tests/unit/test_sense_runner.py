"""The runner of looop-sense.service: every bound holds while the sensor runs, and no sensor harms another's result."""

import base64
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from looop import sense_runner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sense").mkdir()
    return tmp_path / "sense"


def script(folder: Path, name: str, body: str, mode: int = 0o755) -> dict[str, str]:
    path = folder.parent / f"{name}.sh"
    path.write_text(body)
    path.chmod(mode)
    return {"name": name, "path": str(path)}


def run(
    folder: Path, *sensors: dict[str, str], timeout: float = 20, cap: int = 64, parallel: int = 4
) -> dict[str, Any]:
    job = {
        "v": 1, "token": "t1", "sensors": list(sensors), "timeout": timeout, "max_bytes": cap, "parallel": parallel,
        "env": {"PATH": "/usr/bin:/bin", "MARK": "built"}, "cwd": str(folder.parent),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    assert sense_runner.main([str(folder)]) == 0
    return {record["name"]: record for record in map(json.loads, (folder / "t1.jsonl").read_text().splitlines())}


@pytest.fixture(autouse=True)
def stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the runner changes folder; this puts it back


def stdout(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record["stdout"])


def test_the_output_code_and_stderr_of_each_sensor_are_its_own(folder: Path) -> None:
    found = run(
        folder,
        script(folder, "a", "#!/bin/sh\necho $MARK; pwd >&2"),
        script(folder, "b", "#!/bin/sh\nprintf '\\377\\000'; exit 3"),
    )
    assert (stdout(found["a"]), found["a"]["code"], found["a"]["stderr"]) == (b"built\n", 0, str(folder.parent))
    assert (stdout(found["b"]), found["b"]["code"]) == (b"\xff\0", 3)


def test_a_sensor_that_hangs_is_killed_at_its_deadline_and_flagged(folder: Path) -> None:
    began = time.monotonic()
    found = run(folder, script(folder, "a", "#!/bin/sh\ntrap '' TERM\nsleep 600 & sleep 600"), timeout=0.3)
    assert found["a"]["timed_out"] and found["a"]["signal"] == signal.SIGKILL
    assert time.monotonic() - began < 10


def test_exit_124_is_not_taken_for_a_timeout(folder: Path) -> None:
    record = run(folder, script(folder, "a", "#!/bin/sh\nexit 124"))["a"]
    assert record["code"] == 124 and not record["timed_out"]


def test_a_flood_is_ended_at_the_cap_and_not_kept(folder: Path) -> None:
    record = run(folder, script(folder, "a", "#!/bin/sh\nexec head -c 10G /dev/zero"))["a"]
    assert record["too_large"] and stdout(record) == b""
    assert record["secs"] < 5


@pytest.mark.parametrize(("size", "large"), [(64, False), (65, True)])
def test_exactly_the_cap_is_allowed(folder: Path, size: int, large: bool) -> None:
    assert run(folder, script(folder, "a", f"#!/bin/sh\nhead -c {size} /dev/zero"))["a"]["too_large"] is large


def test_a_flood_of_stderr_keeps_its_end(folder: Path) -> None:
    body = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x >&2; echo END >&2"
    record = run(folder, script(folder, "a", body))["a"]
    assert len(record["stderr"]) <= 1024 and record["stderr"].endswith("xEND")


def test_a_background_child_neither_delays_nor_alters_the_result(folder: Path) -> None:
    began = time.monotonic()
    record = run(folder, script(folder, "a", "#!/bin/sh\n(sleep 600; echo late) &\necho now"))["a"]
    assert stdout(record) == b"now\n" and record["code"] == 0
    assert time.monotonic() - began < 10


def test_standard_input_is_empty(folder: Path) -> None:
    assert stdout(run(folder, script(folder, "a", "#!/bin/sh\ncat; echo end"))["a"]) == b"end\n"


def test_a_closed_stdout_does_not_end_the_wait(folder: Path) -> None:
    record = run(folder, script(folder, "a", "#!/bin/sh\nexec >&- 2>&-; sleep 0.2; exit 5"))["a"]
    assert record["code"] == 5 and record["secs"] >= 0.2


@pytest.mark.parametrize(
    ("body", "mode", "said"),
    [
        ("#!/bin/sh\n", 0o644, "chmod +x"),
        ("#!/no/such\r\n", 0o755, r"'#!/no/such\r'"),
        ("echo hi\n", 0o755, "first line must name an interpreter"),
    ],
    ids=["not executable", "interpreter missing", "no shebang"],
)
def test_what_cannot_be_started_says_why_and_what_to_do(folder: Path, body: str, mode: int, said: str) -> None:
    found = run(folder, script(folder, "a", body, mode), script(folder, "b", "#!/bin/sh\necho fine"))
    assert said in found["a"]["error"]
    assert stdout(found["b"]) == b"fine\n"


def test_no_more_than_the_given_number_run_at_once(folder: Path) -> None:
    count = 'set -- "$LIVE"/*; mkdir "$LIVE/$$"; ls "$LIVE" | wc -l; sleep 0.1; rmdir "$LIVE/$$"'
    live = folder.parent / "live"
    live.mkdir()
    sensors = [script(folder, f"s{n}", f"#!/bin/sh\nLIVE={live}\n{count}\n") for n in range(9)]
    found = run(folder, *sensors, parallel=3)
    assert len(found) == 9
    assert max(int(stdout(record)) for record in found.values()) <= 3


def test_a_second_start_finds_no_job(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, script(folder, "a", "#!/bin/sh\n"))
    assert sense_runner.main([str(folder)]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_it_imports_nothing_of_looop() -> None:
    text = Path(sense_runner.__file__).read_text()
    assert "from looop" not in text and "import looop" not in text
