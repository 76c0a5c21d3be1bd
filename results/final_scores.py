"""The final front's metric over further seeds, as means with standard errors.

What a search reports of its front was chosen for being high, luck of the seed included. So each
trial of the final front is trained again with `final_seeds` seeds that had no part in the choice,
and their mean m counts in place of the search's own score. Its standard error joins what other
seeds and what other examples would change:

    se = sqrt(s^2 / n + b^2)

with n further seeds, s the standard deviation over them and the search's own, and b the standard
error of the split (by the bootstrap, root mean square over the n): the seeds share the validation
examples, so that more of them make s^2 / n smaller, and b not.
"""

from __future__ import annotations

import hashlib


def further_seed(seed: int, index: int) -> int:
    """The seed of a trial's repetition: 31 bits of a hash of the trial's own seed and a number."""
    digest = hashlib.sha256(f"{seed}/repeated/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
