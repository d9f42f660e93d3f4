"""The shim on a real terminal: what a worker prints, how it ends, and who may ask."""

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from looop.paths import Paths
from looop.sessions import cgroup, shim, transcript, wire
from looop.screens.replay import read_index
from looop.sessions.transcript import Index, JournalLines, Transcript


def job(paths: Paths, command: str, **changes: object) -> dict[str, object]:
    folder = paths.session("w")
    folder.mkdir(exist_ok=True)
    return {
        "id": "w", "invocation": "i" * 32, "unit": "looop-worker-w.scope", "command": command, "cwd": str(paths.data),
        "folder": str(folder), "control": str(paths.runtime / "w.sock"), "rows": 24, "cols": 80,
        "transcript_max": 0, "journal_rate": 0,
    } | changes  # fmt: skip


def run(
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    client: Callable[[], None] | None = None,
    **changes: object,
) -> tuple[dict[str, Any], bytes]:
    """The command under the shim's own loop; its exit record and transcript."""
    monkeypatch.chdir(paths.data)
    poll = select.poll()
    worker = shim.Worker(job(paths, command, **changes), "/no-such-group")
    control = shim.Control(str(paths.runtime / "w.sock"), poll, worker)
    thread = threading.Thread(target=client) if client else None
    if thread:
        thread.start()
    shim.supervise(worker, control, poll)
    worker.finish()
    control.close()
    for held in [*control.held.values(), *control.typing.values()]:
        held.close()
    if thread:
        thread.join()
    for fd in (worker.master, worker.pidfd, worker.record, worker.transcript.fd, worker.index.fd):
        os.close(fd)
    folder = paths.session("w")
    return json.loads((folder / "exit.json").read_text()), (folder / "output.log").read_bytes()


def ask(paths: Paths, line: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(paths.runtime / "w.sock"))
        end.sendall(line)
        return wire.decode(end.makefile("rb").readline())


@pytest.mark.parametrize(
    "command, code, number",
    [("exit 0", 0, None), ("exit 3", 3, None), ("kill -TERM $$", None, signal.SIGTERM), ("no-such-program", 127, None)],
)
def test_the_exit_record_says_how_the_command_ended(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, command: str, code: int | None, number: int | None
) -> None:
    record, _ = run(paths, monkeypatch, command)
    assert (record["code"], record["signal"], record["invocation"]) == (code, number, "i" * 32)
    assert not (paths.session("w") / ".exit.tmp").exists()


