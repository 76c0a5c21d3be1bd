"""A candidate's own number always counts: a search and each candidate alone agree exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paretax.results import Trial, reproduce
from paretax.search import parse_config, plan, run_search

CODE = '''
import jax
import jax.numpy as jnp
import numpy as np
import paretax
from paretax.tasks import Metric

def load():
    rng = np.random.default_rng(0)
    targets = np.arange(400, dtype=np.int32) % 3
    inputs = rng.normal(size=(400, 5)).astype(np.float32) + targets[:, None]
    return paretax.split(inputs, targets, seed=0)

def surprise(outputs, targets):
    """Shows any difference, where an accuracy shows few."""
    shifted = outputs - outputs.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-logs[np.arange(len(targets)), targets].mean())

metric = Metric(name="surprise", direction="minimize", compute=surprise)

def starting(config):
    def init(key, x):
        one, two = jax.random.split(key)
        first = jax.random.normal(one, (x.shape[-1], 8)) * config.get("spread", 0.4)
        return {"w1": first, "w2": jax.random.normal(two, (8, 3)) * 0.3, "b": jnp.zeros(8)}
    return init

def shown(config):
    """Its numbers stand in the graph."""
    def apply(params, x):
        hidden = x * config["scale"] @ params["w1"] + params["b"] + config["shift"]
        hidden = jnp.where(hidden > 0, hidden, config["slope"] * hidden)
        hidden = hidden / jnp.sqrt(jnp.mean(hidden**2, -1, keepdims=True) + config["epsilon"])
        return hidden @ params["w2"] * config["gain"]
    return starting(config), apply

def own(forward, forward_rule, backward_rule, **settings):
    made = jax.custom_vjp(forward, **settings)
    made.defvjp(forward_rule, backward_rule)
    return made

def hidden(config):
    """Its numbers stand in derivatives and arrays."""
    c = config
    factor = own(lambda x: x, lambda x: (x, None), lambda _, g: (g * c["factor"],))
    powers = np.arange(1, 9, dtype=np.float32) ** np.float32(c["power"])
    shaped = own(lambda x: x, lambda x: (x, None), lambda _, g: (g * powers,))
    kept = own(jnp.sin, lambda x: (jnp.sin(x), c["kept"] * jnp.cos(x)), lambda r, g: (g * r,))
    by = own(lambda _, x: x, lambda _, x: (x, None), lambda by, _, g: (g * by,),
             nondiff_argnums=(0,))
    step = c["step"]
    rounded = own(lambda x: jnp.round(x / step) * step, lambda x: (rounded(x), None),
                  lambda _, g: (g,))
    reverse = jax.custom_gradient(lambda x: (x, lambda g: -c["reverse"] * g))
    @jax.custom_jvp
    def surrogate(x):
        return (x > 0).astype(x.dtype)
    surrogate.defjvp(
        lambda p, t: (surrogate(*p), t[0] * c["surrogate"] / (1 + jnp.abs(p[0])) ** 2))
    table = np.linspace(0, c["table"], 8, dtype=np.float32)
    held = jax.jit(lambda x: x + table)
    bend = np.full(8, c["looped"], np.float32)
    looped = lambda x: jax.lax.fori_loop(0, 2, lambda _, y: jax.jit(lambda z: z * bend)(y), x)
    layers = [factor, shaped, kept, lambda x: by(c["argument"], x), reverse, held, looped]
    def apply(params, x):
        hidden = x @ params["w1"] + params["b"]
        for layer in layers:
            hidden = layer(hidden)
        return (rounded(hidden) + surrogate(hidden)) @ params["w2"]
    return starting(config), apply

def task(build, names):
    return paretax.classification(
        "numbers", load=load, build=build, defaults={n: 0.5 for n in names}, metric=metric)

shown_task = task(shown, ["spread", "scale", "shift", "slope", "epsilon", "gain"])
hidden_task = task(hidden, [
    "factor", "power", "kept", "argument", "step", "reverse", "surrogate", "table", "looped"])
'''


def between(low: float, high: float) -> Mapping[str, Any]:
    return {"type": "float", "low": low, "high": high}


def whole(low: int, high: int) -> Mapping[str, Any]:
    return {"type": "int", "low": low, "high": high}


OWN = {
    "spread": between(0.2, 0.9),
    "scale": between(0.5, 2.0),
    "shift": between(-0.5, 0.5),
    "slope": between(0.01, 0.4),
    "epsilon": between(0.01, 0.5),
    "gain": between(0.5, 2.0),
}
SETTINGS = {
    "learning_rate": between(0.001, 0.05),
    "weight_decay": between(0.0, 0.1),
    "gradient_clip": between(0.1, 2.0),
    "label_smoothing": between(0.01, 0.2),
    "epochs": whole(4, 7),
    "sparsity": between(0.1, 0.6),
    "pruning_start": between(0.05, 0.3),
    "fine_tuning": between(0.1, 0.5),
    "weight_bits": whole(3, 8),
    "activation_bits": whole(4, 8),
    "calibration_percentile": between(95.0, 99.9),
    "qat_start": between(0.2, 0.6),
    "temperature": between(1.0, 6.0),
    "alpha": between(0.1, 0.9),
    "feature_weight": between(0.1, 2.0),
    "winsor_quantile": between(0.01, 0.1),
}
HELD = {
    "batch_size": 64,
    "pruning": "gradual",
    "calibration": "percentile",
    "qat": "ste",
    "distill": True,
    "outliers": "winsorize",
}
HIDDEN = {
    "factor": between(0.01, 3.0),
    "power": between(-1.0, 1.0),
    "kept": between(0.5, 2.0),
    "argument": between(0.5, 2.0),
    "step": between(0.1, 0.5),
    "reverse": between(-1.5, -0.5),
    "surrogate": between(0.1, 2.0),
    "table": between(0.1, 1.0),
    "looped": between(0.5, 1.2),
}


def told(trial: Trial) -> list[tuple[int, int, int]]:
    """How a trial's training ran, as the journal has it."""
    (trained,) = (m for m in trial.measurements if m.objective == "surprise")
    found: list[tuple[int, int, int]] = trained.detail.get("lanes", [])
    return found


