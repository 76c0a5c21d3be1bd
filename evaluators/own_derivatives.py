"""What training cannot do to a model with derivatives of its own (`custom_vjp`) is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from paretax.errors import UsageError
from paretax.evaluators.randomness import training_key
from paretax.spaces import distillation, training
from paretax.spaces.derivatives import untraceable
from paretax.spaces.dimensions import choose
from paretax.spaces.fake_quantization import train_on_grid
from paretax.spaces.recipe import Recipe
from paretax.spaces.schedule import timeline

_ITS_OWN = "within a function that has a derivative of its own (custom_vjp, custom_jvp)"


def check_own_derivatives(candidate: Mapping[str, Any], prepared: Any) -> None:
    """Refuse a training that would lose a derivative of the model's own.

    Training on the grid and matching features run the model's operations again one by one. A
    derivative of its own is kept around a product, and passes by what is rounded within.

    Args:
        candidate: what is to be trained.
        prepared: its model, `Prepared`.

    Raises:
        UsageError: names the function or the layer, and the remedy.
    """
    chosen = choose(distillation.SETTINGS, candidate)
    matched = candidate.get("distill") is True and chosen["feature_weight"] > 0
    rounded = any(epoch.quantized for epoch in timeline(candidate))
    if not prepared.sites or not (matched or rounded):
        return
    if "own derivatives" not in prepared.shared:
        batch = int(choose(training.SETTINGS, candidate)["batch_size"])
        prepared.shared["own derivatives"] = _find(prepared, batch)
    within, blocked = prepared.shared["own derivatives"]
    if blocked is not None:
        asked, remedy = (
            (f"qat: {candidate.get('qat')}", "leave qat: none")
            if rounded
            else ("feature_weight", "leave feature_weight at 0")
        )
        raise UsageError(
            f"{asked} runs the model's operations again one by one, and the derivative that "
            f"{blocked!r} has of its own uses values from around it, which are gone by then: pass "
            f"them to the function as arguments, or {remedy}"
        )
    last = list(prepared.sites)[-1]
    if matched and last in within:
        raise UsageError(
            f"feature_weight matches what enters the last product, that of {last!r}, which stands "
            f"{_ITS_OWN}, and the gradient of what enters is not known: leave feature_weight at 0, "
            "or multiply outside of the function"
        )
    if rounded and candidate.get("qat") == "lsq":
        treatments = Recipe.of(candidate, prepared.sites).treatments
        for name in within:
            looked_up = prepared.sites[name].kind == "embedding"
            if treatments[name].inputs_quantized and not looked_up:
                raise UsageError(
                    f"qat: lsq learns the step of what enters the product of {name!r}, which "
                    f"stands {_ITS_OWN}, and that one says nothing of the step: use qat: ste, or "
                    "multiply outside of the function"
                )


def _find(prepared: Any, batch: int) -> tuple[list[str], str | None]:
    """The sites within functions that have derivatives of their own; one that cannot be kept."""
    key = jax.eval_shape(lambda: training_key(0))
    shapes = dict(prepared.params), dict(prepared.state), prepared.features.shape(batch)
    args = (*shapes, (key, prepared.numbers))
    blocked = untraceable(jax.make_jaxpr(prepared.apply)(*args))
    within: set[str] = set()
    if blocked is None:
        run = train_on_grid(prepared.apply, prepared.sites, learn=False, within=within)
        jax.eval_shape(run, *args, {})
    return [name for name in prepared.sites if name in within], blocked
