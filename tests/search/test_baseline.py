"""The candidate that a search begins with."""

from __future__ import annotations

from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.search.baseline import is_within, make_baseline, others_have
from paretax.spaces import parse_space
from paretax.tasks import Task, load_task


@pytest.fixture(scope="module")
def task() -> Task:
    """Its model reads a width (16) and a depth (1)."""
    return load_task("breast_cancer", [])


def categorical(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(choices), **more}


def real(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, **more}


SPACE: dict[str, Any] = {
    "normalization": categorical("standard", "none"),
    "width": {"type": "ordinal", "choices": [8, 16, 32]},
    "depth": {"type": "int", "low": 1, "high": 3},
    "learning_rate": real(1e-4, 1e-1, log=True),
    "epochs": 7,
    "sparsity": real(0.0, 0.9, step=0.1),
    "quantize": categorical(True, False),
    "weight_bits": {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}},
}
USUAL = {
    "normalization": "none",
    "width": 16,
    "depth": 1,
    "learning_rate": 0.001,
    "epochs": 7,
    "sparsity": 0.0,
    "quantize": False,
}


def test_it_is_the_users_model_as_it_is_usually_trained(task: Task) -> None:
    space = parse_space(SPACE)
    found = make_baseline(space, task)
    assert dict(found) == USUAL
    assert is_within(space, found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"width": 8}, {"width": 8}),  # held by the space
        ({"width": {"type": "int", "low": 2, "high": 9}}, {"width": 16}),  # the user's own
        ({"epochs": {"type": "int", "low": 30, "high": 50}}, {"epochs": 30}),
        ({"epochs": {"type": "int", "low": 2, "high": 17, "step": 5}}, {"epochs": 17}),
        ({"learning_rate": real(1e-2, 1e-1, log=True)}, {"learning_rate": 1e-2}),
        ({"weight_decay": real(1e-5, 1e-1, log=True)}, {"weight_decay": 1e-5}),  # by default 0
        ({"batch_size": {"type": "ordinal", "choices": [16, 64]}}, {"batch_size": 64}),
        ({"optimizer": categorical("sgd", "lion")}, {"optimizer": "sgd"}),
        ({"imputation": categorical("median", "mean")}, {"imputation": "median"}),
        ({"normalization": "standard"}, {"normalization": "standard"}),
        ({"sparsity": categorical(0.5, 0)}, {"sparsity": 0}),
    ],
    ids=str,
)
def test_what_the_space_says_of_model_training_and_data(
    task: Task, change: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = make_baseline(parse_space({**SPACE, **change}), task)
    assert dict(found) == {**USUAL, **expected}


@pytest.mark.parametrize(
    "change",
    [
        {"quantize": True},
        {"quantize": True, "weight_bits": 4},
        {"sparsity": 0.5},
        {"sparsity": real(0.2, 0.9)},
        {"channel_sparsity": real(0.25, 0.5)},
        {"pruning": "lottery_ticket", "rewind_step": 3},
        {"pruning_pattern": "2:4"},
        {"precision": categorical("bfloat16", "float16")},
        {"distill": True, "temperature": 2.0, "alpha": 0.5},
        {"schedule": "prune_then_quantize_then_distill"},
        {"qat": "lsq"},
    ],
    ids=str,
)
def test_it_is_dense_whatever_the_space_says(task: Task, change: dict[str, Any]) -> None:
    """What the space has no neutral value of is left out, and the baseline then lies outside."""
    plain = {**SPACE, **change}
    space = parse_space(plain)
    found = make_baseline(space, task)
    off = {"sparsity": 0.0, "quantize": False}
    for name in change:
        assert name not in found or found[name] == off.get(name), name
    for name in set(USUAL) - set(change):
        assert found[name] == USUAL[name]
    assert not is_within(space, found)


def test_widths_are_of_no_account_where_the_grid_is_off(task: Task) -> None:
    widths = {"weight_bits": {"type": "int", "low": 2, "high": 8}, "weight_bits@first": 8}
    within = parse_space({**SPACE, **widths})
    assert make_baseline(within, task)["weight_bits"] == 8
    assert is_within(within, make_baseline(within, task))
    alone = {k: v for k, v in {**SPACE, **widths}.items() if k != "quantize"}
    assert not set(widths) & set(make_baseline(parse_space(alone), task))


def test_values_that_the_user_gives_go_first(task: Task) -> None:
    space = parse_space(SPACE)
    given: dict[str, Any] = {"width": 256, "epochs": 9, "optimizer": "sgd", "learning_rate": 0.01}
    found = make_baseline(space, task, given)
    assert dict(found) == {**USUAL, **given}
    assert not is_within(space, found)
    assert dict(make_baseline(space, task, {"sparsity": 0})) == USUAL


def test_what_others_have_instead_of_its_own_are_the_defaults(task: Task) -> None:
    space = parse_space({"epochs": 7, "learning_rate": 0.1})
    found = make_baseline(space, task, {"width": 256, "optimizer": "sgd", "learning_rate": 0.2})
    assert others_have(space, task, found) == {"width": 16, "optimizer": "adamw"}
    assert others_have(space, task, make_baseline(space, task)) == {}


def test_a_combination_that_is_forbidden_lies_outside(task: Task) -> None:
    space = parse_space(SPACE, [{"width": 16, "depth": 1}])
    found = make_baseline(space, task)
    assert dict(found) == USUAL
    assert not is_within(space, found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widht": 3}, r"unknown parameter 'widht' in `baseline`.*'width'"),
        ({"epochs@first": 3}, r"unknown parameter 'epochs@first'"),
        ({"epochs": 0}, r"`baseline`: epochs must be a whole number from 1 to 1,000,000, got 0"),
        ({"learning_rate": "fast"}, r"learning_rate must be a positive number, got 'fast'"),
        ({"width": float("nan")}, r"must give finite values, got width: nan"),
        ({"quantize": True}, r"the baseline is dense.*quantize: True: leave it out"),
        ({"weight_bits": 8}, r"the baseline is dense.*weight_bits: 8: leave it out"),
        ({"weight_bits@last": 8}, r"the baseline is dense"),
        ({"sparsity": 0.5}, r"the baseline is dense"),
        ({"distill": True}, r"the baseline is dense"),
    ],
    ids=str,
)
def test_what_is_refused(task: Task, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_baseline(parse_space(SPACE), task, given)


def test_a_given_value_that_does_not_exist_there_is_refused(task: Task) -> None:
    space = parse_space(
        {**SPACE, "depth": {**SPACE["depth"], "when": {"normalization": "standard"}}}
    )
    with pytest.raises(
        UsageError, match="'depth', which exists only when normalization = standard"
    ):
        make_baseline(space, task, {"depth": 2})
    found = make_baseline(space, task, {"depth": 2, "normalization": "standard"})
    assert found["depth"] == 2
