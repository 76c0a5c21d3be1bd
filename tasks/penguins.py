"""Species of 344 penguins from five measurements, some of them missing (package palmerpenguins).

K. B. Gorman, T. D. Williams and W. R. Fraser, "Ecological Sexual Dimorphism and Environmental
Variability within a Community of Antarctic Penguins (Genus Pygoscelis)", PLoS ONE 9(3), 2014,
doi:10.1371/journal.pone.0090081.

Two birds have no measurement at all, and nine others no sex. They stay in the data as NaN, so a
space for this task needs an imputation.
"""

from __future__ import annotations

import flax.linen as linen
import jax
import numpy as np
from palmerpenguins import load_penguins

from paretax.tasks.classification import classification
from paretax.tasks.splitting import split
from paretax.tasks.task import Config, Data

_MEASURED = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
_SEXES = {"female": 0.0, "male": 1.0}
_SPECIES = {"Adelie": 0, "Chinstrap": 1, "Gentoo": 2}


class MLP(linen.Module):
    """`depth` hidden layers of `width` units with ReLU, then a linear layer to the species.

    A linen module, which takes its number of inputs from the first batch: preprocessing may add
    features (products, marks of missing values) or leave fewer of them.
    """

    width: int
    depth: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Inputs (batch, features) to logits (batch, 3)."""
        for i in range(self.depth):
            x = linen.relu(linen.Dense(self.width, name=f"hidden_{i}")(x))
        return linen.Dense(len(_SPECIES), name="out")(x)


def _load() -> Data:
    table = load_penguins()
    measured = table[_MEASURED].to_numpy(np.float32)
    sex = table["sex"].map(_SEXES).to_numpy(np.float32)
    labels = table["species"].map(_SPECIES).to_numpy(np.int32)
    return split(np.column_stack([measured, sex]), labels)


def _build(config: Config) -> MLP:
    return MLP(width=config["width"], depth=config["depth"])


task = classification("penguins", load=_load, build=_build, defaults={"width": 16, "depth": 1})
