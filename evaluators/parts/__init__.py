"""Pricing a candidate as the sum of its parts, each compiled once for a target."""

from paretax.evaluators.parts.fusion import Checked, Fusion, fitted
from paretax.evaluators.parts.pricing import PartsPricer, Price
from paretax.evaluators.parts.splitting import Part, split

__all__ = [
    "Checked",
    "Fusion",
    "Part",
    "PartsPricer",
    "Price",
    "fitted",
    "split",
]
