"""Recipes: what a candidate asks for at each site, and in words."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.spaces.pruning import global_masks, layer_masks, n_of_m_mask
from paretax.spaces.recipe import Recipe, Treatment, masks, steps_in_words
from paretax.spaces.sites import Site

SITES = {
    s.weight: s
    for s in (
        Site(weight="embed", kind="embedding", shape=(12, 64), axes=(0,)),
        Site(weight="conv/kernel", kind="convolution", shape=(3, 3, 4, 8), axes=(0, 1, 2)),
        Site(weight="blocks/attn/kernel", kind="dot", shape=(3, 64, 8), axes=(1,), stack=1),
        Site(weight="out", kind="dot", shape=(8, 4), axes=(0,)),
    )
}
EMBED, CONV, ATTN, OUT = SITES
PLAIN = {n: Treatment(shared=s.axes) for n, s in SITES.items()}


def treated(**changes: dict[str, Any]) -> dict[str, Treatment]:
    """All sites plain but for some; `every` is for all of them."""
    every = changes.pop("every", {})
    names = {"embed": EMBED, "conv": CONV, "attn": ATTN, "out": OUT}
    own = {names[k]: v for k, v in changes.items()}
    return {n: Treatment(**({"shared": s.axes} | every | own.get(n, {}))) for n, s in SITES.items()}


WHOLE = {"weight_bits": 8, "activation_bits": 8}
CASES: list[tuple[dict[str, Any], dict[str, Treatment]]] = [
    ({}, PLAIN),
    ({"width": 3, "quantize": False, "weight_bits": 4}, PLAIN),
    ({"sparsity": 0.5}, treated(every={"sparsity": 0.5})),
    (
        {"sparsity": 0.5, "sparsity@first": 0.0},
        treated(every={"sparsity": 0.5}, conv={"sparsity": 0.0}),
    ),
    ({"quantize": True}, treated(every=WHOLE, embed={"activation_bits": 32})),
    ({"activation_bits": 3}, treated(every={"activation_bits": 3}, embed={"activation_bits": 32})),
    ({"weight_bits": 4}, treated(every={"weight_bits": 4})),
    (
        {"quantize": True, "weight_bits@attention": 4, "activation_bits@last": 6},
        treated(
            every=WHOLE,
            embed={"activation_bits": 32},
            attn={"weight_bits": 4},
            out={"activation_bits": 6},
        ),
    ),
    ({"pruning_pattern": "2:4"}, treated(every={"pattern": (2, 4)})),
    (  # a pattern takes the place of a share
        {"pruning_pattern@last": "1:4", "sparsity": 0.3},
        treated(every={"sparsity": 0.3}, out={"pattern": (1, 4), "sparsity": 0.0}),
    ),
    ({"precision": "bfloat16"}, treated(every={"precision": "bfloat16", "as_model": False})),
    (  # whole numbers go before a floating-point format
        {"precision": "float8", "weight_bits@last": 4},
        treated(
            every={"precision": "float8", "as_model": False},
            out={"precision": "float32", "as_model": True, "weight_bits": 4},
        ),
    ),
    (
        {"quantize": True, "weight_scales": "tensor"},
        treated(
            every=WHOLE,
            embed={"activation_bits": 32, "shared": (0, 1)},
            conv={"shared": (0, 1, 2, 3)},
            attn={"shared": (1, 2)},
            out={"shared": (0, 1)},
        ),
    ),
    (
        {"quantize": True, "weight_scales": "group", "group_size": 4},
        treated(
            every=WHOLE,
            embed={"activation_bits": 32},
            attn={"group": (1, 4)},
            out={"group": (0, 4)},
        ),
    ),
    (
        {"activation_bits": 8, "weight_scales": "group", "group_size": 4},
        treated(
            every={"activation_bits": 8},
            embed={"activation_bits": 32},  # weights without scales
        ),
    ),
    (
        {"precision": "bfloat16", "weight_scales": "group", "group_size": 4},
        treated(every={"precision": "bfloat16", "as_model": False}),
    ),
    (
        {"precision": "float8", "weight_scales": "group"},
        treated(every={"precision": "float8", "as_model": False}, attn={"group": (1, 32)}),
    ),
]


@pytest.mark.parametrize(("config", "expected"), CASES, ids=lambda v: "")
def test_what_a_candidate_asks_for(config: dict[str, Any], expected: dict[str, Treatment]) -> None:
    recipe = Recipe.of(config, SITES)
    assert recipe.treatments == expected
    assert list(recipe.treatments) == list(SITES)


def test_settings_of_the_whole_model() -> None:
    config = {"pruning_scope": "global", "calibration": "mse", "calibration_percentile": 99}
    recipe = Recipe.of(config, SITES)
    assert (recipe.scope, recipe.calibration, recipe.percentile) == ("global", "mse", 99.0)
    default = Recipe.of({}, SITES)
    assert (default.scope, default.calibration, default.percentile) == ("layer", "absmax", 99.9)
    assert default == Recipe.plain(SITES)


def test_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="leave pruning_scope at 'layer'"):
        Recipe.of({"pruning_scope": "global", "pruning": "lottery_ticket"}, SITES)
    with pytest.raises(UsageError, match="'out' has 8"):
        Recipe.of({"pruning_pattern@out": "2:5"}, SITES)


def test_a_tickets_last_site_goes_half_as_fast() -> None:
    recipe = Recipe.of({"pruning": "lottery_ticket", "sparsity": 0.36}, SITES)
    shares = {n: t.sparsity for n, t in recipe.treatments.items()}
    assert shares == dict.fromkeys(SITES, 0.36) | {OUT: pytest.approx(1 - 0.9**2)}


# What follows from it -----------------------------------------------------------------------------


def test_counts() -> None:
    recipe = Recipe.of({"sparsity": 0.3, "pruning_pattern@last": "1:4"}, SITES)
    assert recipe.pruned(SITES) == {
        EMBED: round(768 * 0.3),
        CONV: round(288 * 0.3),
        ATTN: round(1536 * 0.3),
        OUT: 24,
    }
    assert Treatment(sparsity=0.999).count(4) == 3
    assert Treatment(pattern=(2, 4)).count(16) == 8
    assert Treatment(pattern=(7, 8)).count(16) == 2
    assert Recipe.plain(SITES).pruned(SITES) == dict.fromkeys(SITES, 0)


@pytest.mark.parametrize(
    ("config", "sparse", "quantized"),
    [
        ({}, False, False),
        ({"sparsity@last": 0.1}, True, False),
        ({"pruning_pattern@last": "2:4"}, True, False),
        ({"weight_bits@last": 3}, False, True),
        ({"activation_bits@last": 3}, False, True),
        ({"activation_bits@embedding": 3}, False, False),
        ({"precision": "bfloat16"}, False, False),
        ({"quantize": True, "sparsity": 0.2}, True, True),
    ],
)
def test_whether_anything_is_done(config: dict[str, Any], sparse: bool, quantized: bool) -> None:
    recipe = Recipe.of(config, SITES)
    assert (recipe.sparse, recipe.quantized) == (sparse, quantized)


def test_structure_is_what_no_number_can_say() -> None:
    """One compiled program serves all widths and sparsities, but not another layout of scales."""
    structure = Recipe.of({}, SITES).structure
    same: list[dict[str, Any]] = [
        {"quantize": True},
        {"weight_bits": 3, "activation_bits@last": 5, "sparsity": 0.5},
        {"pruning_pattern": "2:4", "pruning_scope": "global", "calibration_percentile": 99.0},
    ]
    for config in same:
        assert Recipe.of(config, SITES).structure == structure
    others: list[dict[str, Any]] = [
        {"calibration": "mse"},
        {"precision@last": "bfloat16"},
        {"quantize": True, "weight_scales": "tensor"},
        {"quantize": True, "weight_scales": "group"},
    ]
    for config in others:
        other = Recipe.of(config, SITES).structure
        assert other != structure
        hash(other)


# Masks --------------------------------------------------------------------------------------------

MAGNITUDES = {
    n: jnp.abs(jnp.asarray(np.random.default_rng(i).normal(size=s.shape), jnp.float32))
    for i, (n, s) in enumerate(SITES.items())
}


def count(found: dict[str, jax.Array]) -> dict[str, int]:
    return {n: int((~mask).sum()) for n, mask in found.items()}


def test_masks_of_layers() -> None:
    recipe = Recipe.of({"sparsity": 0.3, "sparsity@first": 0.6}, SITES)
    counts = recipe.pruned(SITES)
    found = masks(recipe, SITES, MAGNITUDES, counts)
    assert count(found) == counts
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, layer_masks(MAGNITUDES, counts)[name])


def test_masks_with_patterns_run_along_the_inputs() -> None:
    recipe = Recipe.of({"sparsity": 0.3, "pruning_pattern@(conv|blocks/attn)": "2:4"}, SITES)
    found = masks(recipe, SITES, MAGNITUDES, recipe.pruned(SITES))
    assert count(found) == recipe.pruned(SITES)
    np.testing.assert_array_equal(found[CONV], n_of_m_mask(MAGNITUDES[CONV], 2, 2, 4))
    np.testing.assert_array_equal(found[ATTN], n_of_m_mask(MAGNITUDES[ATTN], 1, 2, 4))
    assert (np.asarray(found[ATTN]).reshape(3, 16, 4, 8).sum(axis=2) == 2).all()
    none = masks(recipe, SITES, MAGNITUDES, recipe.pruned(SITES), patterned=False)
    assert count(none) == recipe.pruned(SITES) | {CONV: 0, ATTN: 0}


def test_masks_of_all_layers_together() -> None:
    recipe = Recipe.of(
        {"sparsity": 0.5, "pruning_pattern@attention": "2:4", "pruning_scope": "global"}, SITES
    )
    counts = recipe.pruned(SITES)
    found = jax.jit(lambda m, c: masks(recipe, SITES, m, c))(MAGNITUDES, counts)
    free = [n for n in SITES if n != ATTN]
    total = sum(counts[n] for n in free)
    assert sum(count({n: found[n] for n in free}).values()) == total
    assert count(found)[ATTN] == counts[ATTN]
    expected = global_masks({n: MAGNITUDES[n] for n in free}, total)
    for name in free:
        np.testing.assert_array_equal(found[name], expected[name])


# In words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "prune", "quantize"),
    [
        ({}, "", ""),
        ({"sparsity": 0.5}, "0.5 of the weights", ""),
        (
            {"sparsity": 0.5, "sparsity@last": 0.0},
            f"0.5 of the weights at {EMBED}, {CONV}, {ATTN}",
            "",
        ),
        ({"pruning_pattern": "2:4"}, "2:4", ""),
        (
            {"pruning_pattern@last": "2:4", "sparsity@first": 1 / 3},
            f"0.3333 of the weights at {CONV}; 2:4 at {OUT}",
            "",
        ),
        ({"weight_bits": 4}, "", "4-bit weights, float32 inputs"),
        (
            {"quantize": True},
            "",
            f"8-bit weights, float32 inputs at {EMBED}; 8-bit weights, 8-bit inputs at {CONV}, "
            f"{ATTN}, {OUT}",
        ),
        (
            {"precision": "bfloat16", "activation_bits@last": 4},
            "",
            f"bfloat16 at {EMBED}, {CONV}, {ATTN}; float32 weights, 4-bit inputs at {OUT}",
        ),
        ({"precision": "float16"}, "", "float16"),
    ],
)
def test_steps_in_words(config: dict[str, Any], prune: str, quantize: str) -> None:
    found = steps_in_words(Recipe.of(config, SITES), SITES)
    assert found == {"prune": prune, "quantize": quantize}
