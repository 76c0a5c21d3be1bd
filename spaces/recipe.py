"""What is done to each site of a model: how sparse, on which grid, in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from paretax.errors import UsageError
from paretax.spaces import pruning, quantization
from paretax.spaces.dimensions import choose
from paretax.spaces.pruning import global_masks, layer_masks, n_of_m_mask, pruned_count
from paretax.spaces.quantization import FLOAT_BITS, MODEL, group_length, scale_axes
from paretax.spaces.rules import resolve
from paretax.spaces.sites import Site


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What is done to one site.

    Args:
        sparsity: share of its weights that is pruned.
        pattern: N and M, where N of each M neighbours stay.
        weight_bits: 2 to 8, or 32 for floating point.
        activation_bits: of the site's inputs; likewise.
        precision: the floating-point format where neither side is quantised.
        as_model: whether that is no change: the weight's own dtype, and products as in the model.
        shared: axes of the weight along which a scale is shared.
        group: an axis, and how many neighbours along it share a scale; None: all.
    """

    sparsity: float = 0.0
    pattern: tuple[int, int] | None = None
    weight_bits: int = FLOAT_BITS
    activation_bits: int = FLOAT_BITS
    precision: str = "float32"
    as_model: bool = True
    shared: tuple[int, ...] = ()
    group: tuple[int, int] | None = None

    @property
    def weights_quantized(self) -> bool:
        """Whether weights are integers."""
        return self.weight_bits < FLOAT_BITS

    @property
    def inputs_quantized(self) -> bool:
        """Whether inputs are integers."""
        return self.activation_bits < FLOAT_BITS

    @property
    def quantized(self) -> bool:
        """Whether the site computes with whole numbers."""
        return self.weights_quantized or self.inputs_quantized

    @property
    def has_steps(self) -> bool:
        """Whether its values are multiples of steps."""
        return self.quantized or self.precision == "float8"

    @property
    def changes(self) -> bool:
        """Whether the site's product is another than the model's."""
        return self.quantized or not self.as_model

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the graph of `simulate` depends on."""
        return self.precision, self.as_model, self.shared, self.group

    def count(self, size: int) -> int:
        """How many of `size` weights are pruned."""
        if self.pattern is not None:
            n, m = self.pattern
            return size // m * (m - n)
        return pruned_count(size, self.sparsity)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done to a model's sites.

    Args:
        treatments: by the name of the weight.
        scope: whether sparsity holds for each site, or for all of them together.
        calibration: how the range of a grid is found.
        percentile: for that calibration.
    """

    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    scope: Literal["layer", "global"] = "layer"
    calibration: Literal["absmax", "percentile", "mse"] = "absmax"
    percentile: float = 99.9

    @classmethod
    def of(cls, config: Mapping[str, Any], sites: Mapping[str, Site]) -> Recipe:
        """What a candidate asks for.

        Raises:
            UsageError: a pattern does not divide a site, or the scope does not go with it.
        """
        whole = choose((*pruning.SETTINGS, *quantization.SETTINGS), config)
        bits = quantization.widths(config, sites)
        patterns = pruning.patterns(config, sites)
        shares = pruning.sparsities(config, sites)
        precisions = resolve("precision", config, MODEL, sites)
        if whole["pruning_scope"] == "global" and whole["pruning"] == "lottery_ticket":
            raise UsageError(
                "a lottery ticket is pruned layer by layer: leave pruning_scope at 'layer'"
            )
        treatments = {}
        for name, site in sites.items():
            precision, as_model = format_at(site, str(precisions[name]))
            length = group_length(site, whole["weight_scales"], int(whole["group_size"]))
            quantized = min(bits[name]) < FLOAT_BITS
            if bits[name][0] == FLOAT_BITS and (quantized or precision != "float8"):
                length = None  # its weights have no scales
            treatments[name] = Treatment(
                sparsity=0.0 if name in patterns else shares[name],
                pattern=patterns.get(name),
                weight_bits=bits[name][0],
                activation_bits=bits[name][1],
                precision=site.dtype if quantized else precision,
                as_model=quantized or as_model,
                shared=scale_axes(site, whole["weight_scales"]),
                group=None if length is None else (site.inner_axis, length),
            )
        return cls(
            treatments=treatments,
            scope=whole["pruning_scope"],
            calibration=whole["calibration"],
            percentile=float(whole["calibration_percentile"]),
        )

    @classmethod
    def plain(cls, sites: Mapping[str, Site]) -> Recipe:
        """Nothing is done: dense, in the model's own dtypes."""
        return cls(
            treatments={
                name: Treatment(precision=site.dtype, shared=site.axes)
                for name, site in sites.items()
            }
        )

    @property
    def patterns(self) -> dict[str, tuple[int, int]]:
        """The sites that are pruned N of M."""
        return {n: t.pattern for n, t in self.treatments.items() if t.pattern is not None}

    @property
    def sparse(self) -> bool:
        """Whether any weight is pruned."""
        return any(t.sparsity > 0 or t.pattern for t in self.treatments.values())

    @property
    def quantized(self) -> bool:
        """Whether any site computes with whole numbers."""
        return any(t.quantized for t in self.treatments.values())

    @property
    def rounds(self) -> bool:
        """Whether any site computes otherwise than the model does."""
        return any(t.changes for t in self.treatments.values())

    @property
    def has_steps(self) -> bool:
        """Whether any site's values are multiples of steps."""
        return any(t.has_steps for t in self.treatments.values())

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the graph of `simulate` depends on; everything else are numbers."""
        return self.calibration, *((n, *t.structure) for n, t in self.treatments.items())

    @property
    def form(self) -> tuple[Any, ...]:
        """What the deployed program and the shapes of its arrays depend on."""
        return tuple(
            (n, *t.structure, t.weights_quantized, t.inputs_quantized)
            for n, t in self.treatments.items()
        )

    def pruned(self, sites: Mapping[str, Site]) -> dict[str, int]:
        """How many weights each site loses; with the global scope, on average over the sites."""
        return {name: self.treatments[name].count(site.size) for name, site in sites.items()}


def format_at(site: Site, asked: str) -> tuple[str, bool]:
    """The format that is asked for, and whether the model is so already."""
    if asked == MODEL or {site.dtype, *site.dtypes} == {asked}:
        return site.dtype, True
    return asked, False


def masks(
    recipe: Recipe,
    sites: Mapping[str, Site],
    magnitudes: Mapping[str, jax.Array],
    counts: Mapping[str, Any],
    patterned: jax.Array | bool = True,
) -> dict[str, jax.Array]:
    """The weights that stay at each site, as booleans.

    Args:
        recipe: of which only patterns and scope are read.
        sites: of the model.
        magnitudes: of the weights, by site; weights that must go first have negative ones.
        counts: how many go; may be traced.
        patterned: whether patterns N of M are applied; may be traced.
    """
    found: dict[str, jax.Array] = {}
    free: dict[str, jax.Array] = {}
    for name, sizes in magnitudes.items():
        pattern = recipe.treatments[name].pattern
        if pattern is not None:
            mask = n_of_m_mask(sizes, sites[name].inner_axis, *pattern)
            found[name] = mask | jnp.logical_not(patterned)
        else:
            free[name] = sizes
    if free and recipe.scope == "layer":
        found |= layer_masks(free, counts)
    elif free:
        found |= global_masks(free, sum(counts[name] for name in free))
    return found


def steps_in_words(recipe: Recipe, sites: Mapping[str, Site]) -> dict[str, str]:
    """Pruning and quantisation in words, sites that are treated alike together."""
    return {
        "prune": _grouped({n: _pruning(recipe.treatments[n]) for n in sites}),
        "quantize": _grouped({n: _grid(recipe.treatments[n], s) for n, s in sites.items()}),
    }


def _grouped(words: Mapping[str, str]) -> str:
    kinds = list(dict.fromkeys(words.values()))
    if len(kinds) == 1:
        return kinds[0]
    listed = (f"{k} at {', '.join(n for n, w in words.items() if w == k)}" for k in kinds if k)
    return "; ".join(listed)


def _pruning(treatment: Treatment) -> str:
    if treatment.pattern is not None:
        return "{}:{}".format(*treatment.pattern)
    return f"{treatment.sparsity:.4g} of the weights" if treatment.sparsity else ""


def _grid(treatment: Treatment, site: Site) -> str:
    if not treatment.quantized:
        return treatment.precision if treatment.changes else ""
    sides = (("weights", treatment.weight_bits), ("inputs", treatment.activation_bits))
    own = "floating-point" if set(site.dtypes) - {site.dtype} else site.dtype
    return ", ".join(f"{b}-bit {s}" if b < FLOAT_BITS else f"{own} {s}" for s, b in sides)
