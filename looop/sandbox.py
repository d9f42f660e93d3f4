"""What confinement this host really gives, and the one unit whose walls are in a file: looop-sense.service.

Measured once at the start of a pulse, because systemd ignores silently what it cannot do. With sandbox = "off"
a drop-in that lives until reboot takes the walls away from the sensors, as a missing feature would fail the unit.
"""

import shutil

from looop import store
from looop.config import Config
from looop.errors import LooopError
from looop.paths import Paths
from looop.systemd import journal, services
from looop.systemd.live import Live

OPEN = """# sandbox = "off" in looop.toml
[Service]
PrivateUsers=no
NoNewPrivileges=no
ProtectSystem=no
ProtectHome=no
PrivateTmp=no
ReadWritePaths=
"""


async def prepare(live: Live, paths: Paths, config: Config) -> bool | None:
    """Measure, report, and fit the sensors' unit to the setting; True when commands may be run here.

    None when nothing could be learned this time (a full /tmp, a lost bus): then nothing is run, and it is worth
    measuring again.
    """
    try:
        measured = await services.measure(live, paths)
    except (LooopError, OSError) as error:
        journal.emit("sandbox_missing", text=f"cannot measure the confinement: {error}")
        return None
    listed = ", ".join(f"{name}: {'yes' if held else 'NO'}" for name, held in sorted(measured.items()))
    holds = all(measured.values())
    journal.emit("sandbox_measured", text=listed)
    if not holds and config.sandbox != "off":
        journal.emit("sandbox_missing", text=listed)
    fit(live, paths, config)
    return holds or config.sandbox == "off"


def fit(live: Live, paths: Paths, config: Config) -> None:
    """Make or remove the drop-in. Raises LooopError."""
    folder = paths.runtime.parent / "systemd/user/looop-sense.service.d"
    drop_in = folder / "sandbox-off.conf"
    if (config.sandbox == "off") == drop_in.exists():
        return
    if config.sandbox == "off":
        folder.mkdir(parents=True, exist_ok=True)
        store.write(drop_in, OPEN, 0o644)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    live.reload()
