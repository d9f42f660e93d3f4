"""Signals ask for a look; they are never taken as facts about a unit."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from looop.errors import TimedOut, Unavailable
from looop.systemd import live as module
from looop.systemd.bus import Signal, unit_path
from looop.systemd.live import Live
from looop.systemd.manager import UnitState

W1 = "looop-worker-w1.scope"


class Signals:
    """Stands for the connection that receives signals: each drain gives one burst, or the connection is gone."""

    def __init__(self) -> None:
        self.bursts: list[list[Signal]] = []
        self.calls: list[str] = []

    def drain(self) -> list[Signal]:
        if not self.bursts:
            raise Unavailable("gone")
        return self.bursts.pop(0)

    def call(self, path: str, interface: str, method: str) -> None:
        self.calls.append(method)

    def close(self) -> None:
        pass


def changed(unit: str, **values: Any) -> Signal:
    return Signal("PropertiesChanged", unit_path(unit), ["org.freedesktop.systemd1.Scope", values, []])


def listening() -> tuple[Live, Signals, list[str]]:
    live, signals, looks = Live(), Signals(), []
    live._signals = signals  # type: ignore[assignment]
    live._fd = 1 << 20  # no such descriptor: nothing is watched
    live.on_change = lambda: looks.append("look")
    return live, signals, looks


@pytest.mark.parametrize(
    ("burst", "looks"),
    [
        ([Signal("UnitRemoved", "/", [W1, "/p"])] * 50, 1),
        ([Signal("UnitRemoved", "/", ["other.service", "/p"]), changed("other.service")], 0),
        ([Signal("UnitRemoved", "/", ["held.service", "/p"])], 1),
        ([changed(W1)], 1),
        ([Signal("Reloading", "/", True)], 0),
        ([Signal("Reloading", "/", False)], 1),
        ([Signal("PropertiesChanged", unit_path(W1), ["org.freedesktop.systemd1.Scope", [], []])], 1),
    ],
    ids=["a burst is one look", "other units", "watched unit", "changed", "reload begins", "reloaded", "empty dict"],
)
def test_what_asks_for_a_look(burst: list[Signal], looks: int) -> None:
    live, signals, seen = listening()
    live.watch.add("held.service")
    signals.bursts.append(burst)
    live._drain()
    assert len(seen) == looks


def test_the_result_of_a_unit_is_kept_by_its_invocation() -> None:
    live, signals, _ = listening()
    live._invocations[W1] = "1" * 32
    signals.bursts.append([changed(W1, Result="success"), changed(W1, Result="oom-kill")])
    live._drain()
    assert live.results == {"1" * 32: "oom-kill"}


def test_what_is_remembered_is_bounded() -> None:
    live, signals, _ = listening()
    signals.bursts.append([Signal("JobRemoved", "/", [n, f"/job/{n}", "x", "done"]) for n in range(1000)])
    live._drain()
    assert len(live._finished) == module._MEMORY and "/job/999" in live._finished


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_job_may_end_before_or_after_it_is_waited_for() -> None:
    async def scenario() -> None:
        live, signals, _ = listening()
        for n, word in ((1, "done"), (2, "failed")):
            signals.bursts.append([Signal("JobRemoved", "/", [n, f"/job/{n}", "x", word])])
        live._drain()
        assert await live.run_job("/job/1", "x", 1) == "done"
        asyncio.get_running_loop().call_soon(live._drain)
        assert await live.run_job("/job/2", "x", 1) == "failed"
        with pytest.raises(TimedOut):
            await live.run_job("/job/3", "x", 0.01)

    run(scenario())


def test_a_lost_bus_fails_who_waits_and_is_looked_for_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", (0.0,))
    tries: list[int] = []

    def reach(scope: str) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise Unavailable("not yet")

    async def scenario() -> None:
        live, _, looks = listening()
        states: list[bool] = []
        back = asyncio.Event()

        def on_state(up: bool) -> None:
            states.append(up)
            if up:
                back.set()

        live.on_state = on_state
        monkeypatch.setattr(module, "reach", reach)
        monkeypatch.setattr(live, "_listen", lambda: None)
        asyncio.get_running_loop().call_soon(live._drain)
        with pytest.raises(Unavailable):
            await live.run_job("/job/1", "x", 5)
        await asyncio.wait_for(back.wait(), 5)
        assert (states, len(tries), looks) == ([False, True], 4, ["look"])
        await live.aclose()
        await live.aclose()

    run(scenario())


def test_closing_ends_the_search_for_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        live, _, _ = listening()
        live._drain()
        await live.aclose()

    run(scenario())  # a task left behind fails the test


def test_a_manager_that_lost_its_bus_is_subscribed_to_again() -> None:
    live, signals, looks = listening()
    owner = "org.freedesktop.systemd1"
    signals.bursts.append([Signal("NameOwnerChanged", "/", [owner, *ids]) for ids in ((":1.1", ""), ("", ":1.9"))])
    live._drain()
    assert (signals.calls, looks) == (["Subscribe"], ["look"])


def test_a_job_that_ended_unheard_while_the_manager_reexecuted_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {
        "ran.service": UnitState("ran.service", "inactive", "dead", "/ran"),
        "broke.service": UnitState("broke.service", "failed", "failed", "/broke"),
        "runs.service": UnitState("runs.service", "activating", "start", "/runs", "start"),
    }
    monkeypatch.setattr(Live, "list_units", lambda self, names: {n: known[n] for n in names if n in known})

    async def scenario() -> None:
        live, signals, _ = listening()
        names = ("ran.service", "broke.service", "runs.service", "gone.scope")
        waits = [asyncio.create_task(live.run_job(f"/job/{name}", name, 5)) for name in names]
        asyncio.get_running_loop().call_soon(live._drain)
        signals.bursts.append([Signal("NameOwnerChanged", "/", ["org.freedesktop.systemd1", ":1.1", ":1.9"])])
        assert [await wait for wait in (waits[0], waits[1], waits[3])] == ["done", "failed", "done"]
        signals.bursts.append([Signal("JobRemoved", "/", [1, "/job/runs.service", "runs.service", "timeout"])])
        live._drain()
        assert await waits[2] == "timeout"

    run(scenario())
