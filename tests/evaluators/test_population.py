"""Populations: what a lane gives does not depend on who trains beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.course import course_of
from paretax.evaluators.lanes import DivergedError
from paretax.evaluators.population import Population
from paretax.evaluators.training import Trained, Trainer
from paretax.search.worker import Worker, WorkerSpec
from paretax.spaces import Candidate

SMALL: dict[str, Any] = {"width": 6, "depth": 1, "batch_size": 64, "epochs": 4}


def members(count: int, first_seed: int = 0, **change: Any) -> list[tuple[dict[str, Any], int]]:
    """Candidates that differ in their rates, their lengths and their seeds."""
    return [
        (
            {**SMALL, "learning_rate": 0.01 * (1 + i % 5), "epochs": 2 + i % 3, **change},
            first_seed + i,
        )
        for i in range(count)
    ]


def together(trainer: Trainer, asked: list[tuple[dict[str, Any], int]]) -> list[Any]:
    begun = [trainer.begin(*member) for member in asked]
    failed = trainer.advance_together(begun, [None] * len(asked))
    assert sorted(failed) == list(range(len(asked)))
    return [failed[i] or trainer.finish(training) for i, training in enumerate(begun)]


def largest_difference(one: Trained, other: Trained) -> float:
    assert one[0].keys() == other[0].keys()
    return max(
        float(np.abs(np.asarray(one[k][n]) - np.asarray(other[k][n])).max())
        for k in range(3)
        for n in one[k]
    )


TECHNIQUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pruned at once": {"sparsity": 0.5, "fine_tuning": 0.5},
    "pruned gradually": {"sparsity": 0.8, "pruning": "gradual"},
    "quantised in training": {"quantize": True, "weight_bits": 3, "qat": "ste"},
    "with learned steps": {"quantize": True, "weight_bits": 3, "qat": "lsq"},
    "smoothed and clipped": {"label_smoothing": 0.1, "gradient_clip": 0.5},
}


_SEEDS = {"with learned steps": 7}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_member_is_retraced_to_the_bit(bench: Workbench, technique: str) -> None:
    """By copies of it in a program as wide, also where others ended before it."""
    asked = members(5, **TECHNIQUES[technique])
    many, alone = AccuracyEvaluator(bench, axis="batch"), AccuracyEvaluator(bench)
    many.advance_together(asked)
    for candidate, seed in asked:
        found = many.evaluate(candidate, seed)
        assert found.weights is not None
        course = course_of(found.measurements[0].detail)
        assert course[0].lanes == 8
        again = alone.evaluate(candidate, seed, course)
        assert again.measurements[0].value == found.measurements[0].value
        assert again.measurements[0].detail["lanes"] == found.measurements[0].detail["lanes"]
        assert again.weights is not None
        for name, array in found.weights.items():
            np.testing.assert_array_equal(again.weights[name], array, err_msg=name)


@pytest.mark.parametrize(
    "lanes",
    [[[0, 300, 0]], [[0, 8, 8]], [[0, -1, 0]], [[9, 2, 0], [4, 0, 0]], [[-1, 2, 0]], 7, [["0", 2]]],
)
def test_a_course_that_no_training_takes(lanes: Any) -> None:
    with pytest.raises(UsageError, match="`lanes` should be"):
        course_of({"lanes": lanes})


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_lane_is_trained_as_alone(bench: Workbench, technique: str) -> None:
    """To rounding: products over a batch of matrices are summed otherwise.

    With learned steps a weight that lies between two codes may then round the other way, and that
    member's trainings part: the seeds are ones of which none does.
    """
    asked = members(7, _SEEDS.get(technique, 0), **TECHNIQUES[technique])
    trainer = Trainer(bench, Calibrator(), "batch")
    for (candidate, seed), found in zip(asked, together(trainer, asked), strict=True):
        assert largest_difference(found, trainer.train(candidate, seed)) < 1e-4


def test_masks_of_channels_and_of_weights_train_side_by_side(bench: Workbench) -> None:
    ways: list[dict[str, Any]] = [
        {"channel_sparsity": 0.5},
        {"channel_sparsity": 0.5, "sparsity": 0.5},
        {"sparsity": 0.5},
        {"channel_sparsity": 0.5, "quantize": True, "qat": "lsq", "weight_scales": "tensor"},
        {"channel_sparsity": 0.5, "quantize": True, "qat": "lsq"},
    ]
    asked = [member for way in ways for member in members(2, 3, width=8, fine_tuning=0.5, **way)]
    trainer = Trainer(bench, Calibrator(), "batch")
    for (candidate, seed), found in zip(asked, together(trainer, asked), strict=True):
        assert largest_difference(found, trainer.train(candidate, seed)) < 1e-4


def test_the_size_of_a_population_does_not_matter(bench: Workbench) -> None:
    trainer = Trainer(bench, Calibrator(), "batch")
    few, many = together(trainer, members(7)), together(trainer, members(64))
    for one, other in zip(few, many[:7], strict=True):
        assert largest_difference(one, other) < 1e-4


def test_accuracies_are_equal_alone_and_in_populations_of_7_and_64(bench: Workbench) -> None:
    """Bit for bit, as a CPU trains lane by lane; on the batch axis up to its rounding."""
    validation = bench.data.validation
    alone = AccuracyEvaluator(bench)
    asked = members(64)
    expected = [alone.score(c, alone.train(c, s), validation) for c, s in asked]
    spec = WorkerSpec(task="breast_cancer", search_path=(), targets=(), wanted=())
    calls = [(Candidate(c), s) for c, s in asked]
    for size in (7, 64):
        found = [e.measurements[0].value for e in Worker(spec).run("train", calls[:size])]
        assert found == expected[:size]
    batched = AccuracyEvaluator(bench, axis="batch")
    batched.advance_together(asked)
    scores = [batched.evaluate(c, s) for c, s in asked]
    assert [e.measurements[0].value for e in scores] == pytest.approx(expected, abs=0.02)


def test_a_lane_that_diverges_leaves_its_neighbours_alone(bench: Workbench) -> None:
    trainer = Trainer(bench, Calibrator(), "batch")
    asked = members(6)
    wild = [*asked]
    wild[2] = ({**asked[2][0], "learning_rate": 1e30, "optimizer": "adamw"}, 2)
    wild[4] = ({**asked[4][0], "learning_rate": 1e38}, 4)
    calm, found = together(trainer, asked), together(trainer, wild)
    for i in (2, 4):
        assert isinstance(found[i], DivergedError)
        with pytest.raises(DivergedError) as alone:
            trainer.train(*wild[i])
        assert str(found[i]) == str(alone.value)
    for i in (0, 1, 3, 5):  # the same program on other neighbours: the same bits
        assert largest_difference(found[i], calm[i]) == 0.0


def test_programs_of_several_signatures(bench: Workbench) -> None:
    trainer = Trainer(bench, Calibrator(), "batch")
    mixed = [*members(3), *members(3, width=5), *members(2, sparsity=0.5), *members(2, depth=2)]
    for (candidate, seed), found in zip(mixed, together(trainer, mixed), strict=True):
        assert largest_difference(found, trainer.train(candidate, seed)) < 1e-4


def test_a_lottery_is_left_to_be_trained_alone(bench: Workbench) -> None:
    trainer = Trainer(bench, Calibrator(), "batch")
    asked = [*members(2), ({**SMALL, "pruning": "lottery_ticket", "sparsity": 0.5}, 0)]
    begun = [trainer.begin(*member) for member in asked]
    assert sorted(trainer.advance_together(begun, [None] * 3)) == [0, 1]
    assert begun[2].stand.step == 0


def test_a_cpu_trains_lane_by_lane(bench: Workbench) -> None:
    trainer = Trainer(bench, Calibrator())
    begun = [trainer.begin(*member) for member in members(4)]
    assert trainer.advance_together(begun, [None] * 4) == {}
    assert [training.stand.step for training in begun] == [0] * 4


def test_out_of_memory_halves_the_population(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = Population._run

    def small(self: Population, key: Any, lane: Any, carries: Any, blocks: Any) -> Any:
        sizes.append(len(blocks))
        if len(blocks) > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory, by the test")
        return plain(self, key, lane, carries, blocks)

    trainer = Trainer(bench, Calibrator(), "batch")
    asked = members(8, epochs=2)
    expected = together(trainer, asked)
    monkeypatch.setattr(Population, "_run", small)
    found = together(Trainer(bench, Calibrator(), "batch"), asked)
    assert sizes[:4] == [8, 4, 2, 2]  # and stays small from then on
    assert max(sizes[2:]) == 2
    for one, other in zip(found, expected, strict=True):
        assert largest_difference(one, other) < 1e-4


def test_other_errors_of_a_program_are_not_hidden(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(Population, "_run", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        together(Trainer(bench, Calibrator(), "batch"), members(2))
    evaluator = AccuracyEvaluator(bench, axis="batch")
    evaluator.advance_together(members(2))  # what is wrong shows where they train one by one
    assert all(evaluator.evaluate(*member).failure is None for member in members(2))


def test_a_worker_trains_a_population(bench: Workbench) -> None:
    spec = WorkerSpec(task="breast_cancer", search_path=(), targets=(), wanted=(), axis="batch")
    odd: list[tuple[dict[str, Any], int]] = [
        ({**SMALL, "batch_size": 10_000}, 0),  # cannot be trained
        ({**SMALL, "learning_rate": 1e38}, 1),  # diverges
    ]
    asked = [*members(3), *odd]
    found = list(Worker(spec).run("train", [(Candidate(c), s) for c, s in asked]))
    assert [e.failure is None for e in found] == [True, True, True, False, False]
    assert [str(e.failure.reason) for e in found[3:] if e.failure] == ["build_error", "diverged"]
    single = [Worker(spec).train(Candidate(c), s) for c, s in asked[:3]]
    for one, other in zip(found[:3], single, strict=True):
        assert one.measurements[0].value == pytest.approx(other.measurements[0].value, abs=0.02)


@pytest.mark.parametrize("axis", ["loop", "batch"])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_training_goes_on_from_its_rung(bench: Workbench, technique: str, axis: Any) -> None:
    """Stopping at rungs on the way changes nothing at the end."""
    asked = [(Candidate({**c, "epochs": 5}), s) for c, s in members(3, **TECHNIQUES[technique])]
    spec = WorkerSpec(task="breast_cancer", search_path=(), targets=(), wanted=(), axis=axis)
    straight, rung_by_rung = Worker(spec), Worker(spec)
    expected = list(straight.run("train", asked))
    for epochs in (1, 3):
        reached = list(rung_by_rung.run("advance", [(*call, epochs) for call in asked]))
        for evaluation in reached:
            (measurement,) = evaluation.measurements
            assert measurement.detail["epoch"] == epochs
            assert evaluation.weights is None
    for one, other in zip(rung_by_rung.run("train", asked), expected, strict=True):
        assert one.measurements[0].value == other.measurements[0].value
        assert one.weights is not None
        assert other.weights is not None
        for name, weight in one.weights.items():
            np.testing.assert_array_equal(weight, other.weights[name])


def test_a_worker_that_lost_a_training_begins_again(bench: Workbench) -> None:
    (asked,) = [(Candidate(c), s) for c, s in members(1)]
    spec = WorkerSpec(task="breast_cancer", search_path=(), targets=(), wanted=())
    one = Worker(spec)
    first = one.advance(*asked, 1).measurements[0].value
    assert (
        one.advance(*asked, 2).measurements[0].value
        == Worker(spec).advance(*asked, 2).measurements[0].value
    )
    assert Worker(spec).advance(*asked, 1).measurements[0].value == first
    ended = one.train(*asked)
    assert ended.measurements[0].value == Worker(spec).train(*asked).measurements[0].value


class Clock:
    """Blocks that take as long as told."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds, self.asked = seconds, list[int]()

    def __call__(self, lane: Any, stand: Any, block: Any, width: int) -> float:
        self.asked.append(width)
        return self.seconds(width)


