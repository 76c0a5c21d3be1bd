"""The final front's metric over further seeds, as means with standard errors.

What a search reports of its front was chosen for being high, the luck of the seed included. So each
trial of the final front is trained again with `final_seeds` seeds that had no part in the choice,
and their mean counts in place of the search's own score. Its standard error joins what other seeds
and what other examples would change:

    se = sqrt(s^2 / n + b^2)

with n further seeds, s the standard deviation over them and the search's own, and b the standard
error of the split (by the bootstrap; root mean square over the n). The seeds share the validation
examples, so that more of them make s^2 / n smaller, and b not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paretax.evaluators import Measurement, Objective
from paretax.results.trial import Trial


def further_seeds(trial: Trial, count: int) -> list[int]:
    """The seeds that a trial is trained with again: 31 bits of a hash of its own and a number."""
    digests = (hashlib.sha256(f"{trial.seed}/repeated/{i}".encode()).digest() for i in range(count))
    return [int.from_bytes(digest[:4], "big") >> 1 for digest in digests]


def final(trial: Trial, objective: Objective) -> Measurement:
    """What counts of a trial in the end: the metric's mean over further seeds, where there are any.

    The mean's `detail` holds `seeds`, `values` (in that order), `search` (the search's own score),
    and `standard_error` with its parts `over_seeds` (s / sqrt(n)) and `of_split` (b); the parts are
    null, and left out of the sum, where they are not known.

    Raises:
        KeyError: it was not measured.
    """
    own = trial.measured(objective)
    found = [(r.seed, r.measurement) for r in trial.repeats if r.measurement is not None]
    if not found or found[0][1].objective != objective.name:
        return own
    values = np.asarray([m.value for _, m in found])
    over_seeds = float(np.std([own.value, *values], ddof=1)) / math.sqrt(len(values))
    errors = [m.detail.get("standard_error") for _, m in found]
    known = [float(e) for e in errors if e is not None]
    of_split = math.sqrt(float(np.mean(np.square(known)))) if known else None
    detail: dict[str, Any] = {
        "split": "validation",
        "seeds": [seed for seed, _ in found],
        "values": values.tolist(),
        "search": own.value,
        "standard_error": math.hypot(over_seeds, of_split or 0.0),
        "over_seeds": over_seeds,
        "of_split": of_split,
    }
    return Measurement(
        objective=own.objective,
        value=float(values.mean()),
        unit=own.unit,
        provenance=own.provenance,
        seconds=sum(m.seconds for _, m in found),
        detail=detail,
    )


def final_losses(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The final values of the objectives, each turned so that less is better."""
    return tuple(o.sign * final(trial, o).value for o in objectives)


def standard_error(measurement: Measurement | None) -> float | None:
    """Of a metric; None where it is not known."""
    found = None if measurement is None else measurement.detail.get("standard_error")
    return None if found is None else float(found)


def why_it_left(trial: Trial, limits: Sequence[Objective]) -> str | None:
    """Why a trial that was trained again is not acceptable any more; None where it is."""
    if trial.repeats and all(r.measurement is None for r in trial.repeats):
        last = trial.repeats[-1].failure
        assert last is not None
        return f"trained again, it failed with all of {len(trial.repeats)} seeds: {last.message}"
    for limit in limits:
        if trial.repeats and limit.target is None and not limit.known_before_training:
            broken = limit.violation(final(trial, limit).value)
            if broken is not None:
                return broken.message
    return None
