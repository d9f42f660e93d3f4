"""How a confined command is described to systemd, and what its end is called."""

from pathlib import Path

import pytest

from looop.systemd.bus import PROPERTY_SIGNATURES
from looop.systemd.services import Confinement, Outcome, _confined


@pytest.mark.parametrize(
    ("outcome", "text", "ok"),
    [
        (Outcome("success", 0), "exited 0", True),
        (Outcome("exit-code", 3), "exited 3", False),
        (Outcome("exit-code", 226), "exited 226 (this host cannot confine it, or a path is missing)", False),
        (Outcome("exit-code", 153), "exited 153 (wrote a file larger than allowed)", False),
        (Outcome("signal", None, 9), "was killed by SIGKILL", False),
        (Outcome("signal", None, 25), "was killed by SIGXFSZ (wrote a file larger than allowed)", False),
        (Outcome("core-dump", None, 99), "was killed by signal 99", False),
        (Outcome("timeout", 0), "timed out", False),
        (Outcome("oom-kill", None, 9), "was killed because memory ran out (oom-kill)", False),
        (Outcome("canceled"), "was stopped from outside", False),
        (Outcome("resources"), "ended as 'resources'", False),
    ],
)
def test_an_outcome_names_its_cause(outcome: Outcome, text: str, ok: bool) -> None:
    assert (outcome.text(), outcome.ok) == (text, ok)


def test_confinement_always_asks_for_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    for confine in (Confinement(), Confinement(read_only=False, bus=True, network=False, private_tmp=False)):
        properties = _confined(confine, ())
        assert properties["PrivateUsers"] is True  # systemd 252's user manager ignores the rest without it
        assert set(properties) <= set(PROPERTY_SIGNATURES)
    hidden = _confined(Confinement(), ())["InaccessiblePaths"]
    assert hidden == ["-/run/user/7/bus", "-/run/user/7/systemd"]
    assert "InaccessiblePaths" not in _confined(Confinement(bus=True), ())


def test_folders_under_tmp_are_mounted_into_a_private_tmp() -> None:
    confine = Confinement(write_paths=("/tmp/w", "/home/w"))
    properties = _confined(confine, (Path("/tmp/cwd"), Path("/tmp/w"), Path("/home/x")))
    assert properties["BindPaths"] == [("/tmp/w", "/tmp/w", True, 0)]
    assert properties["BindReadOnlyPaths"] == [("/tmp/cwd", "/tmp/cwd", True, 0)]
    assert properties["ReadWritePaths"] == ["-/home/w"]
    # an empty list of either clears both
    assert not {"BindPaths", "BindReadOnlyPaths"} & set(_confined(Confinement(), (Path("/home/x"),)))
