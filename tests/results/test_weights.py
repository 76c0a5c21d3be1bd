"""Kept weights: what was written, or nothing, or a refusal."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.results import Run, Trial
from paretax.results.weights import load_weights, save_weights, weights_file, weights_state
from paretax.spaces import Candidate


def trial(number: int, weights: str | None = None) -> Trial:
    """One of which the journal has this checksum of its weights."""
    return Trial(number=number, batch=0, candidate=Candidate({}), seed=0, weights=weights)


def test_weights_come_back_with_their_names_shapes_and_types(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "out/kernel": rng.normal(size=(3, 2)).astype(np.float32),
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,  # not contiguous
        "brain": np.arange(3).astype(jnp.bfloat16),
        "half": rng.normal(size=2).astype(np.float16),
        "scalar": np.array(3.0, np.float32),
    }
    save_weights(tmp_path, 5, weights)
    assert weights_file(tmp_path, 5).is_file()
    found = load_weights(tmp_path, trial(5))
    assert found is not None
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    save_weights(tmp_path, 5, {"other": np.zeros(1)})  # again, in its place
    assert list(load_weights(tmp_path, trial(5)) or {}) == ["other"]


def test_weights_that_were_not_kept_are_none(run: Run) -> None:
    assert load_weights(run.folder, run.trials[0]) is None
    assert run.weights_file(3) == weights_file(run.folder, 3)


def test_a_file_of_weights_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path, 1, {"w": np.ones(2)})

    def torn(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:9])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", torn)
    for number in (1, 2):
        with pytest.raises(OSError, match="no space left"):
            save_weights(tmp_path, number, {"w": np.zeros(2)})
    monkeypatch.undo()
    np.testing.assert_array_equal((load_weights(tmp_path, trial(1)) or {})["w"], np.ones(2))
    assert load_weights(tmp_path, trial(2)) is None
    save_weights(tmp_path, 2, {"w": np.zeros(2)})  # a half file is no hindrance
    np.testing.assert_array_equal((load_weights(tmp_path, trial(2)) or {})["w"], np.zeros(2))


def test_weights_that_were_changed_are_refused_at_every_byte(tmp_path: Path) -> None:
    kept = trial(3, save_weights(tmp_path, 3, {"w": np.arange(4.0)}))
    assert weights_state(tmp_path, kept) == "whole"
    path = weights_file(tmp_path, 3)
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        assert weights_state(tmp_path, kept) == "changed"
        with pytest.raises(UsageError, match=r"3\.safetensors' was changed since .* or delete it"):
            load_weights(tmp_path, kept)
    path.write_bytes(content)
    np.testing.assert_array_equal((load_weights(tmp_path, kept) or {})["w"], np.arange(4.0))


def test_weights_of_earlier_versions_have_no_checksum(tmp_path: Path) -> None:
    save_weights(tmp_path, 3, {"w": np.ones(1)})
    assert weights_state(tmp_path, trial(3)) == "unchecked"
    assert weights_state(tmp_path, trial(4)) == "none"
    assert list(load_weights(tmp_path, trial(3)) or {}) == ["w"]
