"""What techniques touch and leave out is told, and what has nothing to work on is refused."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.results import Run, export_bundle, load_bundle, verify_bundle
from paretax.results.coverage import card_section, left_out, precisions_lost
from paretax.results.leaderboard import render
from paretax.search import parse_config, plan, run_search
from paretax.spaces.coverage import Coverage, Left, coverage
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_weights
from paretax.tasks import Data, Split, classification

SOURCE = '''
import flax.linen as nn, jax, numpy as np, paretax

class Net(nn.Module):
    """A recurrent net whose gates are joined, over inputs with learned positions."""
    @nn.compact
    def __call__(self, x):
        x = x + self.param("positions", nn.initializers.normal(0.1), (6, 4))
        x = nn.RNN(nn.OptimizedLSTMCell(8), name="rnn")(x)
        return nn.Dense(3, name="out")(x[:, -1])

def load():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=300)
    x = rng.normal(size=(300, 6, 4)) + rng.normal(size=(3, 6, 4))[y]
    return paretax.split(x.astype(np.float32), y.astype(np.int32), seed=0)

task = paretax.classification("gates", load=load, build=lambda c: Net(), defaults={"unused": 1})
'''
ASKED = {
    "learning_rate": 0.01,
    "epochs": 2,
    "batch_size": 32,
    "weight_bits": 4,
    "activation_bits": 8,
    "sparsity": 0.5,
    "qat": "ste",
}
GATES = [f"{side}{gate}" for gate in "fgio" for side in "hi"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A search over the recurrent net, and its exported trial."""
    folder = tmp_path_factory.mktemp("gates")
    (folder / "gates_of_a_test.py").write_text(textwrap.dedent(SOURCE), "utf-8")
    config = {
        "task": "gates_of_a_test:task",
        "objectives": ["accuracy", "size"],
        "executor": "inline",
        "sampler": "random",
        "budget": {"trials": 1},
        "space": ASKED,
    }
    run = run_search(plan(parse_config(config, "the config"), [folder]), folder / "run")
    export_bundle(run, run.trials[-1], "cpu", folder / "bundle")
    return run, folder / "bundle"


def test_joined_gates_are_compressed_and_exported_as_they_were_scored(
    finished: tuple[Run, Path],
) -> None:
    run, folder = finished
    trial = run.trials[-1]
    assert trial.test is not None
    assert verify_bundle(folder, [folder.parent]).value == trial.test.value
    held = run.workbench().data.validation
    outputs = load_bundle(folder)(held.inputs)
    (searched,) = (m.value for m in trial.measurements if m.objective == "accuracy")
    assert run.workbench().task.metric.compute(outputs, held.targets) == searched
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    forms = manifest["weights"]["layouts"]
    assert {n.split("/")[-2] for n in forms} == {*GATES, "out"}
    assert {(form["number"], form["bits"]) for form in forms.values()} == {("int", 4)}
    assert all(form["stored"] <= np.prod(form["shape"]) for form in forms.values())


def test_leaderboard_and_card_say_what_was_left(finished: tuple[Run, Path]) -> None:
    run, folder = finished
    gates, out, positions, biases = 4 * (8 * 8 + 4 * 8) * 4, 8 * 3 * 4, 6 * 4 * 4, (4 * 8 + 3) * 4
    (metric,) = [m for m in run.trials[-1].measurements if m.objective == "accuracy"]
    for plain in metric.detail["coverage"]:
        one = Coverage.from_json(plain)
        assert (one.touched, one.unasked, one.small) == (gates + out, 0, biases)
        assert one.left == {"positions": Left(bytes=positions, why="it enters `add`")}
    assert len(metric.detail["coverage"]) == 3
    text = " ".join(render(run, None, "table").split())
    share = positions / (gates + out + biases + positions)
    assert f"{share:.3g} of the parameters' bytes as they are: positions (it enters `add`)" in text
    card = (folder / "model_card.md").read_text("utf-8")
    assert f"| quantised weights | {gates + out} of {gates + out + biases + positions} |" in card
    assert f"positions: {positions} (it enters `add`); biases and norms: {biases}" in card


def test_what_was_not_asked_for_is_told_apart() -> None:
    params = {"u": jnp.ones((4, 4)), "w": jnp.ones((4, 2)), "b": jnp.ones(2)}
    found = find_weights(lambda p, s, x: x @ p["u"] @ p["w"] + p["b"], params, {}, jnp.ones((3, 4)))
    config = {"weight_bits@first": 4}
    (one,) = coverage(config, Recipe.of(config, found.sites), found.sites, found.others, params)
    assert (one.touched, one.unasked, one.small, one.left) == (64, 32, 8, {})
    assert coverage({}, Recipe.plain(found.sites), found.sites, found.others, params) == []


PRECISIONS = {
    "everywhere": ({"precision": "bfloat16", "weight_bits": 4}, 0, 0, 96),
    "one side": ({"precision": "bfloat16", "activation_bits": 8}, 0, 0, 96),
    "at one site": ({"precision": "bfloat16", "weight_bits@first": 4}, 32, 0, 64),
    "by a rule": ({"precision@last": "float8", "quantize": True}, 0, 64, 32),
    "nowhere": ({"precision": "bfloat16", "quantize": False, "weight_bits": 4}, 96, 0, 0),
    "the model's own": ({"precision": "float32", "quantize": True}, 0, 96, 0),
}


