"""Settings for some of a model's sites: `weight_bits@attention`, `sparsity@blocks/3/.*`.

What stands after the @ is a named group of sites, or else a regular expression that must match the
whole path of the module, or of the weight. Where several rules match a site, a regular expression
goes before `first` and `last`, these before the other groups, and all of them before the plain
setting; among regular expressions the longer one counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paretax.errors import UsageError
from paretax.spaces.sites import Site

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


def _is_attention(site: Site) -> bool:
    """Whether a module of its path is named after attention, as Flax's own and most models do."""
    return bool(_ATTENTION.search(site.path))


_KINDS: Mapping[str, Callable[[Site], bool]] = {
    "attention": _is_attention,
    "mlp": lambda site: site.kind == "dot" and not _is_attention(site),
    "convolution": lambda site: site.kind == "convolution",
    "embedding": lambda site: site.kind == "embedding",
}
_ENDS: Mapping[str, int] = {"first": 0, "last": -1}
GROUPS = (*_KINDS, *_ENDS)
"""Names of groups. `first` and `last` go by use, embeddings not counted."""


def setting_of(name: str) -> str:
    """The setting that a parameter varies: what stands before the @."""
    return name.partition("@")[0]


def matching(where: str, sites: Mapping[str, Site]) -> list[str]:
    """The weights of the sites that a rule means.

    Raises:
        UsageError: it is neither a group's name nor a regular expression.
    """
    if where in _KINDS:
        return [name for name, site in sites.items() if _KINDS[where](site)]
    if where in _ENDS:
        products = [name for name, site in sites.items() if site.kind != "embedding"]
        return products[_ENDS[where] :][:1]
    try:
        pattern = re.compile(where)
    except re.error as error:
        raise UsageError(
            f"{where!r} is neither a group of sites ({', '.join(GROUPS)}) nor a regular "
            f"expression: {error}"
        ) from None
    return [
        name
        for name, site in sites.items()
        if pattern.fullmatch(site.path) or pattern.fullmatch(name)
    ]


def resolve(
    setting: str, config: Mapping[str, Any], default: Any, sites: Mapping[str, Site]
) -> dict[str, Any]:
    """The value of a setting at each site.

    Args:
        setting: its name.
        config: a candidate.
        default: where no rule matches and the candidate has no plain value.
        sites: of the model.
    """
    values = dict.fromkeys(sites, config.get(setting, default))
    rules = [n.partition("@")[2] for n in config if "@" in n and setting_of(n) == setting]
    for where in sorted(rules, key=_strength):
        for name in matching(where, sites):
            values[name] = config[f"{setting}@{where}"]
    return values


def _strength(where: str) -> tuple[int, int, str]:
    level = 0 if where in _KINDS else 1 if where in _ENDS else 2
    return level, len(where), where


def check_rules(names: Sequence[str], models: Sequence[Mapping[str, Site]]) -> None:
    """Refuse a rule that matches no site of any model of a space.

    Args:
        names: of the parameters.
        models: the sites of each of some models.

    Raises:
        UsageError: lists the sites.
    """
    for name in names:
        setting, _, where = name.partition("@")
        if where and not any(matching(where, sites) for sites in models):
            paths = dict.fromkeys(site.weight for sites in models for site in sites.values())
            listed = ", ".join(paths) or "none"
            raise UsageError(
                f"parameter {name!r} must match a site of the model for {setting!r}, and "
                f"{where!r} matches none; groups: {', '.join(GROUPS)}; sites: {listed}"
            )
