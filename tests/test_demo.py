"""What the README promises, by its own commands, on real data."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.results import Run, select
from paretax.results.final_scores import final, standard_error

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def paretax(*arguments: str | Path, cwd: Path = ROOT) -> str:
    code = "from paretax.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    paretax("search", "examples/digits.yaml", "--out", folder)
    return folder


def test_the_front_on_digits_is_real(demo: Path) -> None:
    run = Run.open(demo)
    assert len(run.trials) >= 40
    assert [o.name for o in run.objectives("cpu")] == ["accuracy", "latency", "size"]
    front = run.front("cpu")
    tests = [t.test.value for t in front if t.test is not None]
    assert len(tests) == len(front)
    assert max(tests) >= 0.96


def test_a_point_four_times_smaller_is_nearly_as_accurate_as_its_dense_twin(demo: Path) -> None:
    """Against the same width and depth, trained the same way, dense in float32."""
    run = Run.open(demo)
    bench = Workbench(run.workbench().task)
    evaluator = AccuracyEvaluator(bench)
    drops = {}
    for trial in run.front("cpu"):
        (size,) = (m for m in trial.measurements if m.objective == "size")
        if size.detail["dense"] < 4 * size.value:
            continue
        compressed = {"sparsity", "quantize", "weight_bits", "activation_bits"}
        twin = {k: v for k, v in trial.candidate.items() if k not in compressed}
        weights = evaluator.evaluate(twin, trial.seed).weights
        assert weights is not None
        dense = evaluator.test(twin, weights).value
        assert trial.test is not None
        drops[trial.number] = dense - trial.test.value
    assert drops, "no point of the front is 4 times smaller"
    assert min(drops.values()) <= 0.015


def test_the_exported_point_holds_on_the_test_split_what_its_row_says(demo: Path) -> None:
    """Within two standard errors of the difference, the two splits' errors being independent."""
    run = Run.open(demo)
    trial = select(run, "cpu", ["accuracy>=0.95"], "knee")
    row = final(trial, run.objectives("cpu")[0])
    assert len(row.detail["seeds"]) == 3
    assert trial.test is not None
    errors = [standard_error(row), standard_error(trial.test)]
    assert all(error is not None and 0 < error < 0.03 for error in errors)
    assert abs(row.value - trial.test.value) <= 2 * math.hypot(*map(float, filter(None, errors)))


def test_export_and_verify(demo: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    paretax(
        *("export", demo, "--target", "cpu", "--where", "accuracy>=0.95"),
        *("--pick", "knee", "-o", bundle),
    )
    assert "are as the manifest says" in paretax("verify", bundle, cwd=tmp_path)


def test_reproduce_any_trial(demo: Path) -> None:
    for number in (0, len(Run.open(demo).trials) // 2):
        trial = Run.open(demo).trial(number)
        if trial.trained:
            assert "reproduced exactly" in paretax("reproduce", demo, str(number))


def test_a_users_own_task(tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    paretax("search", "examples/my_task.yaml", "--out", run, "--trials", "10")
    tests = [t.test.value for t in Run.open(run).front("cpu") if t.test is not None]
    assert max(tests) >= 0.85
    paretax("export", run, "--pick", "best:accuracy", "-o", bundle, "--task-path", "examples")
    assert "the score was not checked" in paretax("verify", bundle)
    assert "accuracy" in paretax("verify", bundle, "--path", "examples")


def test_a_cnn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    paretax("search", "examples/mnist5k.yaml", "--out", run, "--trials", "8")
    tests = [t.test.value for t in Run.open(run).front("cpu") if t.test is not None]
    assert max(tests) >= 0.95
