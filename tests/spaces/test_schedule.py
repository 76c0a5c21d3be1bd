"""The timeline of a training: what holds in which epoch, and how it is told."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.spaces.schedule import SETTINGS, Epoch, active, in_words, timeline, trains_quantized

TECHNIQUES = ("prune", "quantize", "distill")
ASKED: dict[str, dict[str, Any]] = {
    "prune": {"sparsity": 0.5},
    "quantize": {"quantize": True, "qat": "ste"},
    "distill": {"distill": True},
}
ALL = {name: value for asked in ASKED.values() for name, value in asked.items()}
ORDERS = ["_then_".join(order) for order in permutations(TECHNIQUES)]
LAID = [
    *(("together", epochs) for epochs in (1, 2, 3, 4, 7, 11, 20)),
    *((order, epochs) for order in ORDERS for epochs in (6, 7, 11, 20)),
]
DONE = {"prune": "half of it", "quantize": "8-bit weights", "distill": "from a teacher"}


def shares(config: dict[str, Any]) -> list[float]:
    return [epoch.pruned for epoch in timeline(config)]


# What takes part ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ()),
        (ALL, TECHNIQUES),
        ({"sparsity": 0.0, "distill": False, "quantize": True}, ()),  # quantised after training
        ({"sparsity@last": 0.5}, ("prune",)),
        ({"channel_sparsity": 0.5}, ("prune",)),
        ({"head_sparsity@attention": 0.5}, ("prune",)),
        ({"pruning_pattern": "2:4"}, ("prune",)),
        ({"pruning_pattern@last": "unstructured"}, ()),
        ({"sparsity": 0.5, "pruning": "lottery_ticket"}, ()),  # has rounds of its own
        ({"qat": "ste"}, ()),  # of nothing
        ({"qat": "ste", "quantize": False, "weight_bits": 4}, ()),
        ({"qat": "lsq", "weight_bits@last": 4}, ("quantize",)),
        ({"qat": "ste", "activation_bits": 4}, ("quantize",)),
        ({"qat": "none", "quantize": True}, ()),
        ({"distill": True}, ("distill",)),
    ],
)
def test_the_techniques_of_a_candidate(config: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert active(config) == expected
    assert trains_quantized(config) == ("quantize" in expected)


def test_the_orders_that_may_be_asked_for() -> None:
    (setting,) = [s for s in SETTINGS if s.name == "schedule"]
    assert all(setting.allows(order) for order in ("together", *ORDERS))
    assert len(ORDERS) == 6
    assert not setting.allows("prune_then_distill")
    assert setting.rule == f"one of together, {', '.join(ORDERS)}"


# Together -----------------------------------------------------------------------------------------


def test_a_training_without_techniques() -> None:
    plain = [Epoch(length=4)] * 4
    assert timeline({"epochs": 4}) == plain
    assert len(timeline({})) == 20
    for order in ORDERS:
        assert timeline({"epochs": 4, "schedule": order}) == plain


def test_together_all_take_part_in_one_cosine() -> None:
    found = timeline(ALL | {"epochs": 10})
    assert found == [
        Epoch(pruned=float(e >= 7), quantized=e >= 5, distilled=True, length=10) for e in range(10)
    ]


@pytest.mark.parametrize(
    ("epochs", "tuning", "first"),
    [
        (10, 0.3, 7),
        (10, 0.0, 10),
        (10, 0.96, 0),
        (10, 0.5, 5),
        (1, 0.3, 1),
        (1, 0.9, 0),
        (3, 0.3, 2),
    ],
)
def test_one_shot_pruning_leaves_epochs_for_fine_tuning(
    epochs: int, tuning: float, first: int
) -> None:
    """Without any, pruning comes after the last epoch."""
    found = shares({"epochs": epochs, "sparsity": 0.5, "fine_tuning": tuning})
    assert found == [float(e >= first) for e in range(epochs)]


def test_gradual_pruning_is_the_cubic_between_its_ends() -> None:
    """From a tenth to seven tenths of 20 epochs: t_0 = 2, and 12 steps."""
    found = shares({"epochs": 20, "sparsity": 0.5, "pruning": "gradual"})
    assert found[:3] == [0, 0, 0]
    for t in range(2, 15):
        assert found[t] == pytest.approx(1 - (1 - (t - 2) / 12) ** 3)
    assert found[14:] == [1.0] * 6


@pytest.mark.parametrize(("schedule", "epochs"), LAID)
@pytest.mark.parametrize("tuning", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("start", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("pruning", ["one_shot", "gradual"])
def test_masks_only_grow(
    epochs: int, tuning: float, start: float, schedule: str, pruning: str
) -> None:
    """Also where pruning would begin after it ends."""
    found = shares(
        ALL
        | {
            "epochs": epochs,
            "fine_tuning": tuning,
            "pruning_start": start,
            "schedule": schedule,
            "pruning": pruning,
        }
    )
    assert len(found) == epochs
    assert found == sorted(found)
    assert all(0 <= share <= 1 for share in found)


@pytest.mark.parametrize(
    ("epochs", "start", "first"),
    [(10, 0.5, 5), (10, 0.0, 0), (10, 0.99, 10), (1, 0.5, 0), (4, 0.9, 4)],
)
def test_training_on_the_grid_begins_at_its_share(epochs: int, start: float, first: int) -> None:
    found = timeline({"epochs": epochs, "quantize": True, "qat": "lsq", "qat_start": start})
    assert [epoch.quantized for epoch in found] == [e >= first for e in range(epochs)]


# In turn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(TECHNIQUES)))
@pytest.mark.parametrize("epochs", [6, 12, 13, 20])
def test_every_order_in_turn(order: tuple[str, ...], epochs: int) -> None:
    """Half of the epochs dense, then equal stages; masks and the grid stay, the teacher leaves."""
    found = timeline(ALL | {"epochs": epochs, "schedule": "_then_".join(order)})
    stage = epochs // 6
    dense = epochs - 3 * stage
    expected = [Epoch(length=dense)] * dense
    for i, name in enumerate(order):
        done = order[: i + 1]
        epoch = Epoch(
            pruned=float("prune" in done),
            quantized="quantize" in done,
            distilled=name == "distill",
            first=dense + i * stage,
            length=stage,
            rate=0.3,
        )
        expected += [epoch] * stage
    assert found == expected
    assert len(found) == epochs


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("some", [("prune",), ("quantize", "distill"), ("prune", "distill")])
def test_techniques_that_are_not_asked_for_take_no_stage(order: str, some: tuple[str, ...]) -> None:
    config = {k: v for name in some for k, v in ASKED[name].items()}
    found = timeline(config | {"epochs": 12, "schedule": order, "stage_rate": 1.0})
    stages = [name for name in order.split("_then_") if name in some]
    length = 12 // (2 * len(stages))
    assert len(found) == 12
    assert [epoch.first for epoch in found[6:]] == [
        6 + i * length for i in range(len(stages)) for _ in range(length)
    ]
    assert all(epoch.rate == 1.0 for epoch in found)
    distilled = [epoch.distilled for epoch in found]
    assert sum(distilled) == (length if "distill" in some else 0)


def test_gradual_pruning_in_a_stage_of_its_own() -> None:
    """Five epochs, three tenths of them for fine-tuning; the first pruning opens the stage."""
    config = ASKED["prune"] | {"epochs": 10, "pruning": "gradual", "schedule": ORDERS[0]}
    found = shares(config)
    assert found[:5] == [0.0] * 5
    for t in range(5):
        assert found[5 + t] == pytest.approx(1 - max(0.0, 1 - (t + 1) / 3.5) ** 3)
    assert found[-1] == 1.0


def test_gradual_pruning_is_complete_before_the_next_stage() -> None:
    config = ALL | {
        "epochs": 6,
        "pruning": "gradual",
        "schedule": "prune_then_quantize_then_distill",
    }
    assert shares(config) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_too_few_epochs_for_a_stage_each_are_refused(epochs: int) -> None:
    config = ALL | {"epochs": epochs, "schedule": ORDERS[0]}
    with pytest.raises(UsageError, match=f"3 stages.*at least 6 epochs, got {epochs}"):
        timeline(config)


# In words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "done", "expected"),
    [
        ({"epochs": 4}, {}, ["train epochs 1 to 4"]),
        (
            ASKED["prune"] | {"epochs": 10},
            {"prune"},
            ["train epochs 1 to 7", "train epochs 8 to 10: pruned (half of it)"],
        ),
        (
            ASKED["prune"] | {"epochs": 10, "fine_tuning": 0.0},
            {"prune"},
            ["train epochs 1 to 10", "prune (half of it)"],
        ),
        (
            ASKED["prune"] | {"epochs": 10, "pruning": "gradual"},
            {"prune"},
            [
                "train epochs 1 to 2",
                "train epochs 3 to 7: pruning gradually to half of it",
                "train epochs 8 to 10: pruned (half of it)",
            ],
        ),
        (
            ASKED["prune"] | {"epochs": 10, "pruning": "gradual", "fine_tuning": 0.0},
            {"prune"},
            [
                "train epochs 1 to 2",
                "train epochs 3 to 10: pruning gradually to half of it",
                "prune (half of it)",
            ],
        ),
        (
            {"epochs": 4, "quantize": True},
            {"quantize"},
            ["train epochs 1 to 4", "quantize after training (8-bit weights)"],
        ),
        (
            ASKED["quantize"] | {"epochs": 4},
            {"quantize"},
            [
                "train epochs 1 to 2",
                "train epochs 3 to 4: on the grid (ste)",
                "fix the grid (8-bit weights)",
            ],
        ),
        (
            ASKED["quantize"] | {"epochs": 4, "qat_start": 0.99},
            {"quantize"},
            ["train epochs 1 to 4", "quantize after training (8-bit weights)"],
        ),
        (
            ASKED["distill"] | {"epochs": 4},
            {"distill"},
            ["train epochs 1 to 4: from a teacher"],
        ),
        (
            ALL | {"epochs": 10},
            set(TECHNIQUES),
            [
                "train epochs 1 to 5: from a teacher",
                "train epochs 6 to 7: on the grid (ste), from a teacher",
                "train epochs 8 to 10: pruned (half of it), on the grid (ste), from a teacher",
                "fix the grid (8-bit weights)",
            ],
        ),
        (
            ASKED["prune"] | {"epochs": 3, "pruning": "lottery_ticket", "rewind_step": 7},
            {"prune"},
            ["train epochs 1 to 3", "prune, rewind to step 7, repeat to half of it"],
        ),
        (
            ASKED["prune"] | {"epochs": 3, "pruning": "lottery_ticket", "ticket": "fresh"},
            {"prune"},
            [
                "train epochs 1 to 3",
                "prune, rewind to step 0, repeat to half of it, in the last round with fresh "
                "initial weights",
            ],
        ),
        (
            ASKED["prune"] | {"epochs": 1},
            {"prune"},
            ["train epochs 1 to 1", "prune (half of it)"],
        ),
    ],
    ids=lambda v: "",
)
def test_a_candidate_in_words(config: dict[str, Any], done: set[str], expected: list[str]) -> None:
    described = {name: DONE[name] if name in done else "" for name in TECHNIQUES}
    assert in_words(config, described) == expected


PHASES = {
    "prune": "pruned (half of it)",
    "quantize": "on the grid (ste)",
    "distill": "from a teacher",
}


@pytest.mark.parametrize("order", list(permutations(TECHNIQUES)))
def test_every_order_in_words(order: tuple[str, ...]) -> None:
    """Two epochs a stage; each tells what holds in it, and nothing else."""
    found = in_words(ALL | {"epochs": 12, "schedule": "_then_".join(order)}, DONE)
    expected = ["train epochs 1 to 6"]
    for i, name in enumerate(order):
        holds = [PHASES[t] for t in TECHNIQUES if t == name or (t in order[:i] and t != "distill")]
        expected.append(f"train epochs {7 + 2 * i} to {8 + 2 * i}: {', '.join(holds)}")
    assert found == [*expected, "fix the grid (8-bit weights)"]


@pytest.mark.parametrize(("schedule", "epochs"), LAID)
def test_the_words_cover_every_epoch_once(schedule: str, epochs: int) -> None:
    found = in_words(ALL | {"epochs": epochs, "schedule": schedule}, DONE)
    spans = [line.split(":")[0].split() for line in found if line.startswith("train")]
    covered = [e for *_, first, _, last in spans for e in range(int(first), int(last) + 1)]
    assert covered == list(range(1, epochs + 1))
