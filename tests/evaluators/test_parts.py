"""Candidates priced as the sum of their parts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from paretax.evaluators import Target, Workbench
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.compilers import Compiler, Store
from paretax.evaluators.parts import Checked, Fusion, PartsPricer, fitted, split
from paretax.spaces import Space, parse_space
from paretax.tasks import load_task

# What fusion saves --------------------------------------------------------------------------------


def checked(count: int, share: float, saved: Mapping[tuple[str, str], float]) -> list[Checked]:
    """Whole programs that take a share of their products, and less where some parts meet."""
    rng, kinds = np.random.default_rng(0), ["conv", "dense", "pool"]
    found = []
    for _ in range(count):
        names = rng.choice(kinds, rng.integers(2, 6)).tolist()
        joints = tuple(itertools.pairwise(names))
        products = float(rng.uniform(20, 60))
        whole = share * products + 5 - sum(saved.get(joint, 0.0) for joint in joints)
        found.append(Checked(products=products, others=5.0, joints=joints, whole=whole))
    return found


def test_what_a_joint_saves_is_learned() -> None:
    rows = checked(60, 0.8, {("conv", "pool"): 3.0})
    fusion = fitted(rows)

    def off(fusion: Fusion) -> float:
        told = [fusion.seconds(r.products, r.others, r.joints) / r.whole for r in rows]
        return float(np.median(np.abs(np.array(told) - 1)))

    assert off(fusion) < 0.01
    assert off(fusion) < 0.5 * off(replace(fusion, joints={}))
    assert fusion.joints["conv", "pool"] < -1.5
    assert abs(fusion.joints["dense", "dense"]) < 1.0
    assert fusion.checked == 60


def test_one_program_teaches_little() -> None:
    (row,) = checked(1, 0.5, {})
    told = fitted([row]).seconds(row.products, row.others, row.joints)
    untold = Fusion().seconds(row.products, row.others, row.joints)
    assert untold == row.products + row.others
    assert row.whole < told < untold


def test_a_joint_that_was_never_seen_is_like_any() -> None:
    fusion = fitted(checked(40, 0.9, {}))
    seen = fusion.seconds(40.0, 5.0, [("conv", "conv")])
    assert fusion.seconds(40.0, 5.0, [("attention", "conv")]) == pytest.approx(seen, rel=0.05)


def test_a_whole_program_is_never_free() -> None:
    fusion = Fusion(products=0.0, others=0.0, cut=1.0)
    assert fusion.seconds(10.0, 10.0, [("a", "b")]) == pytest.approx(2.0)


# Cutting ------------------------------------------------------------------------------------------


def parts_of(bench: Workbench, candidate: Mapping[str, Any], batch: int = 2) -> list[Any]:
    model = bench.deployed(candidate)
    return split(deployed_program(model), bench.arrays(model), bench.batch_shape(batch))


@pytest.mark.parametrize(
    "form", [{}, {"quantize": True}, {"precision": "bfloat16"}, {"weight_bits": 4}], ids=str
)
@pytest.mark.parametrize("name", ["mnist5k", "mnist5k_vit", "digits"])
def test_the_parts_compute_what_the_whole_does(name: str, form: dict[str, Any]) -> None:
    """Every value that a part takes is the inputs, a weight, or what an earlier part gave."""
    bench = Workbench(load_task(name, []))
    model = bench.deployed({**bench.task.defaults, **form})
    arrays, inputs = bench.arrays(model), bench.batch_shape(2)
    program = deployed_program(model)
    closed = jax.make_jaxpr(program)(dict(arrays), inputs)
    parts = split(program, arrays, inputs)
    flops = sum(_products(jax.make_jaxpr(p.function)(*p.shapes).jaxpr) for p in parts)
    assert flops == _products(closed.jaxpr) > 0
    slots = [p.slot for p in parts]
    assert len(set(slots)) == len(slots)
    for site in model.sites:
        assert site in slots


def _products(jaxpr: Any) -> int:
    """Multiplications of all products in a program."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            total += int(np.prod(eqn.outvars[0].aval.shape)) * int(
                np.prod(eqn.invars[1].aval.shape)
            )
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _products(inner)
    return total


