"""Who runs where, from the text of /proc/PID/cgroup, and whether that very run still lives."""

import os
from pathlib import Path
from typing import Any

import pytest

from looop.clock import boot_id
from looop.errors import Refused, Unavailable
from looop.jsonutil import JsonError
from looop.systemd import identity
from looop.systemd.identity import Holder, holder, is_live, unit_of_cgroup

USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"0::{USER}/app.slice/app-gnome-x\\x2dy.scope\n", ("user", "app-gnome-x\\x2dy.scope")),
        (f"0::{USER}/looop.slice/looop-worker.slice/looop-worker-w1.scope\n", ("user", "looop-worker-w1.scope")),
        (f"0::{USER}/app.slice/foo@a.service/payload/deeper\n", ("user", "foo@a.service")),
        (f"0::{USER}/init.scope\n", ("system", "user@1000.service")),
        (f"0::{USER}\n", ("system", "user@1000.service")),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ("system", "session-3.scope")),
        ("0::/user.slice/user-1001.slice/user@1001.service/app.slice/a.service\n", ("system", "user@1001.service")),
        ("0::/system.slice/cron.service\n", ("system", "cron.service")),
        ("0::/system.slice/_cpu.service\n", ("system", "cpu.service")),  # names of the kernel are escaped with a _
        ("0::/system.slice/system-getty.slice/getty@tty1.service\n", ("system", "getty@tty1.service")),
        ("0::/_cpu.slice/a.service\n", ("system", "a.service")),
        ("9:name=systemd:/\n4:memory:/\n0::/system.slice/run-u9.service\n", ("system", "run-u9.service")),
        ("5:memory:/a\n1:name=systemd:/user.slice/user-1000.slice/session-c1.scope\n", ("system", "session-c1.scope")),
        (f"1:name=systemd:{USER}/app.slice/a.service\n0::/\n", ("user", "a.service")),
        ("0::/\n", None),
        ("0::/init.scope\n", None),
        ("0::/user.slice\n", None),
        ("0::/payload/x\n", None),
        ("0::/../../system.slice/a.service\n", None),
        ("0::/docker/8f3a\n", None),
        ("", None),
        ("nonsense", None),
    ],
)  # fmt: skip
def test_the_unit_is_read_from_the_control_group(text: str, expected: tuple[str, str] | None) -> None:
    assert unit_of_cgroup(text, uid=1000) == expected


class Fake:
    """A manager that knows some live units."""

    def __init__(self, **units: str) -> None:
        self.units = {name.replace("_", "."): invocation for name, invocation in units.items()}

    def live(self, patterns: list[str]) -> dict[str, str]:
        return {name: i for name, i in self.units.items() if name in patterns}


class Gone(Fake):
    def live(self, patterns: list[str]) -> dict[str, str]:
        raise Unavailable("cannot reach the manager")


A = Holder("a.service", "user", "1" * 32, boot_id())


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"a_service": "1" * 32}, True), ({"a_service": "2" * 32}, False), ({}, False)],
    ids=["the same run", "another run of the unit", "gone"],
)
def test_a_holder_lives_as_long_as_its_invocation(units: dict[str, str], expected: bool) -> None:
    user: Any = Fake(**units)
    other: Any = Gone()
    assert is_live(A, user, other) is expected
    assert is_live(Holder("a.service", "system", "1" * 32, boot_id()), other, user) is expected


def test_a_holder_of_another_boot_is_dead_without_asking() -> None:
    gone: Any = Gone()
    assert is_live(Holder("a.service", "user", "1" * 32, "f" * 32), gone, gone) is False


def test_a_holder_that_cannot_be_judged_is_not_called_dead() -> None:
    gone: Any = Gone()
    with pytest.raises(Unavailable):
        is_live(A, gone, gone)


def test_a_holder_survives_json_and_a_bad_one_is_named() -> None:
    assert Holder.from_json(A.to_json()) == A
    with pytest.raises(JsonError, match="manager"):
        Holder.from_json({**A.to_json(), "manager": "root"})
    with pytest.raises(JsonError, match="invocation"):
        Holder.from_json({"unit": "a", "manager": "user", "boot": "b"})


def test_a_process_in_no_unit_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "unit_of_cgroup", lambda text: None)
    with pytest.raises(Refused, match="no systemd unit") as refusal:
        holder()
    assert refusal.value.hint and "systemd-run" in refusal.value.hint


def test_the_invocation_comes_from_the_manager_of_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "unit_of_cgroup", lambda text: ("system", "a.service"))
    user: Any = Gone()
    system: Any = Fake(a_service="3" * 32)
    assert holder(os.getpid(), user, system) == Holder("a.service", "system", "3" * 32, boot_id())
    with pytest.raises(Refused, match="knows no running a.service"):
        holder(os.getpid(), user, Fake())  # type: ignore[arg-type]


def test_a_process_that_is_gone_is_refused() -> None:
    assert not Path("/proc/4194305").exists()  # above the kernel's largest pid
    with pytest.raises(Refused):
        holder(4194305)
