"""The only writer of state: atomic replace, exclusive create, locks, append.

Readers see the old content or the new, never half of it. "Absent" is said only when the kernel says ENOENT;
any other trouble is a StateError that names the file. The shim's transcript and exit record are the exception
(it may import nothing of ours).
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import select
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from looop.errors import StateError, TryAgain
from looop.jsonutil import JsonError, as_object

_counter = itertools.count()


def _cannot(verb: str, path: Path, error: OSError) -> StateError:
    hint = {
        errno.EROFS: "the file system is mounted read-only",
        errno.ENOSPC: "free some space, then try again",
        errno.EDQUOT: "the quota is used up",
        errno.EACCES: f"it must be owned and writable by uid {os.getuid()}",
        errno.EISDIR: "a folder stands where a file belongs: move it away",
    }.get(error.errno or 0)
    return StateError(f"cannot {verb} {path}: {error.strerror or error}", hint=hint)


def read_bytes(path: Path) -> bytes | None:
    """The content, or None when there is no such file. Raises StateError for anything else, and never blocks."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StateError(f"cannot read {path}: it is no regular file", hint="move it away")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", path, error) from error


def read_text(path: Path) -> str | None:
    """Like `read_bytes`, as UTF-8."""
    data = read_bytes(path)
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise StateError(f"cannot read {path}: not UTF-8 at byte {error.start}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None when there is no such file. Raises StateError when it is not one."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return as_object(json.loads(text), "content")
    except (JsonError, json.JSONDecodeError, RecursionError) as error:
        raise StateError(f"cannot read {path}: {error}", hint="mend it or move it away") from error


def read_record(path: Path) -> dict[str, Any] | None:
    """`read_json` for the folders that any script writes to: a link, FIFO or folder there is refused, not followed."""
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", path, error) from error
    if kind != stat.S_IFREG:
        raise StateError(f"cannot read {path}: not a regular file", hint="move it away")
    return read_json(path)


def dump_json(obj: object) -> str:
    """The form of every JSON file here: readable, one trailing newline, no NaN, and UTF-8 whatever is in it."""
    text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 (PEP 383) got into some message
        text = json.dumps(obj, indent=1, allow_nan=False)
    return text + "\n"


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int, durable: bool = True) -> Iterator[Path]:
    """A fully written, synced sibling of `path`; removed on the way out unless it was renamed."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.{next(_counter)}.tmp")
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        yield temp
    except OSError as error:
        raise _cannot("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temp.unlink()


def write(path: Path, data: str | bytes, mode: int = 0o600) -> None:
    """Replace `path` atomically and durably (rename(2), fsync of file and folder). Raises StateError."""
    raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    with _temporary(path, raw, mode) as temp:
        os.replace(temp, path)
        _fsync_folder(path.parent)


def write_changed(path: Path, data: bytes) -> bool:
    """Replace `path` atomically if its content differs; True if it did. Raises StateError.

    Not synced: for what is made anew in every beat, where a power cut costs one beat and a sync costs each one.
    """
    with contextlib.suppress(StateError):
        if read_bytes(path) == data:
            return False
    with _temporary(path, data, 0o600, durable=False) as temp:
        os.replace(temp, path)
    return True


def write_all(files: Iterable[tuple[Path, bytes, int]]) -> None:
    """`write` for several (path, content, mode): all are written and synced, then renamed one right after the other.

    So that a reader sees nearly always all of them or none. Raises StateError; cut short, some may be replaced.
    """
    with contextlib.ExitStack() as stack:
        ready = [(stack.enter_context(_temporary(path, data, mode)), path) for path, data, mode in files]
        for temp, path in ready:
            os.replace(temp, path)
        for folder in {path.parent for _, path in ready}:
            _fsync_folder(folder)


def write_json(path: Path, obj: object) -> None:
    """`write` for a JSON object."""
    write(path, dump_json(obj))


def create(path: Path, data: str | bytes, mode: int = 0o600) -> bool:
    """Publish `path` complete, only if nothing is there (link(2)); False when something is. Raises StateError."""
    raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    with _temporary(path, raw, mode) as temp:
        try:
            os.link(temp, path, follow_symlinks=False)
        except FileExistsError:
            return False
        _fsync_folder(path.parent)
        return True


def remove(path: Path) -> bool:
    """Unlink `path`; False when it was not there. Raises StateError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot("remove", path, error) from error
    return True


