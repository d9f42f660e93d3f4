"""The only D-Bus code: one connection to a systemd manager, or to the session's bus, made safe.

pystemd's `dbuslib` aborts or crashes the process when a connection is closed twice or used after close, blocks
while it authenticates and drops append errors silently; here none of that can happen. Callers speak str, this
module alone speaks bytes. Used by every process that talks to systemd; one thread per process, since pystemd
holds the GIL for the length of a call. Raises Unavailable (nothing is known) or BusError (the manager said no).
"""

import contextlib
import importlib.util
import os
import signal
import socket
import struct
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from looop.errors import Refused, Unavailable

Scope = Literal["user", "system"]
Place = Literal["user", "system", "session"]

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
_DBUS = "org.freedesktop.DBus"
_TIMEOUT_S = 5.0

# errors that say nothing about the request, only that nobody answered it
_LOST = frozenset(
    "NoReply Disconnected ServiceUnknown NameHasNoOwner NoServer Timeout TimedOut IOError ConnectionRefused Interrupted"
    " ECONNRESET ENOTCONN EPIPE ESHUTDOWN ETIMEDOUT ECHILD EBADF EINTR".split()
)

# type of every unit property we set; org.freedesktop.systemd1(5)
_PROPERTIES = {
    "s": """Description Slice CollectMode KillMode OOMPolicy Type WorkingDirectory ProtectSystem ProtectHome
            StandardInput StandardOutput StandardError StandardInputFile StandardOutputFileToTruncate
            StandardErrorFileToTruncate SyslogIdentifier""",
    "b": """AddRef NoNewPrivileges PrivateUsers PrivateTmp PrivateNetwork RemainAfterElapse Persistent SendSIGKILL
            DefaultDependencies""",
    "t": """RuntimeMaxUSec TimeoutStartUSec TimeoutStopUSec MemoryMax MemoryHigh MemorySwapMax TasksMax CPUWeight
            CPUQuotaPerSecUSec AccuracyUSec LimitFSIZE LimitCORE StartLimitIntervalUSec""",
    "i": "KillSignal LogLevelMax",
    "u": "UMask",
    "as": """Environment UnsetEnvironment ReadWritePaths InaccessiblePaths Documentation
             After Before PartOf Wants Requires BindsTo""",
    "au": "PIDs",
    "a(sasb)": "ExecStart",
    "a(ssbt)": "BindPaths BindReadOnlyPaths",
    "a(st)": "TimersMonotonic",
    "a(ss)": "TimersCalendar Paths",
}
PROPERTY_SIGNATURES = {name: signature for signature, names in _PROPERTIES.items() for name in names.split()}

_SIGNALS = (
    (b"org.freedesktop.systemd1.Manager", b"JobRemoved"),
    (b"org.freedesktop.systemd1.Manager", b"UnitRemoved"),
    (b"org.freedesktop.systemd1.Manager", b"Reloading"),
    (b"org.freedesktop.DBus.Properties", b"PropertiesChanged"),
    (b"org.freedesktop.DBus", b"NameOwnerChanged"),
    (b"org.freedesktop.Notifications", b"ActionInvoked"),
    (b"org.freedesktop.Notifications", b"NotificationClosed"),
)


