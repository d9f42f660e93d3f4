"""Reboot, cut the power of, suspend and re-clock a machine with schedules pending, and look what fired.

    python3 -m bench.reboot SUITE [reboot] [cut] [suspend] [clock]      on the host, as root: see tests/machine/vm

In each round schedules of all three kinds are written, each with both catch-ups, so that some instants come before
the downtime, some in it and some after it; two follow-ups; and a worker with a lease and an open question. What fired
is compared with what must have: every instant that looop saw coming once; of those it missed one with "once" and
none with "skip", unless it was back in time; nothing twice. Exit 1 if anything else was seen; then the machine
stays, to be looked into (tests/machine/vm sh reboot-SUITE -u ...), until it is stopped.
"""

import calendar
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looop.instants import LATE

VM = Path(__file__).resolve().parents[1] / "tests/machine/vm"
DAY = 86400
GRACE_S = 60.0
EDGE_S = 15.0
CONFIG = """
decider_command = '''echo '{"action": "noop", "reason": "seen"}' >.decision.json'''
decider_cost_usd = 0
max_next_interval = 3600
max_decides_per_hour = 0
"""
FOLLOW_UP = """
[[rule]]
name = "%(name)s"
when = "`true`"
once_per = "'%(name)s'"
move = { action = "noop", next_interval_s = %(seconds)d }
"""
WORKER = '"$LOOOP_BIN" claim "lease-$LOOOP_SESSION_ID" && "$LOOOP_BIN" ask --prompt "Go on?"'


# -- what must have fired


@dataclass(frozen=True)
class Plan:
    """One schedule: its instants are `anchor` plus `offsets`, again every `period` seconds where there is one."""

    name: str
    catch_up: str
    anchor: float
    offsets: tuple[float, ...] = (0.0,)
    period: float = 0.0

    def instants(self, low: float, high: float) -> list[float]:
        """Those after `low` and up to `high`."""
        turns = range(int((high - self.anchor) // self.period) + 2) if self.period else range(1)
        found = (self.anchor + turn * self.period + offset for turn in turns for offset in self.offsets)
        return [instant for instant in found if low < instant <= high]


@dataclass
class Phase:
    """A stretch of the machine's clock in which looop ran; `fired`: (name, instant) since the stretch before."""

    up: float
    down: float
    fired: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """How many instants came, how many of them must have fired, and how many did."""

    name: str
    when: str
    came: int
    wanted: int
    fired: int
    right: bool


def compare(plan: Plan, phases: list[Phase]) -> list[Row]:
    """A row for each stretch, and for each gap before one, in which something of the plan came or fired."""
    rows: list[Row] = []
    done: list[float] = []
    down = float("inf")
    for phase in phases:
        fired = [instant for name, instant in phase.fired if name == plan.name]
        missed = [instant for instant in plan.instants(down, phase.up) if instant not in done]
        late = [instant for instant in fired if instant in missed]
        if missed:
            in_time = phase.up - missed[-1] <= LATE
            wanted = int(in_time or plan.catch_up == "once")
            when = "missed" + " (back in time)" * in_time
            rows.append(Row(plan.name, when, len(missed), wanted, len(late), len(late) == wanted))
        seen = [instant for instant in plan.instants(phase.up, phase.down) if instant not in done]
        timely = [instant for instant in fired if instant not in missed]
        if seen or timely:
            rows.append(Row(plan.name, "seen", len(seen), len(seen), len(timely), sorted(timely) == seen))
        done += fired
        down = phase.down
    return rows


# -- the machine, from outside


class Guest:
    def __init__(self, suite: str) -> None:
        self.name = f"reboot-{suite}"
        self.vm("stop", self.name)
        self.vm("start", suite, self.name)
        self.boot_s = float(self.dev("cut -d' ' -f1 /proc/uptime")) + 4  # the firmware, and looop's own start
        self.told: set[tuple[str, str]] = set()

    def vm(self, *words: str, check: bool = True) -> str:
        done = subprocess.run([str(VM), *words], stdout=subprocess.PIPE, text=True, timeout=1500)
        if check and done.returncode:
            raise SystemExit(f"vm {words[0]} exited {done.returncode}: {done.stdout[-2000:]}")
        return done.stdout

    def dev(self, script: str, check: bool = True) -> str:
        return self.vm("sh", self.name, "-u", f"set -e; {script}", check=check)

    def python(self, *words: str, check: bool = True) -> str:
        """`inside`, there."""
        quoted = " ".join(f"'{word}'" for word in words)
        return self.dev(f"cd /src; PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m bench.reboot inside {quoted}", check)

    def clock(self) -> float:
        return float(self.dev("date +%s.%N"))

    def wait(self, seconds: float, event: str, **fields: str) -> None:
        """Until looop's journal has such an entry; one that does not come is seen in the table."""
        matches = [f"LOOOP_{key.upper()}={value}" for key, value in fields.items()]
        self.python("wait", str(max(1, int(seconds))), f"LOOOP_EVENT={event}", *matches, check=False)

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = self.dev(f"journalctl --user --quiet --output=json --all LOOOP_EVENT={event}").splitlines()
        return [json.loads(line) for line in lines]

    def phase(self, up: float) -> Phase:
        """The stretch from `up` until now, with what fired since this was asked before."""
        phase = Phase(up, self.clock())
        for entry in self.events("schedule_fired"):
            key = (entry["_BOOT_ID"], entry["__MONOTONIC_TIMESTAMP"])
            if key not in self.told:
                self.told.add(key)
                phase.fired.append((entry["LOOOP_SCHEDULE"], from_utc(entry["LOOOP_INSTANT"])))
        return phase

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.python("state")))

    def install(self) -> None:
        self.dev(
            "cp -R /src ~/looop; make -s -C ~/looop install >/dev/null; mkdir -p ~/.config/looop;"
            f"cat >~/.config/looop/looop.toml <<'END'\n{CONFIG}\nEND\n"
            "systemctl --user enable --now looop 2>/dev/null"
        )