def test_all_output_is_in_the_transcript_before_the_exit_record(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    record, log = run(paths, monkeypatch, "seq 100000")
    assert log.decode().split() == [str(n) for n in range(1, 100001)]
    assert record["bytes"] == len(log) and record["lost"] == 0


def test_the_command_has_a_controlling_terminal_of_its_own(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "tty < /dev/tty >/dev/null && stty size && test -t 0 && test -t 2 && pwd"
    _, log = run(paths, monkeypatch, command, cols=100)
    assert log.decode().split() == ["24", "100", str(paths.data)]


def test_signals_are_at_their_defaults(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    _, log = run(paths, monkeypatch, "grep -E 'Sig(Ign|Blk)' /proc/self/status")
    # 32 and 33 are the C library's own, and no program can reset them
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in log.decode().splitlines()] == [0, 0]


def test_a_worker_that_closes_its_terminal_costs_no_time(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.process_time()
    record, _ = run(paths, monkeypatch, "exec <&- >&- 2>&-; read -t 0.2 < <(exec sleep 0.2); exit 5")
    assert record["code"] == 5
    assert time.process_time() - before < 0.1


def test_a_child_that_keeps_the_terminal_does_not_delay_the_end(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    record, log = run(paths, monkeypatch, "trap '' HUP; sleep 60 & echo $!; exit 4")
    assert record["code"] == 4
    os.kill(int(log), signal.SIGKILL)


def test_control_answers_and_refuses(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[dict[str, Any]] = []
    requests = [
        wire.encode({"op": "status"}), wire.encode({"op": "resize", "rows": 40, "cols": 132}),
        wire.encode({"op": "resize", "rows": 0, "cols": True}), wire.encode({"op": "dance"}), b"[]\n", b"\xff\n",
    ]  # fmt: skip

    def client() -> None:
        assert (paths.runtime / "w.sock").stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(str(paths.runtime / "w.sock"))
            stuck.send(b"{")
            replies.extend(ask(paths, line) for line in requests)
        (paths.data / "go").touch()

    wait = "until test -e go; do read -t 0.05 < <(exec sleep 1); done; stty size"
    _, log = run(paths, monkeypatch, wait, client)
    status = replies[0]["data"]
    assert (status["id"], status["rows"], status["cols"]) == ("w", 24, 80)
    assert status["idle_s"] >= 0 and status["cpu_idle_s"] is None
    assert [reply["ok"] for reply in replies] == [True, True, False, False, False, False]
    assert log.split()[-2:] == [b"40", b"132"]


def test_a_follower_hears_of_sizes_of_output_and_of_the_end(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    def client() -> None:
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(str(paths.runtime / "w.sock"))
            end.sendall(wire.encode({"op": "follow"}))
            end.recv(4096)
            ask(paths, wire.encode({"op": "resize", "rows": 40, "cols": 132}))
            heard.append(end.recv(4096))  # of the new size, before there is any output
            (paths.data / "go").touch()
            while data := end.recv(4096):
                heard.append(data)

    run(paths, monkeypatch, "until test -e go; do read -t 0.05 < <(exec sleep 1); done; echo hello", client)
    assert b"".join(heard).strip(b"\n") == b"" and heard


def typist(paths: Paths) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.connect(str(paths.runtime / "w.sock"))
    end.sendall(wire.encode({"op": "type"}))
    assert wire.decode(end.recv(4096))["ok"] is True
    return end


def test_two_who_type_are_both_heard(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def client() -> None:
        with typist(paths) as one, typist(paths) as two:
            one.sendall(b"first\n")
            end = socket.socket(socket.AF_UNIX)
            end.connect(str(paths.runtime / "w.sock"))
            with end:
                end.sendall(wire.encode({"op": "follow"}))
                while not (paths.data / "half").exists():
                    end.recv(4096)
            two.sendall(b"second\n")
            assert two.recv(1) == b""

    command = "stty -echo; echo on; read a; touch half; echo half; read b; echo $a $b"
    _, log = run(paths, monkeypatch, command, client)
    assert log.split()[-2:] == [b"first", b"second"]


def test_however_many_follow_whoever_asks_is_answered(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[dict[str, Any]] = []

    def client() -> None:
        with contextlib.ExitStack() as stack:
            for n in range(80):
                end = stack.enter_context(socket.socket(socket.AF_UNIX))
                end.connect(str(paths.runtime / "w.sock"))
                if n < 40:
                    end.sendall(wire.encode({"op": "follow"}))
                    replies.append(wire.decode(end.makefile("rb").readline()))
            replies.append(ask(paths, wire.encode({"op": "status"})))
        (paths.data / "go").touch()

    run(paths, monkeypatch, "until test -e go; do read -t 0.05 < <(exec sleep 1); done", client)
    assert [reply["ok"] for reply in replies] == [True] * 32 + [False] * 8 + [True]
    assert replies[39]["error"] == "32 others follow it or type already"


def test_the_size_is_as_before_when_the_last_who_types_is_gone(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def size(**wanted: int) -> None:
        data = ask(paths, wire.encode({"op": "resize" if wanted else "status", **wanted}))["data"]
        sizes.append((data["rows"], data["cols"]))

    def client() -> None:
        with typist(paths):
            size(rows=50, cols=200)
            with typist(paths):
                size(rows=30, cols=100)
            size()
        size()
        (paths.data / "go").touch()

    _, log = run(paths, monkeypatch, "until test -e go; do read -t 0.05 < <(exec sleep 1); done; stty size", client)
    assert sizes == [(50, 200), (30, 100), (30, 100), (24, 80)] and log.split() == [b"24", b"80"]


def test_a_worker_that_does_not_read_holds_nobody_up(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def client() -> None:
        while not (paths.data / "raw").exists():
            ask(paths, wire.encode({"op": "status"}))
        with typist(paths) as end:
            end.settimeout(0.2)
            with pytest.raises(TimeoutError):
                while True:
                    sent.append(end.send(b"x" * 65536))
            ask(paths, wire.encode({"op": "status"}))
        for _ in range(40):  # those who leave while they wait take no place from others
            with typist(paths) as end:
                end.sendall(b"y")
        assert ask(paths, wire.encode({"op": "status"}))["ok"]
        (paths.data / "go").touch()

    wait = "stty raw -echo; touch raw; until test -e go; do read -t 0.05 < <(exec sleep 1); done"
    _, log = run(paths, monkeypatch, wait, client)
    assert sum(sent) < 2_000_000 and b"x" not in log


def test_what_a_session_used_is_told_and_recorded(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group = tmp_path / "group"
    group.mkdir()
    (group / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    monkeypatch.setattr(cgroup, "ROOTS", ("",))
    assert cgroup.usage(str(group)) == {"cpu_s": 1.5, "memory": None, "tasks": None}
    (group / "cgroup.threads").write_text("1\n2\n3\n")
    assert cgroup.usage(str(group))["tasks"] == 3
    (group / "pids.current").write_text("4\n")
    (group / "memory.current").write_text("4096\n")
    assert cgroup.usage(str(group)) == {"cpu_s": 1.5, "memory": 4096, "tasks": 4}
    (group / "memory.peak").write_text("8192\n")
    assert cgroup.group_number(str(group), "memory.peak") == 8192
    record, _ = run(paths, monkeypatch, "exit 0")
    assert record["cpu_s"] is None and record["memory_peak"] is None


def test_the_index_tells_sizes_and_modes(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def client() -> None:
        ask(paths, wire.encode({"op": "resize", "rows": 40, "cols": 132}))
        ask(paths, wire.encode({"op": "resize", "rows": 40, "cols": 132}))
        (paths.data / "go").touch()

    run(paths, monkeypatch, "until test -e go; do read -t 0.05 < <(exec sleep 1); done; echo x", client)
    entries = read_index(paths.session("w"))
    assert [(entry.place, entry.rows, entry.cols) for entry in entries] == [(0, 24, 80), (0, 40, 132)]


def test_the_index_stays_small_and_keeps_every_resize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "_EVERY_S", 0.0)
    index = Index(str(tmp_path / transcript.INDEX), 24, 80, 0, limit=100)
    for n in range(1000):
        index.output(b"x", n)
        if n % 200 == 100:
            index.resize(24 + n // 100, 80, n)
    os.close(index.fd)
    entries = read_index(tmp_path)
    assert len(entries) <= 101 and {entry.rows for entry in entries} == {24, 25, 27, 29, 31, 33}
    assert all((a.place, a.wall) <= (b.place, b.wall) for a, b in pairwise(entries))
    assert entries[-1].place == 999


@pytest.mark.parametrize("cut", range(1, 20))
def test_the_index_sees_modes_however_the_output_is_cut(tmp_path: Path, cut: int) -> None:
    index = Index(str(tmp_path / transcript.INDEX), 24, 80, 0)
    data = b"x\x1b[?1049h\x1b[?25lyz"
    index.output(data[:cut], 0)
    index.output(data[cut:], cut)
    assert (index.alternate, index.hidden) == (True, True)
    for at in range(len(data)):
        index.output((b"\x1b[?1049;25l\x1bc" + data)[at : at + 1], at)
    index.output(b"\x1bc", 99)
    assert (index.alternate, index.hidden) == (False, False)
    os.close(index.fd)


def test_an_index_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    index = Index("/dev/full", 24, 80, 0)
    index.resize(25, 80, 0)
    assert index.lines == 0
    os.close(index.fd)


def test_a_long_transcript_loses_its_older_half_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    transcript = Transcript(str(path), 10000)
    for n in range(5000):
        transcript.write(b"line %d\n" % n)
    first, *lines = path.read_text().splitlines()
    assert path.stat().st_size <= 10000 + 20
    assert lines[-1] == "line 4999" and lines[0].startswith("line ")
    dropped = int(first.split()[1])
    notes = transcript.written - sum(len(b"line %d\n" % n) for n in range(5000))
    assert dropped + path.stat().st_size - len(first) - 1 == transcript.written and notes == 0
    os.close(transcript.fd)


def test_a_full_disk_costs_output_only(tmp_path: Path) -> None:
    transcript = Transcript("/dev/full", 0)
    transcript.write(b"gone")
    assert transcript.lost == 4
    os.close(transcript.fd)
    transcript.fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    transcript.write(b"back")
    os.close(transcript.fd)
    assert b"4 bytes of output are lost" in (tmp_path / "log").read_bytes()
    assert (tmp_path / "log").read_bytes().endswith(b"back") and transcript.lost == 0


def test_journal_lines_stay_below_their_rate_and_count_what_they_left_out() -> None:
    pytest.importorskip("systemd.journal")
    lines, sent = JournalLines("w", 5), list[str]()
    lines.send = lambda text, **fields: sent.append(text)
    lines.feed(b"".join(b"\x1b[31mline %d\x1b[0m\r\n" % n for n in range(1000)))
    assert sent == [f"line {n}" for n in range(5)]
    lines.note()
    assert sent[-1] == "[looop: 995 lines suppressed]"


def test_the_processor_time_of_the_shim_itself_is_not_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "ROOTS", ("",))
    meter = cgroup.WorkMeter(str(tmp_path))
    assert meter.idle() is None
    stat = tmp_path / "cpu.stat"
    stat.write_text(f"usage_usec {int(time.process_time() * 1e6)}\n")
    meter.base, meter.active = (meter._used(), time.monotonic()), time.monotonic() - 100
    idle = meter.idle()
    assert idle is not None and idle >= 100
    stat.write_text(f"usage_usec {int(time.process_time() * 1e6) + 500_000}\n")
    assert meter.idle() == 0


@pytest.mark.parametrize(
    "raw, text",
    [
        (b"\x1b[1;31mred\x1b[0m\r\n", "red\n"),
        (b"10%\r50%\r100%\r\n", "100%\n"),
        (b"\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y\n", "xy\n"),
        (b"\x1b(Bplain\x1b=\xff\n", "plain\ufffd\n"),
        (b"a\tb\x07\x00c\x1b", "a\tbc"),
    ],
)
def test_plain_text_has_no_control_sequences(raw: bytes, text: str) -> None:
    assert wire.plain(raw) == text


def test_it_runs_only_in_its_own_scope(tmp_path: Path) -> None:
    assert cgroup.own_group("looop-worker-w.scope") == ""
