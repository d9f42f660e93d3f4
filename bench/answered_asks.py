#!/usr/bin/python3
"""What 10 000 answered asks cost those that are open: the same steps with an empty archive and with a full one.

    answered_asks.py [--answered 10000] [--rounds 30]

In-process, with three asks open: list them, raise one, deliver one, one beat's pruning, and `asks --all` with its
default of 50 lines. Medians, in milliseconds. Needs no systemd.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from looop import mailbox, store  # noqa: E402
from looop.mailbox import Answer, Ask  # noqa: E402
from looop.paths import Paths  # noqa: E402
from looop.systemd import journal  # noqa: E402


def median(rounds: int, call: Callable[[], object]) -> float:
    """In milliseconds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def measured(paths: Paths, rounds: int) -> dict[str, float]:
    raised: list[Ask] = []

    def raise_one() -> None:
        raised.append(mailbox.raise_ask(paths, "w", "Deploy?", time.time()))

    def deliver_one() -> None:
        mailbox.deliver(paths, raised.pop(), Answer("yes", time.time()), time.time())

    found = {"raise one": median(rounds, raise_one), "deliver one": median(rounds, deliver_one)}
    found["list open"] = median(rounds, lambda: mailbox.open_asks(paths))
    start = time.perf_counter()
    mailbox.prune(paths, 604800, time.time())
    found["first prune of an hour"] = (time.perf_counter() - start) * 1000
    found["prune in a beat"] = median(rounds, lambda: mailbox.prune(paths, 604800, time.time()))
    found["asks --all"] = median(rounds, lambda: mailbox.history(paths, 50))
    return found


def fill(paths: Paths, count: int) -> None:
    """As if so many asks of worker w had been delivered."""
    first = mailbox.raise_ask(paths, "w", "Deploy?", time.time())
    mailbox.deliver(paths, first, Answer("yes", time.time()), time.time())
    record = (paths.asks_done / f"{first.id}.json").read_bytes()
    number = mailbox.split(first.id)[1]
    for n in range(number + 1, number + count):
        (paths.asks_done / f"w-{n}.json").write_bytes(record)
    store.retire_numbers(paths.asks / ".numbers.json", [f"w-{number + count - 1}"])
    (paths.asks_done / ".pruned.json").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--answered", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    os.environ["SYSTEMD_LOG_LEVEL"] = "emerg"
    journal.max_level.cache_clear()
    with tempfile.TemporaryDirectory() as name:
        paths = Paths(Path(name) / "data", Path(name) / "looop.toml", Path(name) / "run")
        paths.create()
        for worker in ("a", "b", "c"):
            mailbox.raise_ask(paths, worker, "Open?", time.time())
        none = measured(paths, args.rounds)
        fill(paths, args.answered)
        full = measured(paths, args.rounds)
    print(f"{'':24} {'few answered':>14} {f'{args.answered} answered':>16}")
    for step, value in none.items():
        print(f"{step:24} {value:11.2f} ms {full[step]:13.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
