"""The shim's own control group: what its worker uses, whether it works, and where it is.

Runs in the shim, so standard library only. What the kernel does not tell (no such controller, no such file) is None.
"""

import time

ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def group_file(group: str, name: str) -> str | None:
    """A file of a control group; None where there is none, as without its controller."""
    for root in ROOTS:
        try:
            with open(f"{root}{group}/{name}", encoding="ascii") as file:
                return file.read()
        except OSError:
            continue
    return None


def group_number(group: str, name: str) -> int | None:
    """The number in such a file."""
    text = group_file(group, name)
    return int(text) if text is not None and text.strip().isdecimal() else None


def processor_time(group: str) -> float | None:
    """Seconds the control group has computed; None is unknown."""
    words = (group_file(group, "cpu.stat") or "").split()[:2]  # usage_usec comes first
    return round(int(words[1]) / 1e6, 3) if len(words) == 2 else None


def usage(group: str) -> dict[str, object]:
    """What the control group has used and uses, as the kernel counts it; None is unknown."""
    tasks = group_number(group, "pids.current")
    if tasks is None:
        tasks = len((group_file(group, "cgroup.threads") or "").split()) or None
    return {
        "cpu_s": processor_time(group),
        "memory": group_number(group, "memory.current"),
        "tasks": tasks,
    }


class WorkMeter:
    """Seconds since the worker last used the processor noticeably; the shim's own share does not count."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.base = (self._used(), time.monotonic())
        self.active = time.monotonic()

    def _used(self) -> float | None:
        used = processor_time(self.group)
        return None if used is None else used - time.process_time()

    def idle(self) -> float | None:
        """Noticeable is 2 % of one processor since the last look, and at least 0.1 s; looks closer than 10 s add up."""
        used, now = self._used(), time.monotonic()
        before, since = self.base
        if used is None or before is None:
            return None
        if used - before > max(0.1, 0.02 * (now - since)):
            self.base, self.active = (used, now), now
        elif now - since > 10:
            self.base = (used, now)
        return now - self.active


def own_group(unit: str) -> str:
    """This process's control group, "" unless it is the scope `unit`."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            hierarchy, _, group = line.rstrip("\n").split(":", 2)
            if hierarchy == "0" and group.endswith(f"/{unit}"):
                return group
    return ""
