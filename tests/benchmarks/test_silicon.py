"""Measurements find the profile of their device."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def silicon(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("silicon", "architectures", "reporting"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("silicon")


def test_a_makers_name_says_more_than_a_profiles(silicon: ModuleType, tmp_path: Path) -> None:
    assert silicon.device_name("NVIDIA H100 80GB HBM3", tmp_path) == "h100"
    assert silicon.device_name("t4", tmp_path) == "t4"
    assert silicon.device_name("TPU v5e", tmp_path) == "tpu-v5e"
    assert silicon.device_name("NVIDIA GTX 980", tmp_path) == "gtx-980"
    assert silicon.profile_of("h100", tmp_path).name == "h100"
    with pytest.raises(SystemExit, match=r"or put gtx-980\.yaml into"):
        silicon.profile_of("gtx-980", tmp_path)


def test_a_file_beside_the_measurements_comes_first(silicon: ModuleType, tmp_path: Path) -> None:
    own = (BENCHMARKS / "measured" / "rtx3090.yaml").read_text("utf-8")
    (tmp_path / "h100.yaml").write_text(own.replace("name: rtx3090", "name: h100"), "utf-8")
    device = silicon.device_name("H100 PCIe", tmp_path)
    assert silicon.profile_of(device, tmp_path).description.startswith("NVIDIA GeForce RTX")
