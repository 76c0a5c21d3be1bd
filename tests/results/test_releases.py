"""Runs and bundles that one release of JAX wrote, in the hands of another."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from paretax.errors import UsageError
from paretax.evaluators.runtime import versions
from paretax.results import (
    NotReproducedError,
    Run,
    export_bundle,
    leaderboard,
    load_bundle,
    verify_bundle,
)
from paretax.results.releases import TOLERANCE, read_program, same_score
from paretax.results.restoring import trained_weights
from paretax.search import parse_config, plan, run_search
from paretax.tasks import load_task

KEPT = Path(__file__).parents[1] / "fixtures" / "releases"
FOLDERS = sorted(KEPT.glob("jax-*"))


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def of(folder: Path) -> str:
    return folder.name.removeprefix("jax-")


def opened(folder: Path) -> Run:
    """The run, with the place of its task on this machine."""
    load_task("tides:task", [KEPT])
    run = Run.open(folder / "run")
    return replace(run, header={**run.header, "search_path": [str(KEPT)]})


@pytest.fixture(params=FOLDERS, ids=of)
def folder(request: pytest.FixtureRequest) -> Path:
    """What one release of JAX wrote."""
    kept: Path = request.param
    return kept


@pytest.fixture
def other() -> Path:
    """What another jaxlib than this one wrote, and what is read here."""
    return next(f for f in FOLDERS if release(of(f)) != release(jax.__version__))


def test_both_lines_are_kept() -> None:
    assert {release(of(f))[:2] for f in FOLDERS} == {(0, 10), (0, 12)}


def test_a_journal_of_any_release_opens(folder: Path) -> None:
    run = opened(folder)
    assert run.header["versions"]["jax"] == of(folder)
    assert [t.valid for t in run.trials] == [True] * 3
    table = leaderboard(run, "cpu")
    assert list(table["trial"]) == [t.number for t in run.front("cpu")]


def test_a_run_of_another_jaxlib_is_not_resumed(other: Path, tmp_path: Path) -> None:
    for file in (other / "run").glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plain = yaml.safe_load((KEPT / "search.yaml").read_text("utf-8"))
    planned = plan(parse_config(plain, "search.yaml"), [KEPT])
    with pytest.raises(UsageError, match="resume it there, or start a new run"):
        run_search(planned, tmp_path, resume=True)


def test_kept_weights_are_exported_and_their_score_is_compared(
    folder: Path, tmp_path: Path
) -> None:
    run = opened(folder)
    trial = run.front("cpu")[0]
    assert trial.test is not None
    manifest = export_bundle(run, trial, "cpu", tmp_path / "bundle")
    assert math.isclose(manifest["test"]["value"], trial.test.value, rel_tol=TOLERANCE)
    assert manifest["versions"]["jax"] == jax.__version__
    assert verify_bundle(tmp_path / "bundle", [KEPT]).note == ""


def test_a_training_that_comes_out_otherwise_names_both_jaxlibs(
    other: Path, tmp_path: Path
) -> None:
    run = opened(other)
    trial = run.front("cpu")[0]
    found = tuple(replace(m, value=m.value + 0.25) for m in trial.measurements)
    run = replace(run, folder=tmp_path)  # which keeps no weights
    with pytest.raises(NotReproducedError, match=rf"jaxlib {of(other)}, and here it is"):
        trained_weights(run, replace(trial, measurements=found), run.workbench())


def test_a_bundle_of_an_older_jax_opens_and_one_of_a_newer_says_what_to_do(folder: Path) -> None:
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text("utf-8"))
    assert manifest["versions"]["jax"] == of(folder)
    if release(of(folder)) > release(jax.__version__):
        with pytest.raises(UsageError, match=rf"JAX {of(folder)}.*{jax.__version__}.*export it"):
            load_bundle(folder / "bundle")
        return
    found = verify_bundle(folder / "bundle", [KEPT])
    assert found.value is not None
    assert math.isclose(found.value, manifest["test"]["value"], rel_tol=TOLERANCE)
    same = manifest["versions"]["jaxlib"] == versions()["jaxlib"]
    assert found.note == "" if same else of(folder) in found.note


OLDEST = (KEPT / "jax-0.10.2" / "bundle" / "program.stablehlo").read_bytes()


def test_a_program_of_a_stablehlo_to_come_is_refused() -> None:
    newer = OLDEST.replace(b"StableHLO_v1.", b"StableHLO_v9.")
    assert newer != OLDEST
    with pytest.raises(UsageError, match=r"'it' was written by JAX 1\.2\.3 as StableHLO 9\."):
        read_program(newer, "it", {"jax": "1.2.3"})
    with pytest.raises(UsageError, match=r"was written by another JAX as StableHLO 9\."):
        read_program(newer, "it", {})


def test_what_another_jax_wrote_and_this_one_cannot_parse_names_the_writer() -> None:
    with pytest.raises(UsageError, match=r"was written by JAX 0\.1\.2, and JAX .* does not read"):
        read_program(OLDEST[:40], "it", {"jax": "0.1.2"})


@pytest.mark.parametrize(
    ("value", "there", "same"),
    [
        (0.5, {}, True),
        (0.5 + 1e-9, {}, False),
        (0.5 + 1e-9, {"jaxlib": "0.0.1"}, True),
        (0.5 * (1 + 0.9 * TOLERANCE), {"jaxlib": "0.0.1"}, True),
        (0.5 * (1 + 1.1 * TOLERANCE), {"jaxlib": "0.0.1"}, False),
        (math.nan, {"jaxlib": "0.0.1"}, False),
    ],
)
def test_scores_are_equal_with_one_jaxlib_and_close_with_another(
    value: float, there: dict[str, Any], same: bool
) -> None:
    assert same_score(value, 0.5, {**versions(), **there}) is same
