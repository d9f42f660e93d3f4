"""Every event is known, has an id of its own and an explanation; writing one is safe."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from looop.systemd import journal
from looop.systemd.journal import EVENTS, emit

TREE = Path(__file__).parents[2]
CATALOG = (TREE / "units/catalog/looop.catalog").read_text()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mapping[str, str]]]:
    entries: list[Mapping[str, str]] = []
    monkeypatch.setattr(journal, "_send", entries.append)
    monkeypatch.delenv("SYSTEMD_LOG_LEVEL", raising=False)
    journal.max_level.cache_clear()
    yield entries
    journal.max_level.cache_clear()


def catalog() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_event_has_an_id_of_its_own_and_an_explanation() -> None:
    assert len({event.id for event in EVENTS.values()}) == len(EVENTS)
    explained = catalog()
    assert set(explained) == {event.id for event in EVENTS.values()}
    for event in EVENTS.values():
        headers, _, text = explained[event.id].strip().partition("\n\n")
        assert headers.splitlines() == [f"Subject: {event.message}", "Defined-By: looop"]
        assert 1 <= len(text.strip().splitlines()) <= 6


def test_every_event_that_is_written_anywhere_is_in_the_table() -> None:
    for path in (TREE / "looop").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name == "emit":
                    assert node.args[0].value in EVENTS, f"{path}:{node.lineno}"


def test_an_entry_has_a_constant_message_its_id_and_its_fields(sent: list[Mapping[str, str]]) -> None:
    emit("decided", run="r1", action="noop", cost_usd=0.1, session=None, note="")
    assert sent == [{
        "MESSAGE": "Decided", "MESSAGE_ID": EVENTS["decided"].id, "PRIORITY": "6", "SYSLOG_IDENTIFIER": "looop",
        "LOOOP_EVENT": "decided", "LOOOP_RUN": "r1", "LOOOP_ACTION": "noop", "LOOOP_COST_USD": "0.1",
    }]  # fmt: skip


def test_what_a_person_should_see_follows_the_message_on_one_line(sent: list[Mapping[str, str]]) -> None:
    emit("tick_failed", text="two\nlines\x1b[31m and \x00more")
    assert sent[0]["MESSAGE"] == "Deciding or moving failed: two lines [31m and more"
    assert sent[0]["LOOOP_ERROR"] == sent[0]["LOOOP_DETAIL"] == "two\nlines\x1b[31m and \x00more"


def test_fields_of_the_context_are_on_every_entry_inside(sent: list[Mapping[str, str]]) -> None:
    with journal.context(beat=7), journal.context(run="r"):
        emit("tick_start")
    emit("tick_start")
    assert (sent[0]["LOOOP_BEAT"], sent[0]["LOOOP_RUN"]) == ("7", "r")
    assert "LOOOP_BEAT" not in sent[1]


def test_a_traceback_is_kept_as_a_field(sent: list[Mapping[str, str]]) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        emit("beat_failed", trace=True)
    assert "ValueError: boom" in sent[0]["LOOOP_TRACE"]


@pytest.mark.parametrize(("level", "written"), [("", 3), ("debug", 3), ("info", 2), ("4", 1), ("err", 0), ("odd", 3)])
def test_the_log_level_is_honoured(
    sent: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch, level: str, written: int
) -> None:
    monkeypatch.setenv("SYSTEMD_LOG_LEVEL", level)
    for event in ("tick_start", "decided", "tick_failed"):
        emit(event)
    assert len(sent) == written


def test_an_unknown_event_is_a_fault_of_the_caller() -> None:
    with pytest.raises(KeyError):
        emit("no_such_event")


def test_without_journald_the_entry_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "_SOCKET", "/nonexistent")
    emit("bus_lost", text="why")
    assert capsys.readouterr().err == "looop: The bus to systemd is gone: why\n"
