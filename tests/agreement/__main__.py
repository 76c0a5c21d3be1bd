"""Draws by hand: `python -m tests.agreement SYSTEM FIRST END [--techniques N] [--numbers N]`.

Of each model from FIRST to END so many sets of techniques, of each so many sets of numbers.
Prints each draw that fails or is refused, and at the end how many of each there were; exits with 1
if any failed.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter

import tests.conftest  # noqa: F401  JAX is set up as for all tests


def main() -> int:
    """Run the draws of a range."""
    # Imports of JAX stand below what sets it up.
    import jax
    from tests.agreement.checking import outcomes

    parser = argparse.ArgumentParser(prog="python -m tests.agreement")
    parser.add_argument("system", choices=["nnx", "linen", "pair"])
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--techniques", type=int, default=1)
    parser.add_argument("--numbers", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("error")
    counted: Counter[str] = Counter()
    start = time.process_time()
    for model in range(given.first, given.end):
        alone = range(model, model + 1)
        for drawn, found in outcomes(given.system, alone, given.techniques, given.numbers):
            kind = "failed" if isinstance(found, Exception) else found.partition(":")[0]
            counted[kind] += 1
            if kind == "failed":
                print(f"FAILED {drawn.words}: {type(found).__name__}: {found}", flush=True)
            elif kind == "refused":
                print(f"{found} | {drawn.words}", flush=True)
        seconds = time.process_time() - start
        print(f"to model {model}: {dict(counted)}, {seconds:.0f} CPU seconds", flush=True)
        if model % 10 == 9:  # what has gathered takes room
            jax.clear_caches()
    return 1 if counted["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
