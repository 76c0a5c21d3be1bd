"""Coverage: how much of a model each technique that was asked for touches, and what it leaves out.

Techniques work on sites. A weight that the model uses in any other way stays as it is, and whoever
asked is told so: which weights, why, and how many bytes of the dense model they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from paretax.errors import UsageError
from paretax.spaces.pruning import UNSTRUCTURED
from paretax.spaces.quantization import FLOAT_BITS, MODEL, widths
from paretax.spaces.recipe import Recipe, Treatment, format_at
from paretax.spaces.rules import resolve, setting_of
from paretax.spaces.sites import Site


@dataclass(frozen=True, kw_only=True)
class Left:
    """A weight that no technique can touch.

    Args:
        bytes: of it, in the dense model.
        why: what else the model does with it.
    """

    bytes: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a technique touches; all bytes are those of the dense model's parameters.

    Args:
        technique: in words.
        touched: bytes of the weights that it changes.
        unasked: bytes of weights that it could change, and was not asked to.
        small: bytes of biases, norms and other parameters of one axis, which no technique changes.
        whole: bytes of weights of which a precision was asked that counts for nothing, as their
            products have integers.
        left: the other weights, by name.
    """

    technique: str
    touched: int
    unasked: int
    small: int
    whole: int = 0
    left: Mapping[str, Left] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of all floating-point parameters."""
        left = sum(x.bytes for x in self.left.values())
        return self.touched + self.unasked + self.small + self.whole + left

    def to_json(self) -> dict[str, Any]:
        """As a journal holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Coverage:
        """The inverse of `to_json`."""
        left = {name: Left(**one) for name, one in plain["left"].items()}
        return cls(**{**plain, "left": left})


_TOUCHES: Mapping[str, Callable[[Treatment], bool]] = {
    "quantised weights": lambda t: t.weights_quantized,
    "quantised inputs": lambda t: t.inputs_quantized,
    "precision": lambda t: not t.as_model,
    "pruning": lambda t: t.sparsity > 0 or t.pattern is not None,
}
_INTEGERS = ("quantize", "weight_bits", "activation_bits")
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "quantised weights": ("quantize", "weight_bits"),
    "quantised inputs": ("activation_bits",),
    "precision": ("precision",),
    "pruning": ("sparsity", "pruning_pattern"),
}


def coverage(
    config: Mapping[str, Any],
    recipe: Recipe,
    sites: Mapping[str, Site],
    others: Mapping[str, str],
    shapes: Mapping[str, Any],
) -> list[Coverage]:
    """What each technique touches that a candidate asks for.

    Args:
        config: the candidate.
        recipe: what is done to the sites.
        sites: of the model.
        others: why its other floating-point parameters are none, by name.
        shapes: of the parameters, by name.
    """
    size = {n: math.prod(shapes[n].shape) * shapes[n].dtype.itemsize for n in (*sites, *others)}
    left = {n: Left(bytes=size[n], why=why) for n, why in others.items() if _is_large(shapes[n])}
    small = sum(size[n] for n in others if n not in left)
    found = []
    for technique, touches in _TOUCHES.items():
        if not any(_asks(config, setting) for setting in _SETTINGS[technique]):
            continue
        touched = sum(size[n] for n in sites if touches(recipe.treatments[n]))
        lost = lost_precisions(config, sites) if technique == "precision" else []
        whole = sum(size[n] for n in lost)
        found.append(
            Coverage(
                technique=technique,
                touched=touched,
                unasked=sum(size[n] for n in sites) - touched - whole,
                small=small,
                whole=whole,
                left=left,
            )
        )
    return found


def asked_precisions(config: Mapping[str, Any], sites: Mapping[str, Site]) -> list[str]:
    """The sites of which a candidate asks for a precision that is not the model's."""
    asked = resolve("precision", config, MODEL, sites)
    return [n for n, site in sites.items() if not format_at(site, str(asked[n]))[1]]


def lost_precisions(config: Mapping[str, Any], sites: Mapping[str, Site]) -> list[str]:
    """Those among them whose products have integers, which go first."""
    bits = widths(config, sites)
    return [n for n in asked_precisions(config, sites) if min(bits[n]) < FLOAT_BITS]


def check_precision(
    candidates: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Site]]
) -> None:
    """Refuse a precision that counts for nothing in any candidate that asks for one.

    Args:
        candidates: some of a space, or one alone.
        models: the sites of each of some models.

    Raises:
        UsageError: integers go first wherever a precision is asked for.
    """
    pairs = [(c, sites) for c in candidates for sites in models]
    asked = [len(asked_precisions(*pair)) for pair in pairs]
    if any(asked) and asked == [len(lost_precisions(*pair)) for pair in pairs]:
        first = next(c for (c, _), count in zip(pairs, asked, strict=True) if count)
        given = {n: v for n, v in first.items() if setting_of(n) in _INTEGERS}
        raise UsageError(
            f"`precision` is that of products without integers, and {given} makes integers of "
            "all that it is asked for: leave `precision` out, or give it where there are none, as "
            "with `when: {quantize: false}` or precision@SITES"
        )


def check_coverage(
    config: Mapping[str, Any], sites: Mapping[str, Site], others: Mapping[str, str]
) -> None:
    """Refuse a technique that has nothing to work on.

    Args:
        config: a candidate; rules for some sites are checked where the space is (`check_rules`).
        sites: of its model.
        others: why its other floating-point parameters are none, by name.

    Raises:
        UsageError: names the setting, and what the model does with its parameters.
    """
    products = [site for site in sites.values() if site.kind != "embedding"]
    for settings in _SETTINGS.values():
        for setting in settings:
            if products if setting == "activation_bits" else sites:
                continue
            plain = {n: config[n] for n in (setting, "quantize") if n in config}
            if setting in config and _asks(plain, setting):
                listed = "; ".join(f"{name}: {why}" for name, why in others.items())
                raise UsageError(
                    f"{setting}: {config[setting]} touches nothing of this model: it multiplies "
                    f"its inputs by none of its parameters in a way that can be changed "
                    f"({listed or 'it has no floating-point parameters'}); leave {setting} out, "
                    "or multiply by the weights themselves"
                )


def _is_large(array: Any) -> bool:
    lengths: tuple[int, ...] = array.shape
    return sum(length > 1 for length in lengths) > 1


def _asks(config: Mapping[str, Any], setting: str) -> bool:
    """Whether a candidate asks for more of a setting than its default."""
    if setting in ("weight_bits", "activation_bits") and config.get("quantize") is False:
        return False
    if setting == "activation_bits" and config.get("quantize") is True:
        return True
    nothing = (False, 0, FLOAT_BITS, MODEL, UNSTRUCTURED)
    return any(config[n] not in nothing for n in config if setting_of(n) == setting)
