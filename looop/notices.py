"""Trouble that lasts is told once, not once a beat: again when its text changes, or when it was away in between.

What the last beat knew lies in the runtime directory, so a restart of the pulse repeats nothing and a reboot
tells all of it anew. Used by the beat.
"""

from looop import store
from looop.errors import StateError
from looop.paths import Paths
from looop.systemd import journal


class Notices:
    """The troubles of one beat. `keep` ends the beat."""

    def __init__(self, paths: Paths) -> None:
        self.path = paths.runtime / "notices.json"
        try:
            self.before = store.read_json(self.path) or {}
        except StateError:
            self.before = {}
        self.present: dict[str, str] = {}

    def note(self, event: str, text: str, key: str = "", sensor: str = "") -> None:
        """Emit `event` unless the last beat had the same. `key` tells apart what may change its text."""
        name = f"{event} {key or text}"
        self.present[name] = text
        if self.before.get(name) != text:
            journal.emit(event, text=text, sensor=sensor)

    def keep(self) -> None:
        """Remember what was told. Failing costs a repetition."""
        try:
            if self.present or self.before:
                store.write_changed(self.path, store.dump_json(self.present).encode())
        except StateError:
            pass
