"""A bundle: it holds what the search measured, and notices when it no longer does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.results import (
    BrokenBundleError,
    ExportError,
    NotReproducedError,
    Run,
    Trial,
    export_bundle,
    exporting,
    load_bundle,
    verify_bundle,
)
from paretax.results.manifest import CARD, CONFIG, FORMAT, MANIFEST, PROGRAM, WEIGHTS
from paretax.results.restoring import trained_weights
from paretax.tasks.breast_cancer import task as breast_cancer

FILES = (CARD, CONFIG, PROGRAM, WEIGHTS)
Edit = Callable[[dict[str, Any]], object]


def trial_with(run: Run, **values: object) -> Trial:
    """The only trial whose candidate has these values."""
    (found,) = (t for t in run.trials if values.items() <= dict(t.candidate).items())
    return found


@pytest.fixture(scope="module", params=["float", "sparse integers"])
def trial(request: pytest.FixtureRequest, searched: Run) -> Trial:
    """One stored dense in float32, and one as bitmaps with 3 bits a weight."""
    if request.param == "float":
        return trial_with(searched, quantize=False, sparsity=0.0)
    return trial_with(searched, quantize=True, sparsity=0.6)


@pytest.fixture(scope="module")
def exported(searched: Run, trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    manifest = export_bundle(searched, trial, "cpu", folder)
    written = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert json.loads(json.dumps(manifest)) == written
    return folder


@pytest.fixture(scope="module")
def whole(searched: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the integers alone, for tests to copy."""
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    export_bundle(searched, trial_with(searched, quantize=True, sparsity=0.6), "cpu", folder)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return shutil.copytree(whole, tmp_path / "bundle")


