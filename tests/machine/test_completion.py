"""Every real shell completes what there is: verbs, flags, files, and the ids that live at that moment."""

import contextlib
import os
import pty
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine.harness import DATA, HOME, LOOOPCTL, Events, command, looopctl, looopctl_json, wipe

SHARE = HOME / ".local/share"
GOALS = {"garden", "roof"}

# bash-completion finds the installed script by itself; $1 is the line
BASH = """
source /usr/share/bash-completion/bash_completion
if declare -F _comp_load >/dev/null; then _comp_load looopctl; else _completion_loader looopctl; fi
read -r _ _ function _ <<<"$(complete -p looopctl)"
COMP_LINE=$1
read -ra COMP_WORDS <<<"$1"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$function" looopctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

# the completion system works inside the line editor only: a line is put there, and what is added to the list noted
ZSHRC = """
fpath+=($HOME/.local/share/zsh/site-functions)
autoload -Uz compinit
compinit -D
compadd() {
    local -a hits
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)* ]]; then
        builtin compadd -A hits "$@"
        print -rl -- $hits >>$NOTED
    fi
    builtin compadd "$@"
}
comppostfuncs=(exit)
zle-line-init() { BUFFER=$LINE_TO_COMPLETE; CURSOR=$#BUFFER; zle complete-word }
zle -N zle-line-init
"""


def bash(line: str, tmp_path: Path) -> set[str]:
    return set(command("bash", "-c", BASH, "bash", line).stdout.split())


def fish(line: str, tmp_path: Path) -> set[str]:
    shown = command("fish", "-c", f"complete -C '{line}'").stdout.splitlines()
    return {row.partition("\t")[0] for row in shown}


def zsh(line: str, tmp_path: Path) -> set[str]:
    (tmp_path / ".zshrc").write_text(ZSHRC)
    noted = tmp_path / "noted"
    noted.write_text("")
    ours, theirs = pty.openpty()
    env = {**os.environ, "ZDOTDIR": str(tmp_path), "NOTED": str(noted), "LINE_TO_COMPLETE": line, "TERM": "dumb"}
    shell = subprocess.Popen(["zsh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    shown = b""
    ended = os.pidfd_open(shell.pid)
    try:
        while ended not in (ready := select.select([ended, ours], [], [], 20.0)[0]):
            assert ready, f"zsh does not end: {shown.decode(errors='replace')}"
            with contextlib.suppress(OSError):  # it has closed its terminal, so it ends
                shown += os.read(ours, 65536)
    finally:
        shell.kill()
        shell.wait()
        os.close(ended)
        os.close(ours)
    return set(noted.read_text().split())


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    wipe()
    yield
    wipe()


@pytest.fixture(params=SHELLS)
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], set[str]]:
    """`complete(line)`: what the shell offers at its end."""
    return lambda line: SHELLS[request.param](line, tmp_path)


def test_verbs_actions_flags_and_choices(complete: Callable[[str], set[str]]) -> None:
    assert complete("looopctl ans") == {"answer"}
    assert complete("looopctl goal re") == {"restore"}
    assert complete("looopctl goal write roof --jo") == {"--journal"}
    assert complete("looopctl completion ") == {"bash", "zsh", "fish"}
    assert complete("looopctl init --runner ") == {"rules", "command"}


def test_ids_that_live(complete: Callable[[str], set[str]], events: Events) -> None:
    for text in ("Mend it.", "Mend it well."):
        looopctl("goal", "write", "roof", text)
    looopctl("goal", "write", "garden", "Water it.")
    looopctl("sensor", "write", "rain", "#!/bin/sh\necho {}")
    assert complete("looopctl goal show ") == GOALS
    assert complete("looopctl goal show r") == {"roof"}
    assert complete("looopctl sensor run ra") == {"rain"}
    [version] = looopctl_json("goal", "history", "roof")
    assert complete("looopctl goal restore roof ") == {version["stamp"]}
    assert complete("looopctl goal restore garden ") == set()
    asking = subprocess.Popen(
        [LOOOPCTL, "ask", "w1", "--prompt", "Tiles?"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        events.wait_for(lambda: list((DATA / "asks").glob("*.json")))
        assert complete("looopctl answer ") == {"w1-1"}
    finally:
        looopctl("answer", "w1-1", "yes", check=False)
        asking.communicate(timeout=20)
    assert complete("looopctl answer ") == set()


def test_folders_where_a_folder_is_meant(complete: Callable[[str], set[str]], tmp_path: Path) -> None:
    (tmp_path / "old-looop").mkdir()
    (tmp_path / "old-file").touch()
    offered = complete(f"looopctl import {tmp_path}/old-")
    assert {name.rstrip("/").rpartition("/")[2] for name in offered} == {"old-looop"}


def test_ids_cost_no_wait_and_no_bus() -> None:
    """What is pressed for must not hang: the bus is not there at all."""
    done = looopctl("_ids", "workers", env={"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"}, timeout=5)
    assert (done.stdout.strip(), done.stderr) == ("", "")
