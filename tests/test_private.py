"""Folders of one user alone: nobody else's is used, and nobody else reads one's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretax.errors import UsageError
from paretax.evaluators.runtime import cache_folder
from paretax.hardware_profiles.machine import user_profiles


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, with the umask of most systems."""
    for name in ("PARETAX_CACHE", "PARETAX_PROFILES", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def test_all_that_is_made_is_private_from_the_top(home: Path) -> None:
    folder = cache_folder("programs", "of this processor")
    assert folder == home / ".cache" / "paretax" / "programs" / "of this processor"
    while folder != home:
        assert mode(folder) == 0o700
        folder = folder.parent


def test_one_of_an_earlier_version_is_closed(home: Path) -> None:
    old = home / ".cache" / "paretax" / "programs"
    old.mkdir(parents=True)
    cache_folder("programs")
    assert mode(old) == mode(old.parent) == 0o700
    assert mode(home / ".cache") == 0o755  # which is of all programs


def test_a_chosen_folder_keeps_its_mode_and_holds_private_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = home / "chosen"
    chosen.mkdir(mode=0o755)
    monkeypatch.setenv("PARETAX_CACHE", str(chosen))
    assert mode(cache_folder("lanes")) == 0o700
    assert mode(chosen) == 0o755


@pytest.mark.parametrize("level", ["the base", "within"])
def test_somebody_elses_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    base = cache_folder("programs").parent
    theirs = base if level == "the base" else base / "programs"
    real = Path.stat

    def as_if(path: Path, **how: bool) -> os.stat_result:
        found = real(path, **how)
        owner = 12345 if path == theirs else found.st_uid
        return os.stat_result((*found[:4], owner, *found[5:]))

    monkeypatch.setattr(Path, "stat", as_if)
    with pytest.raises(
        UsageError, match=r"belongs to user 12345, .* set PARETAX_CACHE to a folder"
    ):
        cache_folder("programs")


def test_profiles_of_somebody_else_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETAX_PROFILES", str(home))
    assert user_profiles() == home
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="set PARETAX_PROFILES to a folder of your own"):
        user_profiles()


def test_a_folder_that_cannot_be_made_is_not_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("in the way")
    monkeypatch.setenv("PARETAX_CACHE", str(home / "file" / "cache"))
    assert not cache_folder("programs").exists()
