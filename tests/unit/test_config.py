"""Settings: one table, strict input, one clear error."""

from dataclasses import fields
from pathlib import Path

import pytest

from looop.config import SETTINGS, Config, load
from looop.errors import UsageError
from looop.paths import Paths


@pytest.fixture
def where(tmp_path: Path) -> Paths:
    return Paths(data=tmp_path / "data", config=tmp_path / "looop.toml", runtime=tmp_path / "run")


def test_no_file_at_all_gives_the_defaults(where: Paths) -> None:
    assert load(where, {}) == Config()


def test_every_setting_has_a_variable_a_help_text_and_a_default_its_own_parser_takes() -> None:
    assert len(SETTINGS) == len(fields(Config))
    for setting in SETTINGS:
        assert setting.env == "LOOOP_" + setting.key.upper()
        assert len(setting.help) > 15
        raw = "" if setting.default is None else list(setting.default) if setting.default == () else setting.default
        assert setting.parse(raw) == setting.default


def test_environment_wins_over_drop_in_over_file(where: Paths) -> None:
    where.config.write_text("sensor_timeout = 1\nmax_workers = 1\nstuck_after = 1\n")
    drop_ins = where.config.with_name("looop.toml.d")
    drop_ins.mkdir()
    (drop_ins / "20-b.toml").write_text("max_workers = 3\n")
    (drop_ins / "10-a.toml").write_text("max_workers = 2\nstuck_after = 2\n")
    config = load(where, {"LOOOP_STUCK_AFTER": "9"})
    assert (config.sensor_timeout, config.max_workers, config.stuck_after) == (1, 3, 9)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("sensor_timeot = 5", ["looop.toml", "sensor_timeot", "did you mean 'sensor_timeout'"]),
        ("max_workers = -1", ["looop.toml", "max_workers", "whole number"]),
        ('max_workers = "many"', ["max_workers", "'many'"]),
        ("max_workers = true", ["max_workers"]),
        ("max_workers = 1.5", ["max_workers"]),
        ('memory_max = "0"', ["memory_max", "size"]),
        ('shell_write_paths = ["rel"]', ["shell_write_paths", "absolute"]),
        ('decide = "maybe"', ["decide", "'on', 'off'"]),
        ("decide = [", ["looop.toml"]),
    ],
)
def test_bad_settings_are_an_error_that_names_file_key_and_expectation(
    where: Paths, content: str, named: list[str]
) -> None:
    where.config.write_text(content)
    with pytest.raises(UsageError) as caught:
        load(where, {})
    for part in named:
        assert part in str(caught.value)


def test_a_bad_variable_is_named(where: Paths) -> None:
    with pytest.raises(UsageError, match="LOOOP_MAX_WORKERS"):
        load(where, {"LOOOP_MAX_WORKERS": "6h"})


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("4G", 4 << 30), ("", None), ("infinity", None)])
def test_sizes_are_written_as_systemd_writes_them(where: Paths, text: str, size: int | None) -> None:
    where.config.write_text(f'memory_max = "{text}"')
    assert load(where, {}).memory_max == size
