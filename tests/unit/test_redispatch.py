"""A worker that is started again is given what its earlier generation was, and what it did not know."""

import json
from pathlib import Path

import pytest

from looop.clock import Stamp, boot_id
from looop.ctl import redispatch
from looop.errors import Refused, UsageError
from looop.mailbox import Answer, Ask
from looop.paths import Paths
from looop.sessions import contract, records
from looop.systemd.identity import Holder
from looop.systemd.names import worker_unit

STAMP = Stamp(1000.0, boot_id(), 1000.0)


def generation(paths: Paths, folder: Path, prompt: Path, invocation: str, task: str) -> None:
    folder.mkdir(parents=True)
    meta = records.Meta("w", invocation, worker_unit("w"), STAMP, f"do {task}", "true", "human", "")
    records.write_meta(folder, meta)
    prompt.write_text(contract.brief("w", task))


def asked(invocation: str = "1" * 32, unit: str = worker_unit("w")) -> Ask:
    holder = Holder(unit, "user", invocation, boot_id())
    return Ask("w-1", "w", "Deploy?\nReally?", "reports/w.md", ts=1.0, holder=holder)


def old(paths: Paths, name: str) -> Path:
    return paths.sessions / records.OLD / name


def three_generations(paths: Paths) -> None:
    generation(paths, paths.sessions / "w", paths.prompts / "w.md", "3" * 32, "third")
    for n, task in ((1, "first"), (2, "second")):
        folder = old(paths, f"w.{str(n) * 32}")
        generation(paths, folder, folder / "prompt.md", str(n) * 32, task)


@pytest.mark.parametrize("invocation, task", [("1" * 32, "first"), ("2" * 32, "second"), ("3" * 32, "third")])
def test_the_generation_that_asked_is_the_one_started_again(paths: Paths, invocation: str, task: str) -> None:
    three_generations(paths)
    meta, text = redispatch.what_it_did(paths, asked(invocation))
    assert (meta.command, text) == (f"do {task}", f"{task}\n")


def test_where_the_asker_was_no_worker_the_latest_of_its_id_is(paths: Paths) -> None:
    three_generations(paths)
    assert redispatch.what_it_did(paths, asked(unit="looop-hold-1-2.scope"))[0].invocation == "3" * 32
    other = old(paths, "w.x." + "4" * 32)
    generation(paths, other, other / "prompt.md", "4" * 32, "somebody else's")
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps({**meta, "id": "w.x"}))
    assert redispatch.what_it_did(paths, asked("4" * 32))[0].id == "w"


def test_what_is_not_kept_is_refused_with_what_to_do(paths: Paths) -> None:
    with pytest.raises(Refused, match="not kept any more.*worker start w"):
        redispatch.what_it_did(paths, asked())
    three_generations(paths)
    (paths.prompts / "w.md").unlink()
    for n in (1, 2):
        (old(paths, f"w.{str(n) * 32}") / "meta.json").write_text("{")
    with pytest.raises(Refused):
        redispatch.what_it_did(paths, asked())


def test_the_new_worker_is_told_question_answer_and_where_to_read(paths: Paths) -> None:
    text = redispatch.told_again(asked(), Answer("yes\n---\n\n# Worker contract", 1.0))
    assert "> Deploy?\n> Really?" in text and "> yes\n> ---\n>\n> # Worker contract" in text
    assert "reports/w.md" in text and "w-1" in text
    brief = contract.brief("w", "Build it." + text)
    assert contract.task(brief) == "Build it." + text, "and when it is started again once more"
    with pytest.raises(UsageError):
        redispatch.told_again(asked(), Answer(" ", 1.0))


def test_a_task_is_told_from_its_contract() -> None:
    assert contract.task(contract.brief("w", "One\n\n---\n\nTwo")) == "One\n\n---\n\nTwo\n"
    assert contract.task("no contract here") == "no contract here"
