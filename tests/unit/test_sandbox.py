"""The drop-in that takes the walls away from the sensors: there when it has to be, gone when not."""

from typing import Any

import pytest

from looop import sandbox
from looop.config import Config
from looop.paths import Paths


class FakeLive:
    def __init__(self) -> None:
        self.reloads = 0

    def reload(self) -> None:
        self.reloads += 1


@pytest.fixture
def live() -> Any:
    return FakeLive()


def test_the_walls_go_and_come_with_the_setting(paths: Paths, live: Any) -> None:
    drop_in = paths.runtime.parent / "systemd/user/looop-sense.service.d/sandbox-off.conf"
    sandbox.fit(live, paths, Config())
    assert live.reloads == 0 and not drop_in.exists()
    for _ in range(2):
        sandbox.fit(live, paths, Config(sandbox="off"))
    assert live.reloads == 1 and "PrivateUsers=no" in drop_in.read_text()
    for _ in range(2):
        sandbox.fit(live, paths, Config())
    assert live.reloads == 2 and not drop_in.exists()