@pytest.mark.parametrize("population", ["loop", "batch"])
@pytest.mark.parametrize("kind", ["shown", "hidden"])
def test_a_search_and_each_alone_agree_exactly(
    kind: str, population: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_numbers.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    space = {**OWN, **SETTINGS, **HELD} if kind == "shown" else {**HIDDEN, "epochs": 2}
    config: dict[str, Any] = {
        "task": f"own_numbers:{kind}_task",
        "space": space,
        "objectives": ["surprise", "size"],
        "budget": {"trials": 3},
        "final_seeds": 0,
        "sampler": "random",
        "executor": "inline",
        "population": population,
    }
    if kind == "shown":
        config["teacher"] = {"candidate": {"epochs": 2, "scale": 1.3}}
    run = run_search(plan(parse_config(config, "the config")), tmp_path / "run")
    found = [trial for trial in run.trials if trial.failure is None]
    assert len(found) == 3, [trial.failure for trial in run.trials]  # the baseline is one
    shared = sum(bool(told(trial)) for trial in found)
    assert shared == (2 if population == "batch" else 0)  # the baseline's programs are its own
    values = []
    for trial in found:
        again = reproduce(run, trial)
        assert again.equal, (again.recorded, again.again)
        assert isinstance(again.recorded, float)
        values.append(again.recorded)
    assert len(set(values)) == 3
    assert all(math.isfinite(value) for value in values)


def test_thirty_numbers_are_tried() -> None:
    assert len({**OWN, **SETTINGS, **HIDDEN}) >= 30
