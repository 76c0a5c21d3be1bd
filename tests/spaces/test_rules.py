"""Settings for some sites: which rule counts, and what a rule that means nothing is told."""

from __future__ import annotations

from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.spaces.rules import GROUPS, check_rules, matching, resolve, setting_of
from paretax.spaces.sites import Kind, Site

NAMES: dict[str, Kind] = {
    "embed/embedding": "embedding",
    "stem/kernel": "convolution",
    "blocks/0/attention/query/kernel": "dot",
    "blocks/0/mlp/up/kernel": "dot",
    "blocks/1/SelfAttn/out/kernel": "dot",
    "blocks/1/mlp/up/kernel": "dot",
    "head": "dot",
}
SITES = {n: Site(weight=n, kind=kind, shape=(4, 4), axes=(0,)) for n, kind in NAMES.items()}
EMBED, STEM, QUERY, UP, OUT, UP1, HEAD = NAMES


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("attention", [QUERY, OUT]),
        ("mlp", [UP, UP1, HEAD]),
        ("convolution", [STEM]),
        ("embedding", [EMBED]),
        ("first", [STEM]),  # of the products; a look-up is none
        ("last", [HEAD]),
        ("head", [HEAD]),  # a whole name
        ("blocks/0/.*", [QUERY, UP]),
        (".*/mlp/up", [UP, UP1]),  # the path of the module
        (".*/mlp/up/kernel", [UP, UP1]),
        (".*/mlp", []),  # a part of a path is not enough
        ("blocks", []),
        ("blocks/[01]/(mlp|attention)/.*", [QUERY, UP, UP1]),
        (".*", list(NAMES)),
        ("", [HEAD]),  # the path of a weight that no module owns
        ("Attention", []),  # a group's name is written small
    ],
)
def test_what_a_rule_means(where: str, expected: list[str]) -> None:
    assert matching(where, SITES) == expected


def test_groups_of_a_model_without_sites() -> None:
    assert all(matching(where, {}) == [] for where in (*GROUPS, ".*"))
    only = {EMBED: SITES[EMBED]}
    assert matching("first", only) == matching("last", only) == []


@pytest.mark.parametrize("where", ["(", "[a", "*", "a{2,1}"])
def test_what_is_no_regular_expression(where: str) -> None:
    with pytest.raises(
        UsageError, match=r"neither a group of sites .attention, mlp, .*last. nor a"
    ):
        matching(where, SITES)


def test_the_setting_of_a_parameter() -> None:
    assert setting_of("weight_bits@attention") == "weight_bits"
    assert setting_of("weight_bits@a@b") == "weight_bits"
    assert setting_of("weight_bits") == "weight_bits"


BITS = "weight_bits"
CASES: list[tuple[dict[str, Any], dict[str, int]]] = [  # a candidate, and what is not 8
    ({}, {}),
    ({BITS: 4}, dict.fromkeys(NAMES, 4)),
    ({f"{BITS}@mlp": 4}, {UP: 4, UP1: 4, HEAD: 4}),
    ({BITS: 6, f"{BITS}@mlp": 4}, dict.fromkeys(NAMES, 6) | {UP: 4, UP1: 4, HEAD: 4}),
    # An end goes before a kind, in whichever order they stand.
    ({f"{BITS}@mlp": 4, f"{BITS}@last": 2}, {UP: 4, UP1: 4, HEAD: 2}),
    ({f"{BITS}@last": 2, f"{BITS}@mlp": 4}, {UP: 4, UP1: 4, HEAD: 2}),
    ({f"{BITS}@convolution": 4, f"{BITS}@first": 2}, {STEM: 2}),
    # A regular expression goes before both, however short it is.
    ({f"{BITS}@last": 2, f"{BITS}@mlp": 4, f"{BITS}@h.+": 3}, {UP: 4, UP1: 4, HEAD: 3}),
    ({f"{BITS}@s.+": 3, f"{BITS}@convolution": 4}, {STEM: 3}),
    # Of two regular expressions the longer one counts.
    ({f"{BITS}@blocks/.*": 3, f"{BITS}@.*up": 5}, {QUERY: 3, UP: 3, OUT: 3, UP1: 3}),
    ({f"{BITS}@blocks/0/.*": 3, f"{BITS}@.*": 5}, dict.fromkeys(NAMES, 5) | {QUERY: 3, UP: 3}),
    # Other settings do not mix in; names alone do not make a rule.
    ({"sparsity@mlp": 0.5, "activation_bits": 3, "weight_bits_more@mlp": 4}, {}),
]


@pytest.mark.parametrize(("config", "changed"), CASES)
def test_which_rule_counts(config: dict[str, Any], changed: dict[str, int]) -> None:
    expected = dict.fromkeys(NAMES, 8) | changed
    assert resolve(BITS, config, 8, SITES) == expected
    backwards = dict(reversed(config.items()))
    assert resolve(BITS, backwards, 8, SITES) == expected


def test_a_rule_of_a_single_site_that_is_first_and_last() -> None:
    only = {HEAD: SITES[HEAD]}
    one = {f"{BITS}@first": 2, f"{BITS}@last": 3}
    other = {f"{BITS}@last": 3, f"{BITS}@first": 2}
    assert resolve(BITS, one, 8, only) == resolve(BITS, other, 8, only)


def test_rules_that_match_some_model_pass() -> None:
    names = [BITS, f"{BITS}@mlp", "sparsity@head", f"{BITS}@blocks/1/.*", "width"]
    check_rules(names, [SITES])
    check_rules([f"{BITS}@embedding"], [{HEAD: SITES[HEAD]}, SITES])
    check_rules([BITS], [])


def test_a_rule_that_matches_nothing_is_an_error_that_lists_the_sites() -> None:
    few = {n: SITES[n] for n in (QUERY, HEAD)}
    with pytest.raises(UsageError) as error:
        check_rules([BITS, f"{BITS}@mlp", f"{BITS}@atention"], [few, {STEM: SITES[STEM]}])
    told = str(error.value)
    assert "'weight_bits@atention' must match a site of the model for 'weight_bits'" in told
    assert "'atention' matches none" in told
    assert "groups: attention, mlp, convolution, embedding, first, last" in told
    assert told.endswith(f"sites: {QUERY}, {HEAD}, {STEM}")
    with pytest.raises(UsageError, match=r"sites: none$"):
        check_rules([f"{BITS}@mlp"], [{}])
    with pytest.raises(UsageError, match="'first' matches none"):
        check_rules([f"{BITS}@first"], [{EMBED: SITES[EMBED]}])