def from_utc(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


def to_utc(instant: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant))


# -- the machine, from inside


def inside(words: list[str]) -> int:
    match words:
        case ["wait", seconds, *matches]:
            return wait(float(seconds), matches)
        case ["beat"]:
            beat()
            return 0
        case ["state"]:
            print(json.dumps(state()))
            return 0
    return 64


def wait(seconds: float, matches: list[str]) -> int:
    """Block until the user's journal of this boot has an entry with all these fields."""
    command = ["journalctl", "--user", "--follow", "--boot", "--no-tail", "--output=cat", *matches]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as follower:
        assert follower.stdout
        ready, _, _ = select.select([follower.stdout], [], [], seconds)
        follower.kill()
    return 0 if ready else 1


def beat() -> None:
    """Poke the pulse and block until a beat that began afterwards has sensed: the one under way does not count."""
    journalctl = ["journalctl", "--user", "--output=json"]
    last = subprocess.run([*journalctl, "--lines=1"], capture_output=True, check=True).stdout
    after = f"--after-cursor={json.loads(last)['__CURSOR']}"
    subprocess.run(["looopctl", "beat"], stdout=subprocess.DEVNULL, check=True)
    command = [*journalctl, "--follow", "--lines=all", after, "LOOOP_EVENT=tick_start", "LOOOP_EVENT=sense_done"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as follower:
        assert follower.stdout
        begun = False
        for line in follower.stdout:
            event = json.loads(line)["LOOOP_EVENT"]
            if begun and event == "sense_done":
                break
            begun = begun or event == "tick_start"
        follower.kill()


def state() -> dict[str, Any]:
    """What looop shows, and its decisions with what forced them."""
    shown = {
        key: json.loads(subprocess.run(["looopctl", *words, "--json"], capture_output=True, check=True).stdout)
        for key, words in {"workers": ["worker", "list", "-a"], "asks": ["asks"], "claims": ["claims"]}.items()
    }
    data = Path.home() / ".local/state/looop"
    decisions = []
    for path in sorted(data.glob("runs/*/record.json")):
        record = json.loads(path.read_text())
        world = json.loads(path.with_name("world.json").read_text())
        decisions.append({**{key: record[key] for key in ("source", "rule", "at")}, "forced": world["forced"]})
    nudges = data / ".nudges.json"
    schedules = {path.stem: json.loads(path.read_text()) for path in data.glob("schedules/*.json")}
    return {
        **shown, "schedules": schedules, "decisions": decisions,
        "follow_ups": sorted(json.loads(nudges.read_text())) if nudges.exists() else [],
    }  # fmt: skip


# -- a round


@dataclass(frozen=True)
class Round:
    """Seconds and minutes count from when the schedules were written. `first`: the last ones seen before the downtime.

    `up` is when the machine is to be back, `until` when the last instant has come; on its clock.
    """

    name: str
    once: tuple[int, ...]
    every: int
    minutes: tuple[int, ...]
    follow_ups_s: tuple[int, int]
    first: str
    up: int
    until: int

    def write(self, guest: Guest) -> tuple[float, list[Plan]]:
        """Write everything; returns when that was and what is planned now."""
        now = time.gmtime(guest.clock() + 20)
        minutes = ",".join(str((now.tm_min + minute) % 60) for minute in self.minutes)
        times = {f"in{n}": f"--in {seconds}" for n, seconds in enumerate(self.once)}
        times |= {"every": f"--every {self.every}", "calendar": f"--calendar '*-*-* *:{minutes}:{now.tm_sec:02} UTC'"}
        rules = "".join(
            FOLLOW_UP % {"name": f"{self.name}-{n}", "seconds": s} for n, s in enumerate(self.follow_ups_s)
        )
        guest.dev(
            f"looopctl worker start {self.name}-w --command '{WORKER}' 'ask' >/dev/null;"
            f"cat >~/.local/state/looop/rules.new <<'END'\n{rules}\nEND\n"
            "mv ~/.local/state/looop/rules.new ~/.local/state/looop/rules.toml"
        )
        guest.dev("; ".join(
            f"looopctl schedule write {self.name}-{kind}-{how} {words} --catch-up {how} >/dev/null"
            for kind, words in times.items() for how in ("once", "skip")
        ))  # fmt: skip
        minute = calendar.timegm(now)
        hourly = tuple(60.0 * minute for minute in self.minutes)
        plans = []
        for name, record in sorted(guest.state()["schedules"].items()):
            how = record["catch_up"]
            if "at" in record:
                plans.append(Plan(name, how, record["at"]))
            elif "every_s" in record:
                every = record["every_s"]
                plans.append(Plan(name, how, record["anchor"], (every,), every))
            else:
                plans.append(Plan(name, how, minute, hourly, 3600.0))
        return min(plan.anchor for plan in plans if "-every-" in plan.name), plans

    def run(self, guest: Guest) -> bool:
        up = guest.clock()
        began, plans = self.write(guest)
        for how in ("once", "skip"):
            guest.wait(self.every + GRACE_S, "schedule_fired", schedule=f"{self.name}-{self.first}-{how}")
        before = guest.state()
        phases: list[Phase] = []
        for step in STEPS[self.name]:
            guest.python("beat")
            settle(guest, plans)
            phases.append(guest.phase(up))
            up = step(guest, began + self.up)
        for plan in plans:
            for last in plan.instants(up, began + self.until)[-1:]:
                seconds = last - guest.clock() + GRACE_S
                guest.wait(seconds, "schedule_fired", schedule=plan.name, instant=to_utc(last))
        guest.python("beat")
        settle(guest, plans)
        phases.append(guest.phase(up))
        right = self.report(plans, phases, before, guest.state())
        guest.dev(
            f"looopctl worker kill {self.name}-w || true; looopctl answer {self.name}-w-1 x || true;"
            "for file in ~/.local/state/looop/schedules/*.json; do looopctl schedule rm $(basename $file .json); done"
        )
        return right

    def report(self, plans: list[Plan], phases: list[Phase], before: dict[str, Any], after: dict[str, Any]) -> bool:
        rows = [row for plan in plans for row in compare(plan, phases)]
        stretches = ", ".join(f"{to_utc(phase.up)[11:-1]} to {to_utc(phase.down)[11:-1]}" for phase in phases)
        print(f"\n{self.name}: looop ran from {stretches}")
        print(f"{'schedule':<24}{'instants':<24}{'came':>6}{'must fire':>11}{'fired':>7}")
        for row in rows:
            flag = "" if row.right else "   WRONG"
            print(f"{row.name:<24}{row.when:<24}{row.came:>6}{row.wanted:>11}{row.fired:>7}{flag}")
        fired = [pair for phase in phases for pair in phase.fired]
        double = sorted({pair for pair in fired if fired.count(pair) > 1})
        print(f"fired {len(fired)}, twice {double or 'none'}")
        follow_ups = self.follow_ups(after, phases)
        for line in (*follow_ups, *fleet(self.name, before, after)):
            print(line)
        sys.stdout.flush()
        return all(row.right for row in rows) and not double

    def follow_ups(self, after: dict[str, Any], phases: list[Phase]) -> list[str]:
        """When each was due, by the boot clock where it can be, and the decision it forced."""
        decisions, lines = after["decisions"], []
        for number, seconds in enumerate(self.follow_ups_s):
            asked = next(d["at"] for d in decisions if d["rule"] == f"{self.name}-{number}")
            late = [
                (left, decision) for decision in decisions
                if decision["forced"] and (left := since(asked, decision["at"]) - seconds) > -1
            ]  # fmt: skip
            if not late:
                lines.append(f"follow-up {number} in {seconds} s: forced NOTHING")
                continue
            left, decision = late[0]
            back = min((b for phase in phases if (b := decision["at"]["wall"] - phase.up) > -1), default=left)
            lines.append(
                f"follow-up {number} in {seconds} s: forced a decision {left:.1f} s after it was due,"
                f" {min(left, back):.1f} s after it could have ({decision['forced']})"
            )
        forced = [d["forced"] for d in decisions if since(after["decisions"][0]["at"], d["at"]) >= 0 and d["forced"]]
        of_them = {why: forced.count(why) for why in sorted(set(forced))}
        return [*lines, f"forced decisions of this machine: {of_them}; pending: {after['follow_ups'] or 'none'}"]


def settle(guest: Guest, plans: list[Plan]) -> None:
    """Let fire what has just come or is about to: an instant on the very edge would prove nothing."""
    waited: set[tuple[str, float]] = set()
    while True:
        now = guest.clock()
        near = {(plan.name, instant) for plan in plans for instant in plan.instants(now - EDGE_S, now + EDGE_S)}
        if near <= waited:
            return
        for name, instant in sorted(near - waited, key=lambda pair: pair[1]):
            guest.wait(instant - now + GRACE_S, "schedule_fired", schedule=name, instant=to_utc(instant))
        waited |= near


def since(then: dict[str, Any], now: dict[str, Any]) -> float:
    key = "mono" if then["boot"] == now["boot"] else "wall"
    return float(now[key] - then[key])


def fleet(name: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What became of the worker, its lease and its question."""
    lines = []
    for key, mine, shown in (
        ("workers", {"id": f"{name}-w"}, ("state", "alive", "health", "exit_code", "result", "reason")),
        ("asks", {"worker": f"{name}-w"}, ("state", "health")),
        ("claims", {"session": f"{name}-w"}, ("name", "state")),
    ):
        def rows(world: dict[str, Any]) -> list[dict[str, Any]]:
            found = [row for row in world[key] if mine.items() <= row.items()]
            return [{word: row[word] for word in shown if row.get(word) not in (None, "")} for row in found]

        lines.append(f"{key}: {rows(before) or 'none'} -> {rows(after) or 'none'}")
    return lines


# -- what happens in between: each returns from when on looop runs again


def shifted(guest: Guest, verb: str, up: float) -> float:
    guest.vm(verb, guest.name, str(max(0, round(up - guest.clock() - guest.boot_s))))
    guest.wait(GRACE_S, "pulse_started")  # the boot is over before every service of dev has started
    started = guest.events("pulse_started")[-1]
    return int(started["__REALTIME_TIMESTAMP"]) / 1e6


def reboot(guest: Guest, up: float) -> float:
    return shifted(guest, "reboot", up)


def cut(guest: Guest, up: float) -> float:
    return shifted(guest, "cut", up)


def suspend(guest: Guest, up: float) -> float:
    print(f"asleep: {guest.vm('suspend', guest.name, str(round(up - guest.clock()))).strip()}")
    return guest.clock()


def set_clock(guest: Guest, up: float) -> float:
    print(f"clock set by {up - guest.clock():+.0f} s")
    guest.vm("sh", guest.name, f"date --set=@{up} >/dev/null")
    return up


def set_clock_back(guest: Guest, up: float) -> float:
    return set_clock(guest, up - DAY)


STEPS: dict[str, list[Callable[[Guest, float], float]]] = {
    "reboot": [reboot], "cut": [cut], "suspend": [suspend], "clock": [set_clock, set_clock_back],
}  # fmt: skip
OFF, AFTER = ((30, 300, 840), 200, (1, 5, 8, 14), (300, 830)), ("every", 770, 845)
ROUNDS = [
    Round("reboot", *OFF, *AFTER),
    Round("cut", *OFF, *AFTER),
    Round("suspend", (30, 100, 350), 170, (1, 2, 6), (100, 345), "in0", 305, 365),
    Round("clock", (30, 100, 350), 170, (3, 5, 6), (100, 250), "in0", DAY + 100, 365),
]


def main(words: list[str]) -> int:
    if words[:1] == ["inside"]:
        return inside(words[1:])
    if not words:
        print(__doc__, file=sys.stderr)
        return 64
    suite, *names = words
    guest = Guest(suite)
    right = False
    try:
        guest.install()
        right = all([round_.run(guest) for round_ in ROUNDS if not names or round_.name in names])
    finally:
        if right:
            guest.vm("stop", guest.name)
    print("\nevery schedule fired exactly as its catch-up says" if right else "\nWRONG: see above")
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
