"""Asking shims over their control sockets, never longer than the caller's deadline. Used by pulse and `looopctl`."""

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from looop.errors import StateError, Unavailable
from looop.jsonutil import JsonError, as_object, get_bool, get_num, get_object, get_opt_int, get_str
from looop.paths import Paths
from looop.sessions import wire


@dataclass(frozen=True)
class Idle:
    """Seconds without output and without processor time, and what the session uses; None is unknown, never much."""

    output_s: float | None = None
    cpu_s: float | None = None
    used_s: float | None = None  # processor time since its start
    memory_bytes: int | None = None
    tasks: int | None = None

    @property
    def both_s(self) -> float | None:
        """How long neither happened."""
        return None if self.output_s is None or self.cpu_s is None else min(self.output_s, self.cpu_s)


async def query(paths: Paths, worker_id: str, op: str, timeout: float = 1.0, **fields: object) -> dict[str, Any]:
    """One request; the reply's data. Raises Unavailable when the shim cannot be asked, StateError when it refuses."""
    path = paths.control(worker_id)
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path, limit=wire.LINE_MAX)
            writer.write(wire.encode({"op": op, **fields}))
            reply = wire.decode(await reader.readline())
        if not get_bool(reply, "ok"):
            raise StateError(f"cannot {op} worker {worker_id}: {get_str(reply, 'error')}")
        return get_object(reply, "data")
    except TimeoutError as error:
        raise Unavailable(f"cannot ask worker {worker_id}: no answer in {timeout:g} s") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot ask worker {worker_id}: {error}") from error
    finally:
        if writer is not None:
            writer.close()


def hold(paths: Paths, worker_id: str, op: str, timeout: float = 2.0) -> socket.socket:
    """A connection on which FOLLOW or TYPE was answered; the caller closes it. Raises as `query` does.

    ConnectionRefusedError and FileNotFoundError pass through: nobody listens, the session is over.
    """
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(timeout)
        link.connect(str(paths.control(worker_id)))
        link.sendall(wire.encode({"op": op}))
        line = b""
        while not line.endswith(b"\n"):  # one byte at a time: what follows the reply belongs to the caller
            more = link.recv(1)
            if not more:
                raise ConnectionResetError("it hung up")
            line += more
        reply = wire.decode(line)
        if not get_bool(reply, "ok"):
            error = get_str(reply, "error")
            old = "it was started by an earlier looop" if error.startswith("unknown op") else None
            raise StateError(f"cannot attach to worker {worker_id}: {error}", hint=old)
    except (ConnectionRefusedError, FileNotFoundError):
        link.close()
        raise
    except (OSError, ValueError) as error:
        link.close()
        raise Unavailable(f"cannot ask worker {worker_id}: {error or 'no answer'}") from error
    except StateError:
        link.close()
        raise
    return link


async def probe(paths: Paths, worker_ids: Iterable[str], timeout: float = 1.0) -> dict[str, Idle]:
    """How idle each worker is, asked of all at once; one that does not answer is left out."""
    asked = list(worker_ids)
    found = await asyncio.gather(*(_idle(paths, worker_id, timeout) for worker_id in asked))
    return {worker_id: idle for worker_id, idle in zip(asked, found, strict=True) if idle is not None}


async def _idle(paths: Paths, worker_id: str, timeout: float) -> Idle | None:
    try:
        data = as_object(await query(paths, worker_id, wire.STATUS, timeout))
        return Idle(
            get_num(data, "idle_s"),
            None if data.get("cpu_idle_s") is None else get_num(data, "cpu_idle_s"),
            None if data.get("cpu_s") is None else get_num(data, "cpu_s"),
            get_opt_int(data, "memory"),
            get_opt_int(data, "tasks"),
        )
    except (Unavailable, StateError, JsonError):
        return None