# systemd 252's sd-bus fails a call whose wait a signal handler interrupts, and the answer is lost
_HELD = (
    signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back for the length of one call."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class BusError(Refused):
    """The manager answered with an error; `kind` is the last part of its D-Bus name, such as "NoSuchUnit"."""

    name = "bus-error"

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Signal:
    """One signal that arrived; `body` is the bare value when it has one argument, else a list."""

    member: str
    path: str
    body: Any


def _library() -> Any:
    """pystemd.dbuslib without pystemd/__init__, whose import of lxml costs 20 ms and 8 MB for introspection only."""
    if "pystemd" not in sys.modules:
        spec = importlib.util.find_spec("pystemd")
        if spec is None or spec.submodule_search_locations is None:
            raise Unavailable("cannot speak to systemd: python3-pystemd is not installed")
        package = types.ModuleType("pystemd")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["pystemd"] = package
    return importlib.import_module("pystemd.dbuslib")


def _failures() -> tuple[type[Exception], ...]:
    """What its calls raise; `dbuslib.DBusError` is a factory, not a class."""
    return importlib.import_module("pystemd.dbusexc").DBusBaseError, SystemError


def unit_path(unit: str) -> str:
    """The object path of a unit: every byte but letters and (not first) digits becomes _xx (sd_bus_path_encode(3))."""
    label = "".join(
        chr(c) if chr(c).isascii() and (chr(c).isalpha() or (i and chr(c).isdigit())) else f"_{c:02x}"
        for i, c in enumerate(unit.encode())
    )
    return f"{MANAGER_PATH}/unit/{label or '_'}"


def unit_of_path(path: str) -> str:
    """The unit an object path stands for, "" when it is no unit's."""
    prefix, _, label = path.rpartition("/")
    if prefix != f"{MANAGER_PATH}/unit":
        return ""
    first, *rest = label.split("_")
    try:
        return first + "".join(bytes.fromhex(part[:2]).decode("latin-1") + part[2:] for part in rest)
    except ValueError:
        return ""


def _encode(value: Any) -> Any:
    """str to bytes, at any depth. pystemd cuts a string at NUL and ignores sd-bus refusing one that is not UTF-8."""
    if isinstance(value, str):
        try:
            data = value.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"cannot hand {value!r} to systemd: not UTF-8") from error
        if b"\0" in data:
            raise Refused(f"cannot hand {value!r} to systemd: it holds a NUL")
        return data
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {_decode(key): _decode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_decode(item) for item in value]
    return value