@pytest.mark.parametrize("case", PRECISIONS)
def test_integers_go_before_a_precision_and_it_is_told(case: str) -> None:
    config, touched, unasked, whole = PRECISIONS[case]
    params = {"u": jnp.ones((4, 4)), "w": jnp.ones((4, 2))}
    sites = find_weights(lambda p, s, x: x @ p["u"] @ p["w"], params, {}, jnp.ones((3, 4))).sites
    found = {c.technique: c for c in coverage(config, Recipe.of(config, sites), sites, {}, params)}
    one = found["precision"]
    assert (one.touched, one.unasked, one.whole, one.total) == (touched, unasked, whole, 96)
    assert Coverage.from_json(json.loads(json.dumps(one.to_json()))) == one
    said = f"weights of products with integers, which go first: {whole}"
    assert (said in card_section([one.to_json()])) == (whole > 0)


QUANTIZE = {"type": "categorical", "choices": [True, False]}
BOTH = {"type": "categorical", "choices": ["model", "bfloat16"]}


@pytest.mark.parametrize(
    ("asked", "lost"),
    [
        ({"precision": "bfloat16", "quantize": True}, True),
        ({"precision": BOTH, "weight_bits": {"type": "int", "low": 2, "high": 8}}, True),
        ({"precision@first": "float8", "weight_bits": 4}, True),
        ({"precision": BOTH, "quantize": QUANTIZE}, False),
        ({"precision": {**BOTH, "when": {"quantize": False}}, "quantize": QUANTIZE}, False),
        ({"precision": "bfloat16", "weight_bits@last": 4}, False),
        ({"precision": "float32", "quantize": True}, False),
    ],
    ids=str,
)
def test_a_space_in_which_a_precision_never_counts_is_refused(
    asked: dict[str, Any], lost: bool
) -> None:
    config = {
        "task": "digits",
        "objectives": ["accuracy", "size"],
        "space": {"epochs": 1, **asked},
        "budget": {"trials": 2},
    }
    if not lost:
        plan(parse_config(config, "the config"))
        return
    with pytest.raises(UsageError, match=r"`precision` is that of products without .* `when"):
        plan(parse_config(config, "the config"))


def test_twins_of_a_joint_space_train_alike_and_the_leaderboard_says_so(tmp_path: Path) -> None:
    config = {
        "task": "breast_cancer",
        "objectives": ["accuracy", "size"],
        "executor": "inline",
        "sampler": "grid",
        "budget": {"trials": 5},
        "final_seeds": 0,
        "space": {"epochs": 2, "width": 4, "quantize": QUANTIZE, "precision": BOTH},
    }
    run = run_search(plan(parse_config(config, "the config")), tmp_path / "run")
    chosen = {(t.candidate["quantize"], t.candidate["precision"]): t for t in run.trials}
    evaluator = AccuracyEvaluator(run.workbench())
    again = {key: evaluator.evaluate(t.candidate, 3).measurements for key, t in chosen.items()}
    sizes = {key: t.measurements[0].value for key, t in chosen.items()}
    assert again[True, "model"][0].value == again[True, "bfloat16"][0].value
    assert sizes[True, "model"] == sizes[True, "bfloat16"]
    assert sizes[False, "model"] > sizes[False, "bfloat16"]
    (said,) = precisions_lost(run.trials)
    number = chosen[True, "bfloat16"].number
    assert said.endswith(f"of the parameters' bytes (trial {number}).")


def test_nothing_left_is_nothing_told() -> None:
    assert left_out([]) == []
    assert card_section([]).startswith("No technique")


def no_products() -> Workbench:
    def load() -> Data:
        part = Split(np.ones((4, 3), np.float32), np.arange(4, dtype=np.int32) % 3)
        return Data(train=part, validation=part, test=part)

    def init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
        return {"w": jnp.ones((3, 3)), "b": jnp.ones(3)}

    def predict(p: Any, x: jax.Array) -> Any:
        return x @ (p["w"] / jnp.linalg.norm(p["w"])) + p["b"]

    build = lambda config: (init, predict)  # noqa: E731
    return Workbench(classification("normed", load=load, build=build, defaults={}))


@pytest.mark.parametrize(
    "config",
    [
        {"quantize": True},
        {"weight_bits": 4},
        {"activation_bits": 8},
        {"sparsity": 0.5},
        {"pruning_pattern": "1:3"},
        {"precision": "bfloat16"},
    ],
)
def test_a_technique_with_nothing_to_work_on_is_refused(config: dict[str, Any]) -> None:
    (setting,) = config
    with pytest.raises(UsageError, match=rf"{setting}: .* touches nothing .*w: it enters `mul`"):
        no_products().deployed(config)


def test_nothing_asked_is_nothing_refused() -> None:
    bench = no_products()
    bench.deployed({"quantize": False, "weight_bits": 4, "sparsity": 0.0})
    assert bench.prepared({}).others == {"b": "it enters `add`", "w": "it enters `mul`"}
