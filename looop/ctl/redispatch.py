"""`looopctl answer --redispatch`: the asker is gone, so a new worker of its id is started with question and answer.

It is given the task, the command, the check and the limits of the session that asked. The answer is recorded before
anything is started, and the ask stays open until the new worker runs: nothing the human said can be lost.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from looop import audit, claims, clock, mailbox, store
from looop.ctl import worker
from looop.ctl.command import Context
from looop.errors import Refused, StateError, UsageError
from looop.mailbox import Answer, Ask
from looop.paths import Paths
from looop.sessions import contract, launch, records
from looop.systemd.manager import Manager
from looop.systemd.names import worker_unit


def redispatch(context: Context, ask_id: str, text: Callable[[], str], given: bool, force: bool) -> Ask:
    """Answer a stranded ask and start its work again; the ask with its answer. Raises Refused.

    `text` is read unless there is an answer already and none was `given` on the command line.
    """
    paths, now = context.paths, clock.now()
    ask = mailbox.find(paths, ask_id)
    if ask is None or ask.end:
        why = f"it was {ask.end} already" if ask else "no such ask"
        raise Refused(f"cannot redispatch {ask_id}: {why}", hint="`looopctl asks` lists the open ones")
    refuse_while_anyone_lives(ask)
    meta, task = what_it_did(paths, ask)
    if given or ask.answer is None or force:
        ask = mailbox.answer(paths, ask_id, text(), now.wall, force)
        audit.line(paths, context.config, f"answered {ask_id} · {ask.answer.text if ask.answer else ''}", "", now)
    assert ask.answer is not None
    brief = launch.Brief(
        ask.worker, task + told_again(ask, ask.answer), meta.command, meta.verify, limits=meta.limits
    )  # fmt: skip
    asyncio.run(worker.start(context, brief))
    mailbox.close(paths, ask_id, "redispatched", now.wall)
    audit.line(paths, context.config, f"start-worker {ask.worker} · again, with the answer to {ask_id}", "", now)
    return ask


def refuse_while_anyone_lives(ask: Ask) -> None:
    """Raises Refused when its asker or a later worker of that id lives, Unavailable when that cannot be told."""
    with Manager("user") as user, Manager("system") as system:
        if ask.holder and claims.judge(user, system)(ask.holder):
            hint = "without --redispatch the answer reaches it"
            raise Refused(f"cannot redispatch {ask.id}: {ask.worker} lives and waits for its answer", hint=hint)
        unit = worker_unit(ask.worker)
        if unit in user.live([unit]):
            hint = f"looopctl tell {ask.worker} TEXT reaches it"
            raise Refused(f"cannot redispatch {ask.id}: a later worker {ask.worker} lives", hint=hint)


def what_it_did(paths: Paths, ask: Ask) -> tuple[records.Meta, str]:
    """The record and the task of the session that asked, else of the latest one of its id. Raises Refused."""
    for folder, prompt in _sessions(paths, ask):
        try:
            meta, text = records.read_meta(folder), store.read_text(prompt)
        except StateError:
            continue
        if meta.id == ask.worker and text:
            return meta, contract.task(text)
    raise Refused(
        f"cannot redispatch {ask.id}: the session of {ask.worker} and its prompt are not kept any more",
        hint=f"looopctl worker start {ask.worker} 'what it is to do, and the answer'",
    )


def _sessions(paths: Paths, ask: Ask) -> list[tuple[Path, Path]]:
    """Folder and prompt of each generation there is a record of, the one that asked first, then newest first."""
    current = paths.session(ask.worker)
    generations = [(current, paths.prompts / f"{ask.worker}.md")]
    earlier = sorted((paths.sessions / records.OLD).glob(f"{ask.worker}.*"), key=_changed, reverse=True)
    generations += [(folder, folder / "prompt.md") for folder in earlier]
    asker = ask.holder.invocation if ask.holder and ask.holder.unit == worker_unit(ask.worker) else ""
    return sorted(generations, key=lambda found: bool(asker) and _invocation(found[0]) != asker)


def _changed(folder: Path) -> float:
    return folder.lstat().st_mtime


def _invocation(folder: Path) -> str:
    try:
        return records.read_meta(folder).invocation
    except StateError:
        return ""


def told_again(ask: Ask, answer: Answer) -> str:
    """What the new worker is told beyond its task."""
    if not answer.text.strip():
        raise UsageError(f"cannot redispatch {ask.id}: its answer is empty")
    reference = f"\nIt referred to: {ask.reference}. Read that first.\n" if ask.reference else ""
    return f"""

## You have been started again: {ask.id} is answered

An earlier session of yours worked on this task, asked the human a question and ended before it had the answer.
The answer is there now. Do not redo what is done: see what the earlier session left, and go on from where it asked.
{reference}
The question ({ask.id}):

{_quoted(ask.prompt)}

The human's answer:

{_quoted(answer.text)}
"""


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())
