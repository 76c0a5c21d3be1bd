"""Which plug-in for NVIDIA's GPUs is taken."""

from __future__ import annotations

import pytest

from paretax.evaluators.compilers import MissingExtraError, targets
from paretax.evaluators.compilers.targets import target_settings
from paretax.hardware_profiles import load_profile

CUDA_12 = {"jax_cuda12_plugin", "nvidia.cuda_nvcc"}
CUDA_13 = {"jax_cuda13_plugin", "nvidia.cu13"}


@pytest.mark.parametrize(
    ("installed", "package", "runtime"),
    [
        (CUDA_12, "jax-cuda12-plugin", "runtime_version { major: 12 minor: 9 patch: 0 }"),
        (CUDA_13, "jax-cuda13-plugin", "runtime_version { major: 13 minor: 0 patch: 0 }"),
        # what another package brought of CUDA 13 is no plug-in
        (CUDA_12 | {"nvidia.cu13"}, "jax-cuda12-plugin", "runtime_version { major: 12"),
    ],
)
def test_the_plug_in_that_is_there(
    installed: set[str], package: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "_is_there", installed.__contains__)
    monkeypatch.setattr(targets, "_version", lambda name: f"of {name}")
    settings = target_settings(load_profile("h100"))
    assert settings["version"] == f"of {package}"
    assert runtime in settings["target_config"]


@pytest.mark.parametrize("installed", [set(), {"jax_cuda12_plugin"}, {"jax_cuda13_plugin"}])
def test_a_plug_in_without_nvidias_assembler_is_not_enough(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "_is_there", installed.__contains__)
    with pytest.raises(MissingExtraError, match=r"paretax\[cuda\]"):
        target_settings(load_profile("h100"))
