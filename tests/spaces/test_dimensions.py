"""The parameters that paretax understands, and what a space may do with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.spaces import (
    SETTINGS,
    Categorical,
    Float,
    Integer,
    Ordinal,
    Parameter,
    Setting,
    Space,
    check_space,
    parse_space,
)
from paretax.spaces.dimensions import choose, is_number, is_whole
from paretax.spaces.parameters import Value

DEFAULTS = {"width": 64, "depth": 2}


def check(*parameters: Parameter) -> None:
    check_space(Space(parameters), SETTINGS, DEFAULTS, "digits")


def test_every_setting_allows_its_default() -> None:
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)
    assert all(s.allows(s.default) for s in SETTINGS)


ALLOWED: dict[str, tuple[list[Value], list[Value]]] = {  # name -> values, and others
    "optimizer": (["sgd", "adamw", "lion"], ["adam", 1, True]),
    "learning_rate": ([1e-9, 1, 10.0], [0, 0.0, -1e-3, True, "0.1"]),
    "weight_decay": ([0, 0.0, 1e-2], [-1e-9, False, "0"]),
    "batch_size": ([1, 128], [0, -1, 1.0, True, "8"]),
    "epochs": ([1, 100], [0, 2.5, True]),
    "sparsity": ([0, 0.0, 0.999], [1, 1.0, -0.1, False]),
    "quantize": ([True, False], [0, 1, "true"]),
    "weight_bits": ([2, 3, 8], [1, 9, 32, 4.0, True]),
    "activation_bits": ([2, 3, 8], [1, 9, 32, 4.0, True]),
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_what_a_setting_allows(setting: Setting) -> None:
    values, others = ALLOWED[setting.name]
    assert all(setting.allows(v) for v in values)
    assert not any(setting.allows(v) for v in others)


def test_numbers_and_whole_numbers() -> None:
    assert [is_number(v) for v in (1, 1.5, True, "1")] == [True, True, False, False]
    assert [is_whole(v) for v in (1, 1.0, True, "1")] == [True, False, False, False]


def test_choose_fills_in_defaults() -> None:
    settings = [
        Setting(name="a", default=1, rule="any", allows=lambda v: True),
        Setting(name="b", default=False, rule="any", allows=lambda v: True),
    ]
    config: dict[str, Any] = {"b": True, "width": 3}
    assert choose(settings, config) == {"a": 1, "b": True}
    assert config == {"b": True, "width": 3}


def test_a_space_of_known_parameters() -> None:
    check(
        Integer("width", 1, 10**6),
        Float("learning_rate", 1e-5, 1.0, log=True),
        Float("sparsity", 0, 1, step=0.3),  # at most 0.9
        Ordinal("batch_size", [32, 256]),
        Categorical("optimizer", ["sgd", "lion"]),
        Categorical("quantize", [True]),
        Integer("weight_bits", 2, 8),
    )


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (Float("learnig_rate", 0.1, 1), "'learnig_rate' in .*'digits'. Did you mean 'learning_r"),
        (
            Integer("height", 1, 2),
            "'height' in the space of task 'digits'.* Valid: width, depth, o",
        ),
        (
            Float("learning_rate", 0, 1),
            "must be a positive number, but the space allows 0.0: chang",
        ),
        (Float("sparsity", 0, 1), "a share of at least 0 and below 1, but the space allows 1.0"),
        (Float("batch_size", 16, 64), "a whole number of at least 1, but the space allows 16.0"),
        (Integer("weight_bits", 2, 16), "a whole number from 2 to 8, but the space allows 16"),
        (Integer("activation_bits", 1, 8), "from 2 to 8, but the space allows 1"),
        (Categorical("quantize", [0, 1]), "true or false, but the space allows 0"),
        (
            Categorical("optimizer", ["sgd", "adam", "lion"]),
            "one of .*, but the space allows 'adam'",
        ),
        (Ordinal("epochs", [1, 0, 2]), "at least 1, but the space allows 0"),
    ],
)
def test_a_space_that_asks_for_what_cannot_be(parameter: Parameter, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(parameter)


def test_a_task_may_not_take_the_name_of_a_setting() -> None:
    space = parse_space({"width": 3})
    with pytest.raises(UsageError, match="task 'mine' must not name a parameter 'epochs'"):
        check_space(space, SETTINGS, {"width": 1, "epochs": 3}, "mine")


def test_the_parameters_of_a_task_are_its_own_affair() -> None:
    space = Space([Categorical("width", ["wide", True, np.float64(0.5)])])
    check_space(space, SETTINGS, DEFAULTS, "digits")
