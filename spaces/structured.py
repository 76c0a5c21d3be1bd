"""Structured pruning: how many channels and attention heads each layer loses.

Which of them go is decided by `channels`, and `shrinking` takes them out of the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretax.errors import UsageError
from paretax.spaces.channels import ChannelGroup, Channels
from paretax.spaces.dimensions import choose, share, whole
from paretax.spaces.rules import resolve, setting_of
from paretax.spaces.sites import Site

SETTINGS = (
    share("channel_sparsity", per_site=True),
    share("head_sparsity", per_site=True),
    whole("channel_block", 1, least=1),
)
_NONE = (
    "no product with one weight alone, as it is or with fixed factors, feeds another such product"
)
_OF_KIND = {"channels": "channel_sparsity", "heads": "head_sparsity"}


def is_structured(config: Mapping[str, Any]) -> bool:
    """Whether a candidate asks for channels or heads to be removed."""
    names = ("channel_sparsity", "head_sparsity")
    return any(config[n] for n in config if setting_of(n) in names)


def channel_block(config: Mapping[str, Any]) -> int:
    """How many neighbouring channels go together."""
    return int(choose(SETTINGS, config)["channel_block"])


def group_block(config: Mapping[str, Any], group: ChannelGroup) -> int:
    """How many neighbours of a group go together; heads go one by one."""
    return channel_block(config) if group.kind == "channels" else 1


def removed_channels(
    config: Mapping[str, Any], channels: Channels, sites: Mapping[str, Site]
) -> dict[str, int]:
    """How many channels each group loses; groups that lose none are left out.

    So are groups that the block does not divide, such as the few features of a head.

    Args:
        config: the candidate.
        channels: the model's groups, and what cannot be removed.
        sites: of the model; a rule for some sites means the weights that make the channels.

    Raises:
        UsageError: a group would be emptied, the block divides none, or nothing can be removed at
            all.
    """
    shares = {k: resolve(setting, config, 0.0, sites) for k, setting in _OF_KIND.items()}
    found = {}
    for group in channels.groups:
        default = config.get(_OF_KIND[group.kind], 0.0)
        share = float(shares[group.kind].get(group.name.partition("#")[0], default))
        step = group_block(config, group)
        if share > 0 and group.size % step == 0:
            found[group.name] = _count(group, share, step)
    for kind, setting in _OF_KIND.items():
        groups = [group for group in channels.groups if group.kind == kind]
        asked = any(config[n] for n in config if setting_of(n) == setting)
        if asked and not groups:
            reasons = "; ".join(f"{n}: {why}" for n, why in channels.refused.items())
            raise UsageError(
                f"{setting} needs {kind} that can be removed, and the model has none "
                f"({reasons or _NONE}): leave it at 0"
            )
        if asked and all(g.size % group_block(config, g) for g in groups):
            sizes = ", ".join(f"{g.name} {g.size}" for g in groups)
            raise UsageError(
                f"channel_block must divide the channels of at least one layer, got "
                f"{channel_block(config)}, and there are: {sizes}"
            )
    return {name: count for name, count in found.items() if count}


def _count(group: ChannelGroup, share: float, block: int) -> int:
    blocks = group.size // block
    removed = round(blocks * share)
    if removed >= blocks:
        raise UsageError(
            f"{_OF_KIND[group.kind]} {share:g} would empty {group.name!r}: all of its {blocks} "
            f"{group.kind if block == 1 else 'blocks'} would go; lower it, or widen the layer"
        )
    return removed * block


def check_patterns(
    config: Mapping[str, Any],
    patterns: Mapping[str, tuple[int, int]],
    groups: Sequence[ChannelGroup],
    sites: Mapping[str, Site],
) -> None:
    """Refuse channels that would leave in the middle of M neighbours of which N stay.

    Raises:
        UsageError: names the site.
    """
    for group in groups:
        for member in group.members:
            if member.array not in patterns or member.axis != sites[member.array].inner_axis:
                continue
            run, (n, m) = group_block(config, group) * member.inner, patterns[member.array]
            if run % m:
                raise UsageError(
                    f"pruning_pattern {n}:{m} at {member.array!r} needs channels removed in "
                    f"multiples of {m} neighbours, and they go by {run}: set channel_block to a "
                    f"multiple of {m}"
                )
