"""Access to systemd, without one: what cannot crash, what is refused, and what a silent bus costs."""

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from looop.errors import Refused, Unavailable
from looop.systemd import bus
from looop.systemd.bus import Auxiliary, Bus, Properties, Signal, Variants
from looop.systemd.manager import Manager


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        ("looop-worker-a.b.scope", "looop_2dworker_2da_2eb_2escope"),
        ("1st.service", "_31st_2eservice"),
        ("app-x\\x2dy.scope", "app_2dx_5cx2dy_2escope"),
    ],
)
def test_a_unit_and_its_object_path_stand_for_each_other(unit: str, label: str) -> None:
    path = f"/org/freedesktop/systemd1/unit/{label}"
    assert bus.unit_path(unit) == path
    assert bus.unit_of_path(path) == unit


@pytest.mark.parametrize("path", ["/org/freedesktop/systemd1/job/7", "/", "/org/freedesktop/systemd1/unit/a_zz"])
def test_another_path_is_no_unit(path: str) -> None:
    assert bus.unit_of_path(path) == ""


@pytest.mark.parametrize("bad", ["a\0b", "a\udc80b"])
def test_text_that_would_be_cut_or_lost_is_refused(bad: str) -> None:
    with pytest.raises(Refused):
        bus._arguments("as", [[bad]])


def test_a_dictionary_of_variants_is_an_argument_too() -> None:
    assert bus._arguments("si", ["a", Variants({"urgency": ("y", 2)}), -1]) == [
        (ord("s"), b"a"), (ord("a"), b"{sv}"), (ord("e"), b"sv"), (ord("s"), b"urgency"), (ord("v"), b"y"),
        (ord("y"), 2), (-1, None), (-1, None), (-1, None), (ord("i"), -1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("unix:path=/tmp/dbus-a%20b,guid=1f", "/tmp/dbus-a b"),
        ("unix:abstract=/tmp/x,guid=1f", "\0/tmp/x"),
        ("tcp:host=localhost,port=1;unix:path=/tmp/y", "/tmp/y"),
        ("", "{runtime}/bus"),
    ],
)
def test_the_sessions_bus_is_where_the_environment_says(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, given: str, path: str
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", given)
    assert bus.address("session") == path.format(runtime=runtime)
    assert bus.address("user") == f"{runtime}/bus"


def test_an_address_is_escaped_as_d_bus_wants_it() -> None:
    assert bus._dbus_address("/run/user/1000/bus") == b"unix:path=/run/user/1000/bus"
    assert bus._dbus_address("\0a,b") == b"unix:abstract=a%2cb"


def test_an_unknown_property_is_a_fault_of_the_caller() -> None:
    with pytest.raises(KeyError):
        bus._arguments("ss", ["a.scope", "fail", Properties({"Bogus": 1})])


def test_arguments_nest_as_the_manager_wants_them() -> None:
    flat = bus._arguments("s", ["a.scope", Properties({"PIDs": [7]}), Auxiliary()])
    assert flat == [
        (ord("s"), b"a.scope"), (ord("a"), b"(sv)"), (ord("r"), b"sv"), (ord("s"), b"PIDs"), (ord("v"), b"au"),
        (ord("a"), b"u"), (ord("u"), 7), (-1, None), (-1, None), (-1, None), (-1, None), (ord("a"), b"(sa(sv))"),
        (-1, None),
    ]  # fmt: skip


def test_no_pattern_asks_nothing() -> None:
    assert Manager().list_units([]) == {}  # to systemd it would mean every unit


def test_no_bus_is_unavailable_and_closing_twice_is_harmless(runtime: Path) -> None:
    connection = Bus("user")
    for _ in range(2):
        with pytest.raises(Unavailable, match="user manager"):
            connection.open()
        connection.close()
    assert not connection.is_open
    with pytest.raises(Unavailable):
        connection.drain()
    with pytest.raises(Unavailable):
        connection.fileno()


def test_a_bus_that_accepts_and_says_nothing_is_given_up_on(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(runtime / "bus"))
        server.listen()
        with pytest.raises(Unavailable, match="no answer in 0.05 s"):
            bus.reach("user", 0.05)


@pytest.mark.parametrize("answer", [b"REJECTED EXTERNAL\r\n", b"OK 1\r\n", b""], ids=["rejects", "hangs up", "closes"])
def test_a_bus_that_refuses_or_goes_away_is_unavailable(runtime: Path, answer: bytes) -> None:
    def serve(server: socket.socket) -> None:
        with server.accept()[0] as client:
            client.recv(256)
            client.sendall(answer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(runtime / "bus"))
        server.listen()
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with pytest.raises(Unavailable):
            bus.reach("user", 2)
        thread.join()


class Message:
    """What pystemd's process() returns, as far as it may be touched."""

    def __init__(self, interface: str = "", member: str = "", body: Any = None) -> None:
        self.names = (interface.encode(), member.encode())
        self.body: Any = None
        self._body = body

    def is_signal(self, interface: bytes, member: bytes) -> bool:
        return self.names == (interface, member)

    def is_empty(self) -> bool:
        return self._body is None

    def process_reply(self, with_headers: bool) -> None:
        assert not with_headers, "header getters crash on some messages"
        self.body = self._body

    def get_path(self) -> bytes:
        return b"/path"


class Library:
    """Stands for one pystemd connection: scripted messages, and close() at most once."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.closed = 0

    def process(self) -> Message:
        assert not self.closed, "used after close: this would crash the process"
        return self.messages.pop(0) if self.messages else Message()

    def close(self) -> None:
        self.closed += 1


def test_signals_behind_messages_without_a_body_are_not_missed() -> None:
    manager = "org.freedesktop.systemd1.Manager"
    connection = Bus("user")
    connection._bus = Library(
        Message(), Message("org.freedesktop.DBus", "NameAcquired", b":1.7"), Message(), Message(),
        Message(manager, "UnitRemoved", [b"a.scope", b"/path"]), Message(), Message(manager, "Reloading", False),
    )  # fmt: skip
    assert connection.drain() == [
        Signal("UnitRemoved", "/path", ["a.scope", "/path"]),
        Signal("Reloading", "/path", False),
    ]


def test_a_lost_connection_is_closed_once_and_never_used_again() -> None:
    library = Library(Message("org.freedesktop.DBus.Local", "Disconnected"))
    connection = Bus("user")
    connection._bus = library
    for _ in range(2):
        with pytest.raises(Unavailable):
            connection.drain()
    connection.close()
    assert library.closed == 1


def test_the_short_lived_commands_do_not_pay_for_what_they_do_not_use() -> None:
    script = "import sys; from looop.systemd import identity, bus; bus._library(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "lxml", "systemd.journal", "pystemd.base"} & set(modules)