def set_aside(path: Path) -> Path | None:
    """Move what cannot be used to NAME.broken (replacing an earlier one); None when nothing was there."""
    aside = path.with_name(path.name + ".broken")
    try:
        if path.is_dir() or aside.is_dir():  # rename(2) puts neither on top of something
            with contextlib.suppress(FileNotFoundError):
                os.replace(aside, path.with_name(f"{aside.name}.{time.time_ns()}"))
        os.replace(path, aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("move away", path, error) from error
    return aside


def clear_folder(path: Path) -> str:
    """Move a folder away from where a file belongs; a sentence about it, "" when there is none. Raises StateError."""
    if not path.is_dir() or path.is_symlink():
        return ""
    return f"a folder stood in place of {path}: moved to {set_aside(path)}"


@contextlib.contextmanager
def lock(path: Path, timeout: float = 10.0) -> Iterator[None]:
    """Hold an exclusive flock(2) on `path` (made if missing, never unlinked). Raises TryAgain after `timeout` s.

    A timeout of 0 tries once. flock(2) has no deadline, hence the retries, at most 20 ms apart.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot("lock", path, error) from error
    try:
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TryAgain(f"cannot lock {path}: another process holds it") from error
                select.select([], [], [], min(pause, left))
                pause = min(pause * 2, 0.02)
        yield
    finally:
        os.close(fd)


def append_line(path: Path, text: str, max_bytes: int = 0) -> None:
    """Append one record: line breaks become spaces, one write(2), rotated to NAME.1 past `max_bytes` (0 = never)."""
    line = " ".join(text.splitlines()).strip() + "\n"
    try:
        with lock(path.with_name(f".{path.name}.lock")):
            with contextlib.suppress(FileNotFoundError):
                if max_bytes and path.stat().st_size > max_bytes:
                    os.replace(path, path.with_name(path.name + ".1"))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                data = line.encode(errors="replace")
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    data = b"\n" + data  # a writer that died half-way must not swallow this record
                if os.write(fd, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        raise _cannot("append to", path, error) from error


def names(folder: Path, suffix: str) -> list[str]:
    """Sorted stems of the files in `folder` that end in `suffix`. Raises StateError.

    Hidden files and names that are not UTF-8 never count. A missing folder is empty; one that cannot be listed is an
    error, not an empty list.
    """
    try:
        found = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _cannot("list", folder, error) from error
    usable = (n for n in found if n.endswith(suffix) and not n.startswith(".") and _is_utf8(n))
    return sorted(n.removesuffix(suffix) for n in usable)


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= char <= "\udcff" for char in name)  # how undecodable bytes are shown (PEP 383)


def _numbers(found: Mapping[str, Any]) -> dict[str, int]:
    return {stem: n for stem, n in found.items() if isinstance(n, int) and not isinstance(n, bool)}


def _highest(folder: Path) -> dict[str, int]:
    """The highest n of the STEM-n.json in a folder, by stem."""
    found: dict[str, int] = {}
    for name in names(folder, ".json"):
        stem, _, n = name.rpartition("-")
        if n.isascii() and n.isdigit():
            found[stem] = max(found.get(stem, 0), int(n))
    return found


def mend_numbers(ledger: Path, archive: Path) -> str:
    """Make a missing or damaged ledger of used-up numbers anew from the names in `archive`; a sentence about damage.

    To be called under the lock of these records before their numbers are used. Raises StateError.
    """
    known: dict[str, int] = {}
    problem = ""
    try:
        found = read_json(ledger)
        known = _numbers(found or {})
        if found is not None and len(known) == len(found):
            return ""
        if found is not None:
            problem = f"cannot use {ledger}: not all in it are numbers"
    except StateError as error:
        problem = error.message
    for stem, n in _highest(archive).items():
        known[stem] = max(known.get(stem, 0), n)
    if problem:
        set_aside(ledger)
    if problem or known:
        write_json(ledger, known)
    return f"{problem}; made anew from the files there are" if problem else ""


def next_number(stem: str, folders: Iterable[Path], ledger: Path, archive: Path) -> int:
    """1 + the highest n of any STEM-n.json there is or, by `ledger`, there ever was. Raises StateError.

    `archive` may hold many and is not listed: what is in it is in the ledger too (`mend_numbers`, `retire_numbers`).
    """
    highest = _numbers(read_json(ledger) or {}).get(stem, 0)
    for folder in folders:
        highest = max(highest, _highest(folder).get(stem, 0))
    while os.path.lexists(archive / f"{stem}-{highest + 1}.json"):  # the ledger is older than a power cut
        highest += 1
    return highest + 1


def retire_numbers(ledger: Path, ids: Iterable[str], durable: bool = True) -> None:
    """Note in `ledger` that these STEM-n ids are used up. `durable` when their files are to be removed for good."""
    before = _numbers(read_json(ledger) or {})
    known = dict(before)
    for stem, _, n in (name.rpartition("-") for name in ids):
        known[stem] = max(known.get(stem, 0), int(n))
    if durable:
        write_json(ledger, known)
    elif known != before:
        write_changed(ledger, dump_json(known).encode())


def older(folder: Path, suffix: str, limit: float) -> list[str]:
    """Stems of the regular files in `folder` that end in `suffix` and were written before `limit`. Opens none."""
    found = []
    for name in names(folder, suffix):
        with contextlib.suppress(FileNotFoundError):
            status = (folder / (name + suffix)).lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mtime < limit:
                found.append(name)
    return found


def latest(folder: Path, suffix: str, count: int) -> list[str]:
    """Stems of the `count` files in `folder` that were written last, oldest first; 0 = all. Opens none."""
    times = []
    for name in names(folder, suffix):
        with contextlib.suppress(FileNotFoundError):
            times.append(((folder / (name + suffix)).lstat().st_mtime, name))
    return [name for _, name in sorted(times)[-count:]]


def due(note: Path, now: float, every: float) -> bool:
    """True at most once in `every` seconds, which is noted in `note`. Raises StateError."""
    try:
        last = (read_json(note) or {}).get("at")
    except StateError:
        set_aside(note)
        last = None
    if isinstance(last, (int, float)) and 0 <= now - last < every:
        return False
    write_changed(note, dump_json({"at": now}).encode())
    return True


def keep_history(path: Path, folder: Path, keep: int) -> None:
    """Copy `path`, if it exists, into `folder` under a time stamp, then prune to the newest `keep` (0 = all)."""
    data = read_bytes(path)
    if data is None:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # microseconds, so that name order is time order even when the oldest are pruned within the second
    while True:
        moment = time.time_ns() // 1000
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(moment // 1_000_000))
        if create(folder / f"{stamp}-{moment % 1_000_000:06d}{path.suffix}", data):
            break
    if keep:
        for old in names(folder, path.suffix)[:-keep]:
            remove(folder / (old + path.suffix))