@pytest.mark.parametrize(("a_lane", "pays"), [(0.01, True), (2.0, False)])
def test_what_is_faster_is_measured_once_on_an_accelerator(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, a_lane: float, pays: bool
) -> None:
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path))
    clock = Clock(lambda width: 1.0 if width == 1 else width * a_lane)
    monkeypatch.setattr(Population, "_time", lambda self, *args: clock(*args))
    trainer = Trainer(bench, Calibrator())
    lanes = [trainer._lanes.lane(c, s, None, None) for c, s in members(6)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert trainer._population.pays(lanes) is pays
    assert sorted(clock.asked) == [1, 8]
    assert Trainer(bench, Calibrator())._population.pays(lanes) is pays
    assert len(clock.asked) == 2


SHARDED = """
import jax, numpy as np
from paretax.evaluators import Workbench
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators import population
from paretax.evaluators.training import Trainer
from paretax.tasks import load_task

assert len(jax.local_devices()) == 4
seen = []
plain = population._sharded
def noted(args, width):
    found = plain(args, width)
    seen.append(len(jax.tree.leaves(found[0])[0].sharding.device_set))
    return found
population._sharded = noted
bench = Workbench(load_task("breast_cancer"))
small = {"width": 6, "depth": 1, "epochs": 2}
asked = [({**small, "learning_rate": 0.01 * (i + 1)}, i) for i in range(8)]
trainer = Trainer(bench, Calibrator(), "batch")
begun = [trainer.begin(*member) for member in asked]
trainer.advance_together(begun, [None] * 8)
found = [trainer.finish(training) for training in begun]
assert set(seen) == {4}, seen
for i, (candidate, seed) in enumerate(asked):
    alone = trainer.train(candidate, seed)
    for name, weight in alone[0].items():
        np.testing.assert_allclose(found[i][0][name], weight, atol=1e-4)
print("sharded")
"""


def test_several_devices_share_a_population() -> None:
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "sharded\n", done.stderr