def test_a_chain_of_parts_gives_the_output() -> None:
    """Two dense layers: the parts, called one after another, are the model."""

    def function(arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ arrays["a"]) @ arrays["b"].astype(jnp.float32)

    arrays = {"a": jnp.ones((3, 4)), "b": jnp.full((4, 2), 2, jnp.bfloat16)}
    x = jnp.arange(6.0).reshape(2, 3)
    first, second = split(function, arrays, x)
    assert (first.slot, second.slot) == ("a", "b")
    (hidden,) = first.function(x, arrays["a"])
    given = [hidden if s.shape == (2, 4) else arrays["b"] for s in second.shapes]
    (found,) = second.function(*given)
    np.testing.assert_allclose(found, function(arrays, x))


def test_equal_layers_are_equal_parts() -> None:
    bench = Workbench(load_task("digits", []))
    parts = {p.slot: p.text for p in parts_of(bench, {"width": 64, "depth": 3})}
    middle = [text for slot, text in parts.items() if slot.endswith("/kernel")]
    assert len(middle) == 4
    assert len(set(middle)) == 3  # the first also reads the inputs, the last gives the logits
    again = {
        p.slot: p.text
        for p in parts_of(Workbench(load_task("digits", [])), {"width": 64, "depth": 3})
    }
    assert again == parts


# Pricing ------------------------------------------------------------------------------------------

SPACE = parse_space(
    {
        "width": {"type": "ordinal", "choices": [16, 64, 256, 1024]},
        "depth": {"type": "int", "low": 1, "high": 4},
        "quantize": {"type": "categorical", "choices": [False, True]},
        "weight_bits": {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}},
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2},
    }
)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(Store(Path(tmp_path_factory.mktemp("parts"))))


@pytest.fixture(scope="module")
def pricer(compiler: Compiler) -> PartsPricer:
    bench = Workbench(load_task("digits", []))
    targets = [Target.of(name, batch=64, measure=False) for name in ("cpu", "h100")]
    return PartsPricer(bench, targets, compiler)


def draw(space: Space, count: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def test_unseen_candidates_cost_no_compilation(pricer: PartsPricer, compiler: Compiler) -> None:
    for candidate in draw(SPACE, 500, 1):
        pricer.price(candidate)
    compiled = compiler.compilations
    fresh = draw(SPACE, 300, 2)
    prices = [pricer.price(candidate) for candidate in fresh]
    assert compiler.compilations == compiled
    assert all(set(price) == {"cpu", "h100"} for price in prices)
    by_id = {c.id: p["cpu"].seconds for c, p in zip(fresh, prices, strict=True)}
    numbers = SPACE.candidate({"width": 64, "depth": 2, "quantize": False, "learning_rate": 1e-3})
    other = SPACE.candidate({"width": 64, "depth": 2, "quantize": False, "learning_rate": 2e-3})
    assert pricer.price(numbers) == pricer.price(other)
    assert len(set(by_id.values())) > 20


def test_parts_rank_as_whole_programs_do(pricer: PartsPricer) -> None:
    pricer.check(draw(SPACE, 6, 3))
    found = pricer.check(draw(SPACE, 16, 4))
    for name, pairs in found.items():
        table = np.array(pairs)
        assert spearmanr(table[:, 0], table[:, 1]).statistic > 0.9, name
        assert np.median(np.abs(table[:, 0] / table[:, 1] - 1)) < 0.25, name
    price = pricer.price(draw(SPACE, 1, 5)[0])["cpu"]
    assert price.checked == 6 + 16


def test_one_batch_size(bench: Workbench) -> None:
    with pytest.raises(ValueError, match="one batch size"):
        PartsPricer(bench, [Target.of("cpu"), Target.of("aarch64", batch=2)])
