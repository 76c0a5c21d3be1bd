"""Preprocessing as a dimension: what is done to the inputs is searched with the model."""

from paretax.spaces.preprocessing.pipeline import Pipeline, check, fit, is_active, key
from paretax.spaces.preprocessing.techniques import SETTINGS

__all__ = ["SETTINGS", "Pipeline", "check", "fit", "is_active", "key"]
