"""Names that become paths and units, and where things are."""

from pathlib import Path

import pytest

from looop.errors import UsageError
from looop.paths import Paths, safe_name


@pytest.mark.parametrize("name", ["a", "fix-ci", "A.b_c-9", "x" * 64])
def test_good_names_pass(name: str) -> None:
    assert safe_name("a goal", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../x", "a\\b", "a b", "a\n", "a\0", "\x1b[2J", ".hidden", "-flag", "é", "x" * 65],
)
def test_bad_names_are_refused_and_shown_safely(name: str) -> None:
    with pytest.raises(UsageError, match="cannot use") as caught:
        safe_name("a goal", name)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_data_directory_is_found_in_the_documented_order() -> None:
    home = {"HOME": "/home/u"}
    assert Paths.from_env(home).data == Path("/home/u/.local/state/looop")
    assert Paths.from_env({**home, "XDG_STATE_HOME": "/s"}).data == Path("/s/looop")
    assert Paths.from_env({**home, "STATE_DIRECTORY": "/var/lib/looop:/x"}).data == Path("/var/lib/looop")
    assert Paths.from_env({**home, "STATE_DIRECTORY": "/v", "LOOOP_DATA_DIR": "/d"}).data == Path("/d")


def test_an_empty_variable_counts_as_unset_and_a_relative_one_is_made_absolute() -> None:
    paths = Paths.from_env({"HOME": "/h", "LOOOP_DATA_DIR": "", "LOOOP_CONFIG": "my.toml"})
    assert paths.data == Path("/h/.local/state/looop")
    assert paths.config == Path.cwd() / "my.toml"


def test_a_control_socket_path_fits_into_a_socket_address() -> None:
    assert len(str(Paths.from_env({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/4294967294"}).control("x" * 64))) < 108
