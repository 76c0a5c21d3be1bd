"""New candidates from a sampler: none twice, and where asked, few signatures among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paretax.search.planning import Plan
from paretax.spaces import BY_NAME, Candidate, signature, with_signature

_ASKS = 20  # times that a sampler is asked for a batch before new candidates are drawn at random
_MORE = (
    64  # asked for on top where a sampler proposes what it was not told of yet, and nothing else
)
_DRAWS = 1000  # random draws before a space counts as exhausted


def propose(plan: Plan, state: Any, count: int, tried: Sequence[Candidate]) -> list[Candidate]:
    """New candidates; ones that were tried before are not tried again.

    Randomness comes from the run's seed and the number of trials so far, so that a resumed search
    goes on as it would have.

    Args:
        plan: of the search.
        state: of its sampler.
        count: how many are wanted.
        tried: all trials so far.

    Returns:
        At most `count`; fewer only where the space or the sampler holds no more.
    """
    rng = np.random.default_rng([plan.config.seed, len(tried)])
    seen = set(tried)
    found: dict[Candidate, None] = {}
    models: dict[str, Candidate] = {}
    more = 0
    for _ in range(_ASKS):
        wanted, before = count - len(found) + more, len(found)
        proposed = plan.sampler.ask(state, wanted, rng)
        for one in proposed:
            candidate = _sharing(plan, one, models, rng)
            if candidate is not None and candidate not in seen and len(found) < count:
                found[candidate] = None
        more = _MORE if len(found) == before else 0
        if len(found) == count:
            break
        if len(proposed) < wanted:  # a sampler that has come to its end
            return list(found)
    for _ in range(_DRAWS):
        if len(found) == count:
            break
        candidate = plan.space.sample(rng)
        if candidate not in seen:
            found[candidate] = None
    return list(found)


def _sharing(
    plan: Plan, candidate: Candidate, models: dict[str, Candidate], rng: np.random.Generator
) -> Candidate | None:
    """The candidate, moved to the signature of one of `models` where those are enough."""
    most = plan.config.signatures
    own = signature(candidate, BY_NAME)
    if most is None or own in models or len(models) < most:
        models.setdefault(own, candidate)
        return candidate
    model = list(models.values())[int(rng.integers(len(models)))]
    return with_signature(plan.space, candidate, model, BY_NAME, rng)
