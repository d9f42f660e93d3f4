"""Desktop notifications: org.freedesktop.Notifications on the session's bus.

Knows how to show, replace and take away a notification with buttons, and what its server can do; not what is in
one. Used by looop-desktop, which waits for the buttons, and by whoever needs to know whether there is a desktop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from looop.errors import LooopError
from looop.systemd.bus import Bus, Variants

NAME = "org.freedesktop.Notifications"
PATH = "/org/freedesktop/Notifications"
_DBUS = "org.freedesktop.DBus"
_NORMAL, _CRITICAL = 1, 2
_NEVER = 0  # expire_timeout


@dataclass(frozen=True)
class Popup:
    """What one shows. `body` is plain text; each of `buttons` is a label, known afterwards by its index."""

    summary: str
    body: str
    buttons: Sequence[str] = ()
    urgent: bool = False


@dataclass(frozen=True)
class Pressed:
    """A button of notification `id`."""

    id: int
    button: str


@dataclass(frozen=True)
class Closed:
    """Notification `id` is no longer on the screen."""

    id: int


@dataclass(frozen=True)
class ServerChanged:
    """Another server is there, or ("") none: what the last one showed is gone."""

    owner: str


Event = Pressed | Closed | ServerChanged


def escape(text: str) -> str:
    """Plain text for a server that takes markup in the body."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


class Popups:
    """One connection to the session's bus. Every method may raise Unavailable or BusError."""

    def __init__(self) -> None:
        self._bus = Bus("session")
        self._able: tuple[str, frozenset[str]] = ("", frozenset())

    def __enter__(self) -> "Popups":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._bus.close()

    def _dbus(self, method: str, signature: str = "", *args: object) -> object:
        return self._bus.call("/org/freedesktop/DBus", _DBUS, method, signature, *args, destination=_DBUS)

    def owner(self) -> str:
        """The unique name of the server that runs, "" when none does."""
        return str(self._dbus("GetNameOwner", "s", NAME)) if self._dbus("NameHasOwner", "s", NAME) else ""

    def activatable(self) -> bool:
        """Whether the bus would start a server."""
        names = self._dbus("ListActivatableNames")
        return NAME in (names if isinstance(names, list) else [names])

    def start(self) -> str:
        """Have a server started if none runs; its unique name."""
        if not self.owner():
            self._dbus("StartServiceByName", "su", NAME, 0)
        return self.owner()

    def listen(self) -> None:
        """Ask for buttons, closings and changes of the server; `drain` then has them."""
        base = f"type='signal',sender='{NAME}',path='{PATH}',interface='{NAME}'"
        self._bus.add_match(f"{base},member='ActionInvoked'")
        self._bus.add_match(f"{base},member='NotificationClosed'")
        self._bus.add_match(f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='{NAME}'")

    def fileno(self) -> int:
        return self._bus.fileno()

    def drain(self) -> list[Event]:
        """What has arrived, without waiting; to be called before each wait, as calls take signals off the wire."""
        found: list[Event] = []
        for signal in self._bus.drain():
            body = signal.body if isinstance(signal.body, list) else []
            if signal.member == "ActionInvoked" and len(body) == 2:
                found.append(Pressed(int(body[0]), str(body[1])))
            elif signal.member == "NotificationClosed" and len(body) == 2:
                found.append(Closed(int(body[0])))
            elif signal.member == "NameOwnerChanged" and len(body) == 3 and body[0] == NAME:
                found.append(ServerChanged(str(body[2])))
        return found

    def abilities(self, owner: str) -> frozenset[str]:
        """What the server can do: "actions", "body-markup", ..."""
        if self._able[0] != owner:
            listed = self._bus.call(PATH, NAME, "GetCapabilities", destination=NAME)
            self._able = owner, frozenset([listed] if isinstance(listed, str) else listed or [])
        return self._able[1]

    def show(self, popup: Popup, replaces: int, owner: str) -> int:
        """Show it in place of notification `replaces` (0: of none); its id."""
        able = self.abilities(owner)
        actions = [part for i, label in enumerate(popup.buttons) for part in (str(i), label)]
        hints: dict[str, tuple[str, object]] = {
            "urgency": ("y", _CRITICAL if popup.urgent else _NORMAL),
            "desktop-entry": ("s", "looop"),
            "resident": ("b", bool(popup.buttons)),
        }
        body = escape(popup.body) if "body-markup" in able else popup.body
        return int(self._bus.call(
            PATH, NAME, "Notify", "susssasi", "looop", replaces, "dialog-question" if popup.buttons else "",
            popup.summary, body, actions if "actions" in able else [], Variants(hints), _NEVER, destination=NAME,
        ))  # fmt: skip

    def remove(self, number: int) -> None:
        """Take it off the screen."""
        self._bus.call(PATH, NAME, "CloseNotification", "u", number, destination=NAME)


def server() -> str:
    """The server that runs on the session's bus, "" when none does. Never raises; costs a connection."""
    try:
        with Popups() as popups:
            return popups.owner()
    except LooopError:
        return ""


def possible() -> bool:
    """Whether a server runs or would be started. Never raises; costs a connection."""
    try:
        with Popups() as popups:
            return bool(popups.owner()) or popups.activatable()
    except LooopError:
        return False
