"""How many channels and heads a candidate removes."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from paretax.errors import UsageError
from paretax.spaces.channels import ChannelGroup, Channels, Member
from paretax.spaces.sites import Site
from paretax.spaces.structured import (
    channel_block,
    check_patterns,
    group_block,
    is_structured,
    removed_channels,
)

Kind = Literal["channels", "heads"]


def group(name: str, size: int, kind: Kind = "channels") -> ChannelGroup:
    return ChannelGroup(name=name, kind=kind, size=size, members=())


CONV, QUERY, VALUE, UP = (
    "conv/kernel",
    "attention/query/kernel",
    "attention/value/kernel",
    "up/kernel",
)
CHANNELS = Channels(
    groups=(
        group(CONV, 16),
        group(QUERY, 4, "heads"),
        group(f"{QUERY}#2", 8),
        group(VALUE, 8),
        group(UP, 32),
    ),
    refused={"out/kernel": "an output of the model"},
)
SITES = {
    n: Site(weight=n, kind="convolution" if n == CONV else "dot", shape=(4, 4), axes=(0,))
    for n in (CONV, QUERY, VALUE, UP, "out/kernel")
}


CASES: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({}, {}),
    ({"channel_sparsity": 0.0, "head_sparsity": 0}, {}),
    ({"channel_sparsity": 0.5}, {CONV: 8, f"{QUERY}#2": 4, VALUE: 4, UP: 16}),
    ({"head_sparsity": 0.5}, {QUERY: 2}),
    (
        {"channel_sparsity": 0.25, "head_sparsity": 0.25},
        {CONV: 4, QUERY: 1, f"{QUERY}#2": 2, VALUE: 2, UP: 8},
    ),
    # Rounded to the nearest count; what loses none is left out.
    ({"channel_sparsity": 0.05}, {CONV: 1, UP: 2}),
    ({"channel_sparsity": 0.8}, {CONV: 13, f"{QUERY}#2": 6, VALUE: 6, UP: 26}),
    # Blocks: 16 / 4 = 4 blocks, of which a third is one; heads go one by one.
    (
        {"channel_sparsity": 0.3, "head_sparsity": 0.5, "channel_block": 4},
        {CONV: 4, QUERY: 2, f"{QUERY}#2": 4, VALUE: 4, UP: 8},
    ),
    ({"channel_sparsity": 0.2, "channel_block": 8}, {UP: 8}),
    # By site.
    ({"channel_sparsity@mlp": 0.5}, {UP: 16}),
    (
        {
            "channel_sparsity@convolution": 0.25,
            "channel_sparsity": 0.5,
            "channel_sparsity@attention": 0,
        },
        {CONV: 4, UP: 16},
    ),
    ({"channel_sparsity@attention": 0.5}, {f"{QUERY}#2": 4, VALUE: 4}),
    ({"head_sparsity@.*query": 0.75}, {QUERY: 3}),
    ({"head_sparsity": 0.5, "head_sparsity@attention": 0.0}, {}),
]


@pytest.mark.parametrize(("config", "expected"), CASES, ids=lambda v: "")
def test_counts(config: dict[str, Any], expected: dict[str, int]) -> None:
    assert removed_channels(config, CHANNELS, SITES) == expected


@pytest.mark.parametrize(
    ("config", "structured"),
    [
        ({}, False),
        ({"sparsity": 0.5, "channel_block": 8}, False),
        ({"channel_sparsity": 0.0, "head_sparsity@mlp": 0}, False),
        ({"channel_sparsity": 0.1}, True),
        ({"head_sparsity@attention": 0.1}, True),
    ],
)
def test_whether_a_candidate_is_structured(config: dict[str, Any], structured: bool) -> None:
    assert is_structured(config) == structured


def test_blocks() -> None:
    assert channel_block({}) == 1
    assert channel_block({"channel_block": 8}) == 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"channel_sparsity": 0.95},
            "0.95 would empty 'attention/query/kernel#2': all of its 8 chan",
        ),
        (
            {"head_sparsity": 0.9},
            "head_sparsity 0.9 would empty 'attention/query/kernel': all of its 4 he",
        ),
        ({"channel_sparsity@convolution": 0.9, "channel_block": 8}, "all of its 2 blocks would go"),
        (
            {"channel_sparsity": 0.5, "channel_block": 5},
            "channel_block must divide the channels of at least one layer, got 5, and there are: "
            "conv/kernel 16, attention/query/kernel#2 8, attention/value/kernel 8, up/kernel 32",
        ),
    ],
)
def test_what_would_empty_a_layer_or_does_not_divide(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        removed_channels(config, CHANNELS, SITES)


def test_a_group_that_the_block_does_not_divide_is_left_out() -> None:
    odd = Channels(groups=(group(CONV, 15), group(UP, 32), group(QUERY, 3, "heads")), refused={})
    for config in ({"channel_sparsity@mlp": 0.5}, {"channel_sparsity": 0.5}):
        assert removed_channels(config | {"channel_block": 8}, odd, SITES) == {UP: 16}
    heads = {"head_sparsity": 0.4, "channel_block": 8}
    assert removed_channels(heads, odd, SITES) == {QUERY: 1}


def test_heads_go_one_by_one() -> None:
    config = {"channel_block": 8}
    assert [group_block(config, g) for g in CHANNELS.groups] == [8, 1, 8, 8, 8]
    assert [group_block({}, g) for g in CHANNELS.groups] == [1] * 5


# Patterns N:M besides -----------------------------------------------------------------------------


def consumed(axis: int, inner: int = 1, kind: Kind = "channels") -> ChannelGroup:
    """Sixteen channels that the site at the end consumes."""
    members = (
        Member(array=UP, axis=1, outer=1, inner=1, role="producer"),
        Member(array="out/kernel", axis=axis, outer=1, inner=inner, role="consumer"),
    )
    return ChannelGroup(name=UP, kind=kind, size=16, members=members)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"channel_block": 4}, consumed(0)),
        ({"channel_block": 8}, consumed(0)),
        ({"channel_block": 2}, consumed(0, inner=2)),
        ({}, consumed(0, inner=4)),
        ({}, consumed(0, inner=8, kind="heads")),
        ({}, consumed(1)),  # not along the inputs
    ],
)
def test_channels_that_leave_in_whole_neighbours(
    config: dict[str, Any], where: ChannelGroup
) -> None:
    check_patterns(config, {"out/kernel": (2, 4)}, [where], SITES)


@pytest.mark.parametrize(
    ("config", "where", "run"),
    [
        ({}, consumed(0), 1),
        ({"channel_block": 2}, consumed(0), 2),
        ({"channel_block": 6}, consumed(0), 6),
        ({"channel_block": 4}, consumed(0, inner=2, kind="heads"), 2),
    ],
)
def test_channels_that_would_leave_among_neighbours(
    config: dict[str, Any], where: ChannelGroup, run: int
) -> None:
    told = (
        f"pruning_pattern 2:4 at 'out/kernel' .* multiples of 4 .* go by {run}: set channel_block"
    )
    with pytest.raises(UsageError, match=told):
        check_patterns(config, {"out/kernel": (2, 4)}, [where], SITES)
    check_patterns(config, {}, [where], SITES)
    check_patterns(config, {CONV: (2, 4)}, [where], SITES)


def test_asking_for_what_a_model_does_not_have() -> None:
    only = Channels(groups=(group(CONV, 16),), refused={"out/kernel": "an output of the model"})
    told = (
        "head_sparsity needs heads .* has none .out/kernel: an output of the model.: leave it at 0"
    )
    with pytest.raises(UsageError, match=told):
        removed_channels({"head_sparsity": 0.5}, only, SITES)
    with pytest.raises(
        UsageError, match=r"channel_sparsity needs .*no product with one weight alone"
    ):
        removed_channels({"channel_sparsity@mlp": 0.5}, Channels(groups=(), refused={}), SITES)
    assert removed_channels({"head_sparsity": 0.0}, only, SITES) == {}