@dataclass(frozen=True)
class Properties:
    """An argument of type a(sv): unit properties by name, typed by our own table (an unknown name is a KeyError)."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Auxiliary:
    """An argument of type a(sa(sv)): further units of a transient one."""

    units: Sequence[tuple[str, Mapping[str, Any]]] = ()


@dataclass(frozen=True)
class Variants:
    """An argument of type a{sv}: each value with its signature, such as {"urgency": ("y", 2)}."""

    values: Mapping[str, tuple[str, Any]]


_END = (-1, None)


def _arguments(signature: str, args: Sequence[Any]) -> list[Any]:
    """pystemd's flat form of a call's arguments; `signature` covers the plain ones, in order."""
    apply = _library().apply_signature
    plain = iter(_split(signature))
    flat: list[Any] = []
    for argument in args:
        if isinstance(argument, Properties):
            flat += _properties(argument.values)
        elif isinstance(argument, Auxiliary):
            flat.append((ord("a"), b"(sa(sv))"))
            for name, values in argument.units:
                flat += [(ord("r"), b"sa(sv)"), (ord("s"), _encode(name)), *_properties(values), _END]
            flat.append(_END)
        elif isinstance(argument, Variants):
            flat.append((ord("a"), b"{sv}"))
            for name, (kind, value) in argument.values.items():
                flat += [(ord("e"), b"sv"), (ord("s"), _encode(name)), (ord("v"), kind.encode())]
                flat += [*apply(kind.encode(), [_encode(value)]), _END, _END]
            flat.append(_END)
        else:
            flat += apply(next(plain).encode(), [_encode(argument)])
    return flat


def _properties(values: Mapping[str, Any]) -> list[Any]:
    apply = _library().apply_signature
    flat: list[Any] = [(ord("a"), b"(sv)")]
    for name, value in values.items():
        signature = PROPERTY_SIGNATURES[name].encode()
        flat += [(ord("r"), b"sv"), (ord("s"), name.encode()), (ord("v"), signature)]
        flat += [*apply(signature, [_encode(value)]), _END, _END]
    return [*flat, _END]


def _split(signature: str) -> list[str]:
    """The complete types of a signature without structs: "asas" -> as, as."""
    parts, start = [], 0
    for i, char in enumerate(signature):
        if char != "a":
            parts.append(signature[start:i + 1])
            start = i + 1
    return parts


def address(scope: Place) -> str:
    """Path of the socket of the bus this manager is on, or of the session's bus (a NUL first: an abstract one).

    Only for the latter $DBUS_SESSION_BUS_ADDRESS is asked: it may name a bus the user manager is not on
    (dbus-run-session(1)).
    """
    if scope == "system":
        return "/run/dbus/system_bus_socket"
    if scope == "session":
        for place in os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").split(";"):
            kind, _, value = place.split(",")[0].partition("=")
            if kind in ("unix:path", "unix:abstract") and value:
                return "\0" * (kind == "unix:abstract") + _unescaped(value)
    return os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") + "/bus"


def _dbus_address(path: str) -> bytes:
    kind = "abstract" if path.startswith("\0") else "path"
    plain = b"-_/.\\*"  # D-Bus specification, "Server Addresses"
    name = os.fsencode(path.removeprefix("\0"))
    return f"unix:{kind}=".encode() + b"".join(
        bytes([c]) if chr(c).isascii() and chr(c).isalnum() or c in plain else b"%%%02x" % c for c in name
    )


def _unescaped(value: str) -> str:
    first, *rest = os.fsencode(value).split(b"%")
    return os.fsdecode(first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest))


def _message(serial: int, destination: str, path: str, interface: str, member: str) -> bytes:
    """A method call without arguments on the wire (D-Bus specification, "Message Format")."""
    fields = b""
    for code, kind, value in ((1, b"o", path), (2, b"s", interface), (3, b"s", member), (6, b"s", destination)):
        fields += bytes(-len(fields) % 8)
        fields += bytes([code, 1]) + kind + b"\0" + struct.pack("<I", len(value)) + value.encode() + b"\0"
    return struct.pack("<4BIII", ord("l"), 1, 0, 1, 0, serial, len(fields)) + fields + bytes(-len(fields) % 8)


def _read(sock: socket.socket, count: int) -> bytes:
    data = sock.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise ConnectionResetError("connection closed")
    return data


def _reply(sock: socket.socket) -> bool:
    """Read up to the next answer; False when it is an error."""
    while True:
        head = _read(sock, 16)
        body, fields = struct.unpack_from("<I", head, 4)[0], struct.unpack_from("<I", head, 12)[0]
        _read(sock, fields + -fields % 8 + body)
        if head[1] in (2, 3):
            return head[1] == 2


def reach(scope: Place, timeout: float = _TIMEOUT_S) -> None:
    """Ask the manager, or the session's bus itself, for a sign of life. Raises Unavailable.

    Bounded, and with the GIL released: may run in a thread.

    sd-bus has no deadline of its own before a connection is up: it waits 90 s for a bus that accepts and says nothing.
    """
    where = address(scope)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(where)
            sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
            if not sock.recv(256).startswith(b"OK "):
                raise PermissionError("the bus refused this user")
            hello = _message(1, _DBUS, "/org/freedesktop/DBus", _DBUS, "Hello")
            peer = (_DBUS, "/org/freedesktop/DBus") if scope == "session" else (SYSTEMD, MANAGER_PATH)
            sock.sendall(b"BEGIN\r\n" + hello + _message(2, *peer, f"{_DBUS}.Peer", "Ping"))
            if not (_reply(sock) and _reply(sock)):
                raise ConnectionRefusedError("the manager is not on the bus")
    except OSError as error:
        why = f"no answer in {timeout:g} s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise _unreachable(scope, f"{why} ({where})".replace("\0", "@")) from error


def _unreachable(scope: Place, why: str) -> Unavailable:
    if scope == "session":
        return Unavailable(f"cannot reach the session's bus: {why}")
    hint = "`systemctl --user status` shows whether a user manager runs; `loginctl enable-linger` keeps one running"
    return Unavailable(f"cannot reach the {scope} manager of systemd: {why}", hint=hint if scope == "user" else None)


class Bus:
    """One connection. It is closed on the first failure and never used afterwards; `open` makes a new one."""

    def __init__(self, scope: Place) -> None:
        self.scope = scope
        self._bus: Any = None

    @property
    def is_open(self) -> bool:
        return self._bus is not None

    def open(self) -> None:
        """Connect, unless connected. Raises Unavailable."""
        if self._bus is not None:
            return
        # sd-bus' own default is 25 s, and a call holds the GIL until then
        os.environ.setdefault("SYSTEMD_BUS_TIMEOUT", f"{_TIMEOUT_S:g}")
        os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        library = _library()
        reach(self.scope)
        bus = library.DBusAddress(_dbus_address(address(self.scope)), False)
        try:
            with _undisturbed():
                bus.open()
                bus.get_unique_name()
        except _failures() as error:
            bus.close()  # also after a failed open: else descriptor and connection leak
            raise self._translated(error, "connect") from error
        self._bus = bus

    def close(self) -> None:
        """Disconnect; harmless when not connected."""
        bus, self._bus = self._bus, None  # forgotten first: sd-bus aborts the process on a second close
        if bus is not None:
            bus.close()

    def call(
        self, path: str, interface: str, method: str, signature: str = "", *args: Any, destination: str = SYSTEMD
    ) -> Any:
        """Call a method, connecting first if need be. Raises Unavailable or BusError."""
        flat = _arguments(signature, args)
        self.open()
        names = (destination.encode(), path.encode(), interface.encode(), method.encode())
        try:
            with _undisturbed():
                return _decode(self._bus.call_method(*names, flat).body)
        except _failures() as error:
            raise self._translated(error, method) from error

    def get_property(self, path: str, interface: str, name: str, signature: str) -> Any:
        """Read one property. Raises Unavailable or BusError."""
        names = (SYSTEMD.encode(), path.encode(), interface.encode(), name.encode())
        self.open()
        try:
            with _undisturbed():
                value = self._bus.get_property(*names, signature.encode())
        except _failures() as error:
            raise self._translated(error, name) from error
        return {} if signature == "a{sv}" and value == [] else _decode(value)

    def add_match(self, rule: str) -> None:
        """Ask the bus for the signals of `rule`."""
        self.call("/org/freedesktop/DBus", _DBUS, "AddMatch", "s", rule, destination=_DBUS)

    def fileno(self) -> int:
        """The descriptor to watch for input. Raises Unavailable when the connection is gone."""
        fd = -1 if self._bus is None else int(self._bus.get_fd())  # -107 (ENOTCONN) instead of an exception
        if fd < 0:
            self.close()
            raise _unreachable(self.scope, "the connection is gone")
        return fd

    def drain(self) -> list[Signal]:
        """Every signal that has arrived, without waiting. Raises Unavailable when the connection is gone.

        Call it once after `add_match` too: a call moves signals into a queue the descriptor does not show.
        """
        found: list[Signal] = []
        empty = 0
        while empty < 4:  # sd-bus returns an empty message for its own work as well as for "nothing more"
            if self._bus is None:
                raise _unreachable(self.scope, "the connection is gone")
            try:
                message = self._bus.process()
                if message.is_signal(b"org.freedesktop.DBus.Local", b"Disconnected"):
                    self.close()
                    continue
                # is_signal() is safe on a NULL message, the getters are not; is_empty() is true of NULL ones
                member = next((m for i, m in _SIGNALS if message.is_signal(i, m)), None)
                if member is None:
                    empty = empty + 1 if message.is_empty() else 0
                    continue
                empty = 0
                message.process_reply(False)
                found.append(Signal(member.decode(), _decode(message.get_path()), _decode(message.body)))
            except _failures() as error:
                self.close()
                raise _unreachable(self.scope, str(error)) from error
        return found

    def _translated(self, error: Exception, what: str) -> Unavailable | BusError:
        # an error that pystemd has a class for carries no name, there the class is named after it
        kind = _decode(getattr(error, "err_name", "")).rpartition(".")[2]
        kind = kind or type(error).__name__.removeprefix("DBus").removesuffix("Error")
        text = _decode(getattr(error, "err_message", "") or str(error))
        if isinstance(error, SystemError) or kind in _LOST:
            self.close()
            return _unreachable(self.scope, f"{what}: {text}")
        return BusError(f"cannot {what}: {text}", kind)


def rules(members: Iterable[str], interfaces: Iterable[str]) -> list[str]:
    """Match rules for `members` of the manager and for property changes of units with one of `interfaces`."""
    base = f"type='signal',sender='{SYSTEMD}'"
    return [
        *(f"{base},path='{MANAGER_PATH}',interface='{SYSTEMD}.Manager',member='{member}'" for member in members),
        *(
            f"{base},interface='{_DBUS}.Properties',member='PropertiesChanged',path_namespace='{MANAGER_PATH}/unit',"
            f"arg0='{SYSTEMD}.{interface}'"
            for interface in interfaces
        ),
        f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'",
    ]
