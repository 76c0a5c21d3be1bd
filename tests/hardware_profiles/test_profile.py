"""The data sheets of devices."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.hardware_profiles import load_profile, parse_profile, profile_names

PLAIN: dict[str, Any] = {
    "name": "cpu",
    "description": "a CPU",
    "platform": "cpu",
    "mode": "measured",
    "sources": ["its maker"],
}


def test_every_data_sheet_is_a_profile_of_its_file_name() -> None:
    sheets = [f.name for f in files("paretax.hardware_profiles").iterdir() if "yaml" in f.name]
    assert sorted(sheets) == [f"{name}.yaml" for name in profile_names()]
    assert "cpu" in profile_names()
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name
        assert profile.description
        assert all(isinstance(source, str) and source for source in profile.sources)


def test_an_unknown_target_says_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'cpus'.*'cpu'.*Valid: .*cpu"):
        load_profile("cpus")


def test_plain_data_becomes_a_profile() -> None:
    profile = parse_profile(PLAIN, "here")
    assert (profile.name, profile.platform, profile.mode) == ("cpu", "cpu", "measured")
    assert profile.sources == ("its maker",)


@pytest.mark.parametrize("key", list(PLAIN))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(UsageError, match=f"profile 'x' lacks the key '{key}'"):
        parse_profile({k: v for k, v in PLAIN.items() if k != key}, "profile 'x'")


def test_an_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'source' in here.*mean 'sources'"):
        parse_profile({**PLAIN, "source": []}, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "must cite where it is from"),
        ({"sources": None}, "`sources` of here must be a list.*None"),
        ({"sources": "its maker"}, "`sources` of here must be a list.*'its maker'"),
        ({"name": "A CPU"}, "lower-case letters.*'A CPU'"),
        ({"name": ""}, "lower-case letters.*''"),
        ({"name": "-cpu"}, "lower-case letters.*'-cpu'"),
        ({"name": None}, "lower-case letters.*None"),
        ({"platform": "cpus"}, "unknown platform 'cpus' in profile 'cpu'.*Valid: cpu"),
        ({"mode": "measure"}, "unknown mode 'measure' in profile 'cpu'.*Valid: measured"),
    ],
)
def test_what_a_profile_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_profile({**PLAIN, **change}, "here")


def test_a_profile_is_checked_however_it_is_made() -> None:
    with pytest.raises(UsageError, match="must cite"):
        replace(load_profile("cpu"), sources=())
