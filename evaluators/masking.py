"""Masks of a model in training: which weights and channels are gone at a point of the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.compiling import compile_fast
from paretax.evaluators.workbench import Deployed, Prepared
from paretax.spaces.channels import channel_masks
from paretax.spaces.recipe import masks
from paretax.spaces.structured import channel_block, group_block
from paretax.tasks import Arrays


def mask_weights(params: Arrays, masks: Arrays) -> Arrays:
    """The parameters, with zeros where a mask says False; names without a mask stay as they are."""
    return {n: jnp.where(masks[n], p, 0.0) if n in masks else p for n, p in params.items()}


class Masker:
    """Finds masks, by programs that it keeps."""

    def __init__(self) -> None:
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(64)

    def prune(
        self,
        prepared: Prepared,
        deployed: Deployed,
        candidate: Mapping[str, Any],
        params: Arrays,
        state: Arrays,
        share: float,
        round_share: float | None = None,
    ) -> tuple[Arrays, Arrays]:
        """A candidate's weights, pruned.

        Args:
            prepared: the model at its full size.
            deployed: the model as it will be.
            candidate: is read for the block of channels.
            params: the weights, by which it is decided; learned steps may be among them.
            state: of the model.
            share: of the final sparsity.
            round_share: of a lottery's rounds that are done; then the weights that stay shrink by
                an equal factor in each round.

        Returns:
            The parameters, and masks: booleans by parameter, in shapes that broadcast against it.
        """
        block = channel_block(candidate)
        counts = {}
        for name, site in deployed.sites.items():
            treatment = deployed.recipe.treatments[name]
            final = treatment.count(site.size)
            now = share * final
            if round_share is not None:
                now = site.size * (1.0 - (1.0 - treatment.sparsity) ** round_share)
            whole = share == 1.0 or round_share == 1.0
            counts[name] = final if whole else min(final, round(now))
        blocks = {
            g.name: round(share * deployed.removed[g.name] / b) * b
            for g in deployed.groups
            for b in [group_block(candidate, g)]
        }
        key = (
            prepared.key,
            block,
            tuple(blocks),
            deployed.recipe.scope,
            *((n, t.pattern, t.sparsity > 0) for n, t in deployed.recipe.treatments.items()),
        )
        run = self._programs.get(key, lambda: compile_fast(_program(prepared, deployed, block)))
        patterned = np.bool_(share == 1.0 or round_share is not None)
        kept: tuple[Arrays, Arrays] = run(params, state, counts, blocks, patterned)
        return kept


def _program(prepared: Prepared, deployed: Deployed, block: int) -> Callable[..., Any]:
    def run(
        params: Arrays, state: Arrays, pruned: Any, removed: Any, patterned: jax.Array
    ) -> tuple[Arrays, Arrays]:
        found: Arrays = {}
        if deployed.groups:
            arrays = {**params, **state}
            for kind, step in (("channels", block), ("heads", 1)):
                groups = [g for g in deployed.groups if g.kind == kind]
                counts = {g.name: removed[g.name] for g in groups}
                for name, mask in channel_masks(groups, arrays, counts, block=step).items():
                    if name in params:
                        found[name] = mask & found[name] if name in found else mask
        treatments = deployed.recipe.treatments
        sites = {
            n: s
            for n, s in prepared.sites.items()
            if n in treatments and (treatments[n].pattern or treatments[n].sparsity > 0)
        }
        magnitudes, gone = {}, {}
        for name in sites:
            magnitudes[name] = jnp.abs(params[name]).astype(jnp.float32)
            if name in found:  # what goes with a channel goes first, and does not count
                stays = jnp.broadcast_to(found[name], params[name].shape)
                gone[name] = jnp.sum(~stays)
                magnitudes[name] = jnp.where(stays, magnitudes[name], -1.0)
        total = {n: pruned[n] + gone.get(n, 0) for n in sites}
        for name, mask in masks(deployed.recipe, sites, magnitudes, total, patterned).items():
            found[name] = mask & found[name] if name in found else mask
        return mask_weights(params, found), found

    return run
