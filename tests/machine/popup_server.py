"""A notification server in a thread: org.freedesktop.Notifications, as much of it as looop uses, and a hand.

Speaks D-Bus itself (the specification's wire format, little endian), as no library for servers is installed.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "org.freedesktop.Notifications"
OBJECT = "/org/freedesktop/Notifications"
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
ALIGN = {"y": 1, "b": 4, "i": 4, "u": 4, "s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8}
CAPABILITIES = ("actions", "body", "body-markup")


class Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    def pad(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def put(self, kind: str, value: Any) -> "Writer":
        if kind in "iu":
            self.pad(4)
            self.data += struct.pack("<i" if kind == "i" else "<I", value)
        elif kind in "so":
            raw = value.encode()
            self.put("u", len(raw))
            self.data += raw + b"\0"
        elif kind == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "as":
            inner = Writer()
            for item in value:
                inner.put("s", item)
            self.put("u", len(inner.data))
            self.data += inner.data
        return self


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int, align: int = 1) -> bytes:
        self.at += -self.at % align
        self.at += size
        return self.data[self.at - size : self.at]

    def get(self, kind: str) -> Any:
        if kind[0] in "ybiu":
            size = 1 if kind[0] == "y" else 4
            return int.from_bytes(self.take(size, size), "little", signed=kind[0] == "i")
        if kind[0] in "so":
            text = self.take(self.get("u")).decode()
            self.take(1)
            return text
        if kind[0] == "g":
            text = self.take(self.get("y")).decode()
            self.take(1)
            return text
        if kind[0] == "v":
            return self.get(self.get("g"))
        assert kind[0] == "a"
        end = self.get("u")
        self.take(0, ALIGN[kind[1]])
        end += self.at
        found = []
        while self.at < end:
            if kind[1] == "{":
                self.take(0, 8)
                found.append((self.get(kind[2]), self.get(kind[3:-1])))
            elif kind[1] == "(":
                self.take(0, 8)
                found.append((self.get("y"), self.get("v")))  # of header fields, the only structs there are
            else:
                found.append(self.get(kind[1:]))
        return dict(found) if kind[1] in "{(" else found


@dataclass
class Shown:
    summary: str
    body: str
    actions: list[str]
    hints: dict[str, Any]
    replaces: int
    timeout: int

    @property
    def labels(self) -> list[str]:
        return self.actions[1::2]


@dataclass
class PopupServer:
    """`shown` is what is on the screen now, `history` all calls of Notify. `press` is the human's hand."""

    shown: dict[int, Shown] = field(default_factory=dict)
    history: list[Shown] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    refuse: bool = False
    silent: bool = False

    def __post_init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "bus"))
        self.sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert self.sock.recv(256).startswith(b"OK ")
        self.sock.sendall(b"BEGIN\r\n")
        self.serial = self.number = 0
        self.changed: Callable[[], None] = lambda: None
        bus = ("/org/freedesktop/DBus", "org.freedesktop.DBus")
        self.send(CALL, *bus, "Hello", destination=bus[1])
        self.send(CALL, *bus, "RequestName", "su", NAME, 4, destination=bus[1])
        while self.read()[0] != RETURN:
            pass
        while True:
            kind, fields, body = self.read()
            if kind in (RETURN, ERROR):
                assert kind == RETURN and Reader(body).get("u") == 1, "somebody else has the name"
                break
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def send(self, kind: int, path: str, interface: str, member: str, signature: str = "", *args: Any,
             destination: str = "", reply_to: int = 0) -> None:  # fmt: skip
        body = Writer()
        kinds = [signature] if signature == "as" else list(signature)
        for each, value in zip(kinds, args, strict=True):
            body.put(each, value)
        fields = Writer()
        rows: list[tuple[int, str, Any]] = [(1, "o", path), (2, "s", interface), (3, "s", member)]
        rows += [(5, "u", reply_to), (6, "s", destination), (8, "g", signature)]
        for code, each, value in rows:
            if value and (kind in (CALL, SIGNAL) or code in (5, 6, 8)):
                fields.pad(8)
                fields.data += bytes([code])
                fields.put("g", each)
                fields.put(each, value)
        self.serial += 1
        head = struct.pack("<4BIII", ord("l"), kind, 0, 1, len(body.data), self.serial, len(fields.data))
        padding = bytes(-len(fields.data) % 8)
        self.sock.sendall(head + bytes(fields.data) + padding + bytes(body.data))

    def exactly(self, size: int) -> bytes:
        data = self.sock.recv(size, socket.MSG_WAITALL) if size else b""
        if len(data) < size:
            raise ConnectionError("the bus is gone")
        return data

    def read(self) -> tuple[int, dict[int, Any], bytes]:
        head = self.exactly(16)
        size, serial, length = struct.unpack("<III", head[4:])
        fields = Reader(struct.pack("<I", length) + bytes(4) + self.exactly(length + -length % 8))
        fields.at = 8
        found = {}
        while fields.at < 8 + length:
            fields.take(0, 8)
            code = fields.get("y")
            found[code] = fields.get("v")
        found[0] = serial
        return head[1], found, self.exactly(size)

    def serve(self) -> None:
        try:
            while True:
                kind, fields, body = self.read()
                if kind == CALL:
                    self.answer(fields, Reader(body))
        except (ConnectionError, OSError):
            pass

    def answer(self, fields: dict[int, Any], body: Reader) -> None:
        to: dict[str, Any] = {"destination": fields[7], "reply_to": fields[0]}
        member = fields.get(3)
        if member == "GetCapabilities":
            self.send(RETURN, "", "", "", "as", list(CAPABILITIES), **to)
        elif member == "Notify" and self.refuse:
            self.send(ERROR, "", "", "", **to)
        elif member == "Notify" and not self.silent:
            _, replaces, _, summary, text, actions, hints, timeout = (
                body.get(kind) for kind in ("s", "u", "s", "s", "s", "as", "a{sv}", "i")
            )
            self.number += 0 if replaces else 1
            number = replaces or self.number
            self.shown[number] = Shown(summary, text, actions, hints, replaces, timeout)
            self.history.append(self.shown[number])
            self.send(RETURN, "", "", "", "u", number, **to)
        elif member == "CloseNotification":
            number = body.get("u")
            self.send(RETURN, "", "", "", **to)
            self.dismiss(number, 3)

    def dismiss(self, number: int, reason: int = 2) -> None:
        """It goes off the screen; by the human, unless told otherwise."""
        if self.shown.pop(number, None):
            self.closed.append(number)
            self.send(SIGNAL, OBJECT, NAME, "NotificationClosed", "uu", number, reason)

    def press(self, number: int, label: str) -> None:
        """The button with that label."""
        actions = self.shown[number].actions
        key = actions[actions[1::2].index(label) * 2]
        self.send(SIGNAL, OBJECT, NAME, "ActionInvoked", "us", number, key)

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.sock.close()
