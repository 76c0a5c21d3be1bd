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
    preprocessing,
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
    "learning_rate_decay": (["cosine", "none"], ["linear", True]),
    "weight_decay": ([0, 0.0, 1e-2], [-1e-9, False, "0"]),
    "gradient_clip": ([0, 0.0, 5], [-1e-9, False, "1"]),
    "label_smoothing": ([0, 0.0, 0.999], [1, 1.0, -0.1, False]),
    "batch_size": ([1, 128], [0, -1, 1.0, True, "8"]),
    "epochs": ([1, 100], [0, 2.5, True]),
    "sparsity": ([0, 0.0, 0.999], [1, 1.0, -0.1, False]),
    "quantize": ([True, False], [0, 1, "true"]),
    "weight_bits": ([2, 3, 8], [1, 9, 32, 4.0, True]),
    "activation_bits": ([2, 3, 8], [1, 9, 32, 4.0, True]),
    "pruning_pattern": (
        ["unstructured", "2:4", "1:2", "7:8", "10:20"],
        ["4:4", "4:2", "0:4", "2:04", "2:4:8", "a", "", 2, True],
    ),
    "pruning_scope": (["layer", "global"], ["channel", 1]),
    "pruning": (["one_shot", "gradual", "lottery_ticket"], ["lottery", False]),
    "lottery_rate": ([0.01, 0.99], [0, 1, 1.0, True]),
    "rewind_step": ([0, 100], [-1, 1.0, True]),
    "ticket": (["rewind", "fresh"], ["random", 0]),
    "channel_sparsity": ([0, 0.0, 0.999], [1, 1.0, -0.1, False]),
    "head_sparsity": ([0, 0.0, 0.999], [1, 1.0, -0.1, False]),
    "channel_block": ([1, 64], [0, 1.0, True]),
    "precision": (["float32", "bfloat16", "float16", "float8"], ["int8", 16]),
    "weight_scales": (["channel", "tensor", "group"], ["layer", True]),
    "group_size": ([2, 128], [1, 0, 2.0, True]),
    "calibration": (["absmax", "percentile", "mse"], ["minmax", 0]),
    "calibration_percentile": ([50.1, 99, 100], [50, 100.1, True, "99"]),
    "qat": (["none", "ste", "lsq"], [False, "pact"]),
    "distill": ([True, False], [0, 1, "true"]),
    "temperature": ([1e-3, 4, 100.0], [0, -1.0, True]),
    "alpha": ([0, 0.5, 1], [-0.1, 1.1, True]),
    "feature_weight": ([0, 0.0, 3000], [-1e-9, False, "0"]),
    "schedule": (
        ["together", "prune_then_quantize_then_distill", "distill_then_quantize_then_prune"],
        ["prune_then_quantize", "prune_then_prune_then_distill", 0],
    ),
    "pruning_start": ([0, 0.0, 0.99], [1, -0.1, False]),
    "fine_tuning": ([0, 0.0, 0.99], [1, -0.1, False]),
    "qat_start": ([0, 0.0, 0.99], [1, -0.1, False]),
    "stage_rate": ([0.01, 1, 1.0], [0, 1.1, True]),
    "array_rows": ([1, 128], [0, -1, 8.0, True]),
    "array_columns": ([1, 128], [0, -1, 8.0, True]),
    "array_sram_kib": ([1, 4096], [0, 1.5, True]),
    "array_dram_gbs": ([0.1, 12, 819.0], [0, -1.0, True, "12"]),
    "array_clock_mhz": ([1, 700.0], [0, -1.0, True, "700"]),
    "array_dataflow": (
        ["output_stationary", "weight_stationary", "input_stationary"],
        ["row_stationary", 0],
    ),
}
PER_SITE = {
    "sparsity",
    "pruning_pattern",
    "channel_sparsity",
    "head_sparsity",
    "weight_bits",
    "activation_bits",
    "precision",
}


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if s not in preprocessing.SETTINGS], ids=lambda s: s.name
)
def test_what_a_setting_allows(setting: Setting) -> None:
    """Those of preprocessing are tested beside it."""
    values, others = ALLOWED[setting.name]
    assert all(setting.allows(v) for v in values)
    assert not any(setting.allows(v) for v in others)


def test_some_settings_hold_for_some_sites() -> None:
    assert {s.name for s in SETTINGS if s.per_site} == PER_SITE


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
        Integer("weight_bits@attention", 2, 4),
        Float("sparsity@blocks/[0-3]/.*", 0, 0.5),
        Categorical("pruning_pattern@mlp", ["unstructured", "2:4"]),
    )


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (Float("learnig_rate", 0.1, 1), "'learnig_rate' in .*'digits'. Did you mean 'learning_r"),
        (
            Integer("height", 1, 2),
            "'height' in the space of task 'digits'.* Valid: width, depth, .*optimizer, ",
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
        (Ordinal("epochs", [1, 0, 2]), "from 1 to 1,000,000, but the space allows 0"),
        (
            Integer("weight_bits@mlp", 1, 8),
            "'weight_bits@mlp' must be a whole number from 2 to 8, but the space allows 1",
        ),
        (Categorical("pruning_pattern@mlp", ["4:2"]), "N:M such as '2:4' .*, but .* '4:2'"),
        (Integer("weight_bit@mlp", 2, 8), "'weight_bit@mlp' in the space of task 'digits'"),
        (
            Float("learning_rate@mlp", 0.1, 1),
            "'learning_rate@mlp' sets 'learning_rate' for some sites alone, and only these can be "
            "set so: sparsity, pruning_pattern, channel_sparsity, head_sparsity, weight_bits, ",
        ),
        (Integer("width@mlp", 2, 8), "'width@mlp' in the space"),
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