def edit(folder: Path, change: Edit) -> None:
    """Change the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")


# What a bundle holds ------------------------------------------------------------------------------


def test_a_bundle_is_verified(exported: Path, trial: Trial) -> None:
    manifest = load_bundle(str(exported)).manifest
    found = verify_bundle(str(exported))
    assert found.files == len(FILES)
    assert {p.name for p in exported.iterdir()} == {*FILES, MANIFEST}
    assert (found.metric, found.examples) == ("accuracy", 114)
    assert found.value == manifest["test"]["value"]
    if trial.test is not None:
        assert found.value == trial.test.value
    assert found.size == manifest["weights"]["bytes"]


def test_the_size_is_the_measured_one(exported: Path, trial: Trial) -> None:
    (size,) = (m.value for m in trial.measurements if m.objective == "size")
    assert load_bundle(exported).manifest["weights"]["bytes"] == size
    assert sum(a.nbytes for a in load_file(exported / WEIGHTS).values()) == size


def test_its_outputs_are_the_evaluators(searched: Run, exported: Path, trial: Trial) -> None:
    seen: list[np.ndarray] = []

    def compute(outputs: np.ndarray, targets: np.ndarray) -> float:
        seen.append(outputs)
        return breast_cancer.metric.compute(outputs, targets)

    task = replace(breast_cancer, metric=replace(breast_cancer.metric, compute=compute))
    bench = Workbench(task)
    weights = trained_weights(searched, trial, bench)
    seen.clear()
    test = bench.data.test
    score = AccuracyEvaluator(bench).score(trial.candidate, weights, test)
    bundle = load_bundle(exported)
    if trial.candidate["quantize"]:
        np.testing.assert_array_equal(bundle(test.inputs), seen[0])
    else:
        np.testing.assert_allclose(bundle(test.inputs), seen[0], rtol=1e-5, atol=1e-6)
    assert score == bundle.manifest["test"]["value"]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 114, 600])
def test_it_takes_any_number_of_examples(exported: Path, count: int) -> None:
    bundle = load_bundle(exported)
    inputs = Workbench(breast_cancer).data.test.inputs
    inputs = np.resize(inputs, (count, *inputs.shape[1:]))
    outputs = bundle(inputs)
    assert outputs.shape == (count, 2)
    one_by_one = [bundle(inputs[i : i + 1])[0] for i in range(min(count, 5))]
    for found, alone in zip(outputs[:5], one_by_one, strict=True):
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)


def test_the_manifest_says_what_the_bundle_is(searched: Run, exported: Path, trial: Trial) -> None:
    manifest = load_bundle(exported).manifest
    assert manifest["format"] == FORMAT
    assert (manifest["task"], manifest["target"]) == ("breast_cancer", "cpu")
    assert (manifest["trial"], manifest["seed"]) == (trial.number, trial.seed)
    assert manifest["candidate"] == dict(trial.candidate)
    assert manifest["candidate_id"] == trial.candidate.id
    assert manifest["measurements"] == [m.to_json() for m in trial.measurements]
    whole = trial.candidate["quantize"]
    limits = manifest["weights"]["input_limits"]
    assert limits == (dict.fromkeys(manifest["weights"]["layouts"], 127.0) if whole else {})
    for layout in manifest["weights"]["layouts"].values():
        assert layout["number"] == ("int" if whole else "float32")
    assert manifest["program"] == {
        "platform": "cpu",
        "platforms": ["cpu"],
        "inputs": ["batch", 30],
        "dtype": "float32",
        "outputs": ["batch", 2],
    }
    assert sorted(manifest["checksums"]) == sorted(FILES)
    assert manifest["versions"]["jax"] == searched.header["versions"]["jax"]
    config = yaml.safe_load((exported / CONFIG).read_text("utf-8"))
    assert config == {
        "task": "breast_cancer",
        "target": "cpu",
        "candidate": dict(trial.candidate),
        "seed": trial.seed,
    }


def test_the_card_has_every_figure_with_how_it_was_obtained(exported: Path, trial: Trial) -> None:
    card = (exported / CARD).read_text("utf-8")
    value = {m.objective: m.value for m in trial.measurements}
    for row in (
        f"| accuracy (validation split, by which the search chose it) | {value['accuracy']:.6g} "
        "| measured |",
        "| accuracy (validation split, mean over 3 further seeds) | ",
        f"| size | {value['size']:.6g} bytes | modelled |",
        f"| memory on cpu (batch 1) | {value['memory']:.6g} bytes | compiled |",
        f"| latency on cpu (batch 1) | {value['latency']:.6g} ± ",
        f"| sparsity | {trial.candidate['sparsity']} |",
    ):
        assert row in card
    assert f"# breast_cancer, trial {trial.number}, for cpu" in card
    assert "| accuracy (test split, 114 examples) |" in card


def test_the_card_gives_the_unit_of_every_score(
    exported: Path,
) -> None:
    manifest = json.loads((exported / MANIFEST).read_text("utf-8"))
    for score in (manifest["test"], manifest["final"]):
        score |= {"unit": "points", "value": 0.5}
    card = exporting._card(manifest)
    rows = [row for row in card.splitlines() if "test split" in row or "further seeds" in row]
    for row in rows[:2]:
        assert re.search(r"\| 0\.5000 ± [\d.e-]+ points \|", row), row


def test_the_stored_arrays_are_as_narrow_as_they_were_counted(whole: Path) -> None:
    stored = load_file(whole / WEIGHTS)
    assert any(name.endswith(".bitmap") for name in stored)
    layouts = json.loads((whole / MANIFEST).read_text("utf-8"))["weights"]["layouts"]
    for name, form in layouts.items():
        assert (form["number"], form["bits"]) == ("int", 3)
        assert stored[name].dtype == np.uint8
        assert stored[name].nbytes == -(-form["stored"] * 3 // 8)


# Exporting ----------------------------------------------------------------------------------------


def test_weights_that_were_not_kept_are_trained_again_to_the_same_bits(
    searched: Run, tmp_path: Path
) -> None:
    chosen = searched.front("cpu")[0]
    assert searched.weights_file(chosen.number).is_file()
    export_bundle(searched, chosen, "cpu", tmp_path / "kept")
    run = Run.open(shutil.copytree(searched.folder, tmp_path / "run"))
    run.weights_file(chosen.number).unlink()
    export_bundle(run, chosen, "cpu", tmp_path / "trained")
    for name in FILES:
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "trained" / name).read_bytes()


def test_a_program_holds_no_paths_of_the_machine_that_exported_it(exported: Path) -> None:
    program = (exported / PROGRAM).read_bytes()
    assert b"StableHLO" in program
    assert b".py" not in program


@pytest.mark.parametrize("form", ["folder", "file"])
def test_what_is_there_is_not_overwritten(
    searched: Run, trial: Trial, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "out"
    if form == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(UsageError, match=r"exists and is not empty: name another with -o"):
        export_bundle(searched, trial, "cpu", out)
    assert list(tmp_path.iterdir()) == [out]
    assert (out / "mine" if form == "folder" else out).read_text() == "mine"


def test_an_empty_folder_may_be_there(
    searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_bundle(searched, searched.trials[0], "cpu", Path())
    assert (tmp_path / "here" / MANIFEST).is_file()
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


def altered(trial: Trial, objective: str, value: float) -> Trial:
    """A trial that claims another value."""
    return replace(
        trial,
        measurements=tuple(
            replace(m, value=value) if m.objective == objective else m for m in trial.measurements
        ),
    )


def test_a_program_that_scores_otherwise_is_not_exported(searched: Run, tmp_path: Path) -> None:
    chosen = searched.front("cpu")[0]
    assert chosen.test is not None
    wrong = replace(chosen, test=replace(chosen.test, value=0.125))
    with pytest.raises(ExportError, match=r"accuracy on the test split is .*, and the run's 0.125"):
        export_bundle(searched, wrong, "cpu", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_size_are_not_exported(searched: Run, tmp_path: Path) -> None:
    wrong = altered(searched.front("cpu")[0], "size", 7.0)
    with pytest.raises(ExportError, match=r"the weights take \d+ bytes, and the search counted 7"):
        export_bundle(searched, wrong, "cpu", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_come_out_otherwise_are_not_exported(searched: Run, tmp_path: Path) -> None:
    bare = replace(searched, folder=tmp_path / "no weights here")
    wrong = altered(searched.trials[0], "accuracy", 0.125)
    with pytest.raises(NotReproducedError, match=r"trial 0 scored 0.125 in the run and 0\.\d+ now"):
        export_bundle(bare, wrong, "cpu", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_half_way_leaves_nothing(
    searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(manifest: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(exporting, "_card", fail)
    with pytest.raises(OSError, match="no space left"):
        export_bundle(searched, searched.trials[0], "cpu", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_noticed(copied: Path, name: str, place: float) -> None:
    content = bytearray((copied / name).read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    (copied / name).write_bytes(content)
    for check in (load_bundle, verify_bundle):
        with pytest.raises(BrokenBundleError, match=f"the file {name} has changed"):
            check(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BrokenBundleError, match=f"the file {name} is missing"):
        load_bundle(copied)


@pytest.mark.parametrize("name", ["more.txt", ".hidden", "sub/more.txt"])
def test_an_added_file_is_noticed(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("more")
    with pytest.raises(BrokenBundleError, match=f"the file {name} is not in the manifest"):
        load_bundle(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["test"].update(value=m["test"]["value"] + 1e-6),
            r"accuracy on the test split is .* and the manifest says",
        ),
        (lambda m: m["test"].update(examples=113), "over 114 examples, .* over 113"),
        (lambda m: m["weights"].update(bytes=1), r"have \d+ bytes, and the manifest says 1"),
        (
            lambda m: m["program"].update(inputs=["batch", 31]),
            r"takes examples of shape \(31,\), and the task's have \(30,\)",
        ),
        (lambda m: m["checksums"].pop(CARD), f"the file {CARD} is not in the manifest"),
        (lambda m: m["checksums"].update({CARD: "0" * 64}), f"the file {CARD} has changed"),
        (
            lambda m: m["checksums"].update(other="0" * 64),
            "the file 'other' is none that a bundle has",
        ),
    ],
    ids=["score", "examples", "bytes", "shape", "no checksum", "checksum", "another file"],
)
def test_an_edited_manifest_is_noticed(copied: Path, change: Edit, message: str) -> None:
    edit(copied, change)
    with pytest.raises(BrokenBundleError, match=message):
        verify_bundle(copied)


@pytest.mark.parametrize(
    "path",
    [
        *("task", "test", "test.value", "program.inputs", "checksums"),
        *("weights", "weights.layouts", "weights.input_limits"),
    ],
)
def test_a_manifest_that_lacks_something_is_broken(copied: Path, path: str) -> None:
    def drop(manifest: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            manifest = manifest[key]
        del manifest[last]

    edit(copied, drop)
    with pytest.raises(BrokenBundleError, match=f"the manifest lacks {path}"):
        load_bundle(copied)


def _each_layout(**changes: object) -> Edit:
    def change(manifest: dict[str, Any]) -> None:
        for form in manifest["weights"]["layouts"].values():
            form.update(changes)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _each_layout(shape=[2, 2]),
        _each_layout(stored=10**4),
        _each_layout(bits=32),
        _each_layout(form="dense"),
        _each_layout(colour="red"),
        lambda m: m["weights"].update(layouts={}),
        _each_layout(number="float32"),
        _each_layout(number="roman"),
        lambda m: m["weights"].update(input_limits={}),
        lambda m: m["weights"].update(input_limits="many"),
        lambda m: m["weights"].update(input_limits=dict.fromkeys(m["weights"]["layouts"], "x")),
    ],
    ids=[
        *("shape", "stored", "bits", "form", "unknown", "none"),
        *("number", "unknown number", "no limits", "limits", "limit"),
    ],
)
def test_a_layout_that_does_not_fit_the_file_is_broken(copied: Path, change: Edit) -> None:
    edit(copied, change)
    with pytest.raises(BrokenBundleError, match=r"stored arrays"):
        load_bundle(copied)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=f"is no bundle: it has no {MANIFEST}"):
            verify_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_a_manifest_that_is_not_json_is_refused(copied: Path, content: bytes) -> None:
    (copied / MANIFEST).write_bytes(content)
    with pytest.raises(UsageError, match=f"{MANIFEST}' is not JSON"):
        load_bundle(copied)


@pytest.mark.parametrize("form", [None, FORMAT + 1, "1", [1]])
def test_a_bundle_of_another_format_is_refused(copied: Path, form: object) -> None:
    edit(copied, lambda m: m.update(format=form))
    with pytest.raises(UsageError, match=rf"has bundle format .* reads format {FORMAT}"):
        load_bundle(copied)
    (copied / MANIFEST).write_text("[]")
    with pytest.raises(UsageError, match="has bundle format None"):
        load_bundle(copied)
