"""A search over a model in low precision: every trial of its front can be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paretax.evaluators import AccuracyEvaluator
from paretax.results import Run, export_bundle, load_bundle, reproduce, verify_bundle
from paretax.results.checkpoints import load_checkpoint
from paretax.results.exporting import TOLERANCE, ExportError, check_outputs
from paretax.results.manifest import WEIGHTS
from paretax.results.weights import load_weights
from paretax.search import parse_config, plan, run_search

TASKS = """
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import paretax
from flax import nnx

def load():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 8)).astype(np.float32)
    y = (x @ rng.normal(size=(8, 3)) + rng.gumbel(size=(900, 3))).argmax(1).astype(np.int32)
    return paretax.split(x, y, validation=0.2, test=0.5, seed=0)

class Net(nnx.Module):
    def __init__(self, own, low, rngs):
        self.one = nnx.Linear(8, 24, dtype=low, param_dtype=own, rngs=rngs)
        self.norm = nnx.BatchNorm(24, dtype=low, param_dtype=own, rngs=rngs)
        self.two = nnx.Linear(24, 3, dtype=low, param_dtype=own, rngs=rngs)

    def __call__(self, x):
        return self.two(nnx.gelu(self.norm(self.one(x))))

class Mixed(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = nnx.relu(linen.Dense(24, dtype=jnp.bfloat16)(x))
        x = nnx.relu(linen.Dense(16, dtype=jnp.float16, param_dtype=jnp.float16)(x))
        return linen.Dense(3)(x)

def task(name, build):
    return paretax.classification(name, load=load, build=build, defaults={})

bfloat16 = task("bfloat16", lambda c, rngs: Net(jnp.bfloat16, jnp.bfloat16, rngs))
mixed = task("mixed", lambda c, rngs: Net(jnp.float32, jnp.bfloat16, rngs))
layers = task("layers", lambda c: Mixed())
"""


@pytest.fixture(scope="module", params=["bfloat16", "mixed", "layers"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished search; not to be changed."""
    folder = tmp_path_factory.mktemp("dtypes")
    (folder / "low_precision.py").write_text(TASKS, "utf-8")
    config: dict[str, Any] = {
        "task": f"low_precision:{request.param}",
        "objectives": ["accuracy", "size"],
        "executor": "inline",
        "sampler": "random",
        "seed": 3,
        "budget": {"trials": 4},
        "space": {
            "epochs": 2,
            "batch_size": 30,
            "learning_rate": {"type": "float", "low": 1e-3, "high": 3e-2, "log": True},
            "precision": {"type": "categorical", "choices": ["model", "bfloat16", "float16"]},
            "quantize": {"type": "categorical", "choices": [False, True]},
            "sparsity": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.5},
        },
    }
    return run_search(plan(parse_config(config, "the config"), [folder]), folder / "run")


def test_every_trial_of_the_front_is_exported_and_verified(run: Run, tmp_path: Path) -> None:
    front = run.front("cpu")
    assert all(trial.failure is None for trial in run.trials)
    assert front
    bench = run.workbench()
    for trial in front:
        folder = tmp_path / str(trial.number)
        manifest = export_bundle(run, trial, "cpu", folder)
        assert trial.test is not None
        assert verify_bundle(folder).value == trial.test.value
        weights = load_weights(run.folder, trial)
        assert weights is not None
        inputs = bench.data.test.inputs
        scored = AccuracyEvaluator(bench).outputs(trial.candidate, weights, inputs)
        found = load_bundle(folder)(inputs)
        assert found.dtype == scored.dtype
        np.testing.assert_array_equal(found, scored)
        stored = load_file(folder / WEIGHTS)
        (size,) = (m.value for m in trial.measurements if m.objective == "size")
        assert manifest["weights"]["bytes"] == sum(a.nbytes for a in stored.values()) == size


def test_a_trial_is_reproduced_exactly(run: Run) -> None:
    again = reproduce(run, run.front("cpu")[0])
    assert again.equal
    kept = load_weights(run.folder, run.front("cpu")[0])
    assert kept is not None
    assert again.weights is not None
    for name, array in kept.items():
        assert again.weights[name].dtype == array.dtype
        np.testing.assert_array_equal(again.weights[name], array)


def test_a_checkpoint_in_low_precision_is_read(tmp_path: Path) -> None:
    """Parameters of whole numbers are among a model's state, and not in a checkpoint."""
    arrays = {
        "w": np.asarray([1.5, -2.0], jnp.dtype(jnp.bfloat16)),
        "order": np.arange(3, dtype=np.int32)[::-1],
    }
    path = tmp_path / "model.safetensors"
    save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, path)
    shapes = {
        "w": jax.ShapeDtypeStruct((2,), jnp.bfloat16),
        "params/order": jax.ShapeDtypeStruct((3,), jnp.int32),
    }
    found = load_checkpoint(path, shapes)
    assert {n: a.dtype for n, a in found.items()} == {n: s.dtype for n, s in shapes.items()}
    np.testing.assert_array_equal(found["w"].astype(np.float32), [1.5, -2.0])
    np.testing.assert_array_equal(found["params/order"], [2, 1, 0])


# The check of an export ---------------------------------------------------------------------------


def test_outputs_within_the_tolerance_pass() -> None:
    scored = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    scored[0, 0] = -np.inf
    room = TOLERANCE * np.abs(scored[1:]).max()
    check_outputs(scored, scored)
    check_outputs(scored, scored + np.float32(0.9 * room))
    one_off = scored.copy()
    one_off[1] += 1  # a value on the other side of an edge of a grid
    check_outputs(scored, one_off)


@pytest.mark.parametrize("what", ["all", "some", "infinite", "dtype"])
def test_other_outputs_are_refused(what: str) -> None:
    scored = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    other = scored.copy()
    if what == "all":
        other = scored.astype("bfloat16").astype(np.float32)
    elif what == "some":
        other[:5] += 0.1
    elif what == "infinite":
        other[:5, 0] = np.inf
    else:
        other = scored.astype(np.float16)
    with pytest.raises(ExportError, match=r"the exported program's outputs"):
        check_outputs(scored, other)
