"""Completion scripts say what the parsers say: a verb, action or flag that is added is in all three the same day."""

import re
import subprocess
from pathlib import Path

import pytest

from looop import ctl, store
from looop.ctl import completion, completion_ids, completion_scripts
from looop.ctl.completion import Node, Value
from looop.paths import Paths
from tests.unit.test_importing import NOW

SHELLS = ("bash", "zsh", "fish")
TOP = completion.tree()
SCRIPTS: dict[str, str] = {shell: getattr(completion_scripts, shell)(TOP) for shell in SHELLS}
NODES = [node for node in TOP.all() if node.path]


def name(node: Node) -> str:
    return " ".join(node.path)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    monkeypatch.setenv("LOOOP_DATA_DIR", str(paths.data))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(paths.runtime.parent))


def test_every_verb_is_in_the_tree() -> None:
    assert set(ctl.VERBS) <= set(TOP.nodes)
    assert {"write", "archive", "restore"} <= set(TOP.nodes["goal"].nodes)


@pytest.mark.parametrize("node", NODES, ids=name)
def test_every_action_and_flag_is_in_each_script(node: Node) -> None:
    flags = [flag for option in node.flags for flag in option.names]
    assert "--help" in flags or node.path == ("help",)
    assert table("_looopctl_flags").get(name(node), "").split() == flags
    function = "_".join(["_looopctl", *node.path]).replace("-", "_")
    zsh = re.search(rf"^{function}\(\) {{\n(.*?)^}}", SCRIPTS["zsh"], re.M | re.S)
    assert zsh and all(re.search(rf"{flag}=?\[", zsh[1]) for flag in flags)
    fish = [line for line in SCRIPTS["fish"].splitlines() if f"\\'{name(node)}\\'" in line]
    for flag in flags:
        written = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
        assert any(re.search(rf"{written}( |$)", line) for line in fish), flag
    *above, last = node.path
    assert last in table("_looopctl_below")[" ".join(above) or "top"].split()
    assert any(f"-a '{last}'" in line for line in SCRIPTS["fish"].splitlines())


def table(called: str) -> dict[str, str]:
    """An associative array of the bash script."""
    rows = SCRIPTS["bash"].partition(f"{called}=(\n")[2].partition("\n)\n")[0]
    return dict(re.findall(r"^    \['?([^]]*?)'?\]='?(.*?)'?$", rows, re.M))


def test_values_are_known_by_their_kind() -> None:
    def words(*path: str) -> list[Value]:
        node = TOP
        for part in path:
            node = node.nodes[part]
        return node.words

    assert words("goal", "show") == [Value("@goals")]
    assert words("goal", "restore") == [Value("@known-goals"), Value("@goal-versions")]
    assert words("import") == [Value("folder")] and words("completion") == [Value(choices=SHELLS)]
    assert words("run")[-1] == Value("command") and TOP.nodes["claim"].tail
    values = [value for node in NODES for value in [*node.words, *(flag.value for flag in node.flags if flag.value)]]
    for kind in {value.kind[1:] for value in values if value.kind.startswith("@")}:
        assert f'"{kind}"' in Path(completion_ids.__file__).read_text(), f"nobody answers for {kind}"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_verb_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]


def test_the_bash_script_is_bash() -> None:
    done = subprocess.run(["bash", "-n"], input=SCRIPTS["bash"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# -- ids


def offered(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert ctl.main(["_ids", *words]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out.split()


def test_what_lives_is_offered(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    for ask, answered in (("w-1", True), ("w-2", False)):
        store.write_json(paths.asks / f"{ask}.json", {})
        if answered:
            store.write_json(paths.answers / f"{ask}.json", {})
    for folder in ("sessions/w", "sessions/x", "sessions/.old", "runs/beat-1", "runs/beat-2"):
        (paths.data / folder).mkdir()
    units = paths.runtime.parent / "systemd/units"
    units.mkdir(parents=True)
    (units / "invocation:looop-worker-w.scope").symlink_to("a" * 32)
    (units / "invocation:looop.service").symlink_to("a" * 32)
    store.write_json(paths.claims / "repo.json", {})
    assert offered(capsys, "asks") == ["w-2"]
    assert offered(capsys, "workers") == ["w"] and offered(capsys, "dead") == ["x"]
    assert offered(capsys, "sessions") == ["w", "x"]
    assert offered(capsys, "claims") == ["repo"], "the name, not that of its file"
    assert offered(capsys, "runs") == ["beat-2", "beat-1"]
    assert offered(capsys, "explained") == ["w", "x", "beat-2", "beat-1"]


def test_versions_are_those_of_what_was_named(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    from looop import policy
    from looop.config import Config

    for goal in ("a", "b"):
        for n in range(2):
            policy.write_goal(paths, Config(), goal, f"{goal} {n}", NOW)
    [stamp] = offered(capsys, "goal-versions", "a")
    assert (paths.history / "goals/a" / f"{stamp}.md").read_text() == "a 0\n"
    assert offered(capsys, "goal-versions") == [] and offered(capsys, "known-goals") == ["a", "b"]


def test_a_name_that_a_shell_would_expand_is_never_offered(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    for goal in ("good", "$(reboot)", "`reboot`", "two words", "semi;colon", "\x1b[2J"):
        (paths.goals / f"{goal}.md").write_text("x")
    assert offered(capsys, "goals") == ["good"]


def test_nothing_is_said_rather_than_an_error(
    paths: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered(capsys) == offered(capsys, "nosuch") == offered(capsys, "goal-versions", "../x") == []
    paths.claims.rmdir()
    paths.claims.write_text("a file")
    assert offered(capsys, "claims") == []
    monkeypatch.setenv("LOOOP_DATA_DIR", "/nonexistent")
    assert offered(capsys, "goals") == []
