"""Writing a bundle."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml
from jax import export as jax_export
from safetensors.numpy import save

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Deployed, Workbench
from paretax.evaluators.accuracy import final_masks, parts
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.runtime import machine, versions
from paretax.evaluators.scoring import metric_of, widened
from paretax.results import manifest as files
from paretax.results.bundle import Bundle
from paretax.results.claims import device_of_run
from paretax.results.coverage import card_section
from paretax.results.final_scores import final, standard_error
from paretax.results.manifest import checksum
from paretax.results.opening import wrote
from paretax.results.releases import both_jaxlibs, same_score
from paretax.results.restoring import checked_workbench, trained_weights
from paretax.results.run import Run
from paretax.results.text import in_markdown
from paretax.results.trial import Trial
from paretax.spaces.compression import compress, deployed_shapes
from paretax.spaces.storage import layout, pack

TOLERANCE = 1e-3
"""Of the largest output: how far an exported program's may be from the scored ones."""


class ExportError(RuntimeError):
    """The exported program does not do what the search measured."""


def export_bundle(
    run: Run, trial: Trial, target: str, folder: Path | str, *, force_data: bool = False
) -> dict[str, Any]:
    """Write a trial as a bundle.

    The weights are the run's, or trained again where it did not keep them. The exported program
    then scores the test split: its outputs must be the scored ones (see `check_outputs`), and give
    the run's own figure where it has one.

    Args:
        run: the run.
        trial: a valid one of it.
        target: one of its targets.
        folder: must not exist, or be empty.
        force_data: go on although data or code are not the run's.

    Returns:
        The manifest.

    Raises:
        UsageError: the folder is in use, or data or code are others.
        ExportError: the program computes or scores otherwise than the run, or its size is another.
        NotReproducedError: the weights had to be trained again and came out otherwise.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} exists and is not empty: name another with -o")
    folder = folder.resolve()  # "." has no name to put a draft beside
    bench = checked_workbench(run, trial, force_data=force_data)
    weights = trained_weights(run, trial, bench)
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        manifest = _write(run, trial, target, bench, weights, draft)
        if folder.exists():
            folder.rmdir()
        draft.replace(folder)
        wrote(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _write(
    run: Run,
    trial: Trial,
    target: str,
    bench: Workbench,
    weights: Mapping[str, np.ndarray],
    folder: Path,
) -> dict[str, Any]:
    model = bench.deployed(trial.candidate)
    params, state, _ = parts(model, weights)
    evaluator = AccuracyEvaluator(bench)
    grid = evaluator.grid(model, weights)
    arrays = compress(model.recipe, model.sites, params, state, grid)
    kept = {n: np.asarray(mask) for n, mask in final_masks(model, params).items()}
    stored = pack(arrays, kept, model.sites, model.recipe)
    size = sum(a.nbytes for a in stored.values())
    sizes = [m.value for m in trial.measurements if m.objective == "size"]
    expected = sizes[-1] if sizes else size
    if size != expected:
        raise ExportError(f"the weights take {size} bytes, and the search counted {expected:.0f}")
    # not by `save_file`, whose files nobody but their owner may read
    content = save({n: np.asarray(a, order="C") for n, a in stored.items()})
    (folder / files.WEIGHTS).write_bytes(content)
    program, batch = exported_program(model, bench, run.platform(target))
    (folder / files.PROGRAM).write_bytes(program.serialize())
    host = {name: np.asarray(a) for name, a in arrays.items()}
    test = bench.data.test
    outputs = Bundle(folder=folder, manifest={}, arrays=host, program=program)(test.inputs)
    check_outputs(evaluator.outputs(trial.candidate, weights, test.inputs), outputs)
    score = _score(bench, outputs, test.targets)
    then = run.header["versions"]
    if trial.test is not None and not same_score(score, trial.test.value, then):
        why = both_jaxlibs(then)
        raise ExportError(
            f"the exported program's {bench.task.metric.name} on the test split is {score}, "
            f"and the run's {trial.test.value}{why and f' ({why}: export it there)'}"
        )
    config = {
        "task": run.task_name,
        "target": target,
        "candidate": dict(trial.candidate),
        "seed": trial.seed,
    }
    (folder / files.CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    metric = bench.task.metric
    manifest = {
        "format": files.FORMAT,
        "task": run.task_name,
        "target": target,
        "device": device_of_run(run, target),
        "trial": trial.number,
        "candidate": dict(trial.candidate),
        "candidate_id": trial.candidate.id,
        "seed": trial.seed,
        "coverage": [one.to_json() for one in bench.coverage(trial.candidate)],
        "steps": next((m.detail["steps"] for m in trial.measurements if "steps" in m.detail), []),
        "measurements": [m.to_json() for m in trial.measurements],
        "final": _final(run, trial, metric.name),
        "test": {
            "objective": metric.name,
            "value": score,
            "unit": metric.unit,
            "provenance": "measured",
            "examples": len(test),
            "standard_error": standard_error(trial.test),
        },
        "program": {
            "platform": run.platform(target),
            "platforms": list(program.platforms),
            "inputs": [batch, *bench.data.train.inputs.shape[1:]],
            "dtype": str(bench.data.train.inputs.dtype),
            "outputs": [batch, *outputs.shape[1:]],
        },
        "weights": {
            "bytes": size,
            "layouts": {
                name: asdict(layout(site, model.recipe.treatments[name], int((~kept[name]).sum())))
                for name, site in model.sites.items()
            },
            "input_limits": {
                name: float(host[f"{name}.input"].flat[1])
                for name in model.sites
                if f"{name}.input" in host
            },
        },
        "measured_on": run.header["machine"]["processor"],
        "versions": versions(),
        "machine": machine(),
    }
    (folder / files.CARD).write_text(_card(manifest), "utf-8")
    names = (files.CARD, files.CONFIG, files.PROGRAM, files.WEIGHTS)
    manifest["checksums"] = {name: checksum(folder / name) for name in names}
    (folder / files.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return manifest


def check_outputs(scored: np.ndarray, exported: np.ndarray) -> None:
    """Compare the outputs of the exported program with those that were scored.

    Both are the same arithmetic in the same dtypes. Where sums round otherwise, one value may fall
    on the other side of an edge of a grid: an example in a hundred may be off, all others by at
    most `TOLERANCE` of the largest output.

    Args:
        scored: (examples, ...), by which the search judged.
        exported: the same examples through the exported program.

    Raises:
        ExportError: their dtypes differ, or more of their values.
    """
    if scored.dtype != exported.dtype:
        raise ExportError(
            f"the exported program's outputs are {exported.dtype}, and the scored ones "
            f"{scored.dtype}"
        )
    one, other = (widened(o).reshape(len(o), -1).astype(np.float64) for o in (scored, exported))
    sizes = np.abs(one[np.isfinite(one)])
    room = TOLERANCE * (sizes.max() if sizes.size else 0.0)
    close = np.asarray(np.isclose(one, other, rtol=0.0, atol=room, equal_nan=True))
    off = int((~close.all(axis=1)).sum())
    if off > len(one) / 100:
        with np.errstate(invalid="ignore"):  # infinities of both
            apart = np.nanmax(np.abs(one - other))
        raise ExportError(
            f"the exported program's outputs differ from the scored ones for {off} of {len(one)} "
            f"test examples, by up to {apart:.3g}, and {room:.3g} is allowed: this is a fault of "
            "paretax; please report it with the task's model"
        )


def _score(bench: Workbench, outputs: np.ndarray, targets: np.ndarray) -> float:
    """The metric of the exported program on the test split.

    Raises:
        ExportError: the metric has none, so that nobody could verify the bundle.
    """
    metric = bench.task.metric
    try:
        score = metric_of(bench.task, outputs, targets)
    except Exception as error:
        raise ExportError(
            f"the metric {metric.name} fails on the test split, and the bundle could not be "
            f"verified ({type(error).__name__}: {error}): mend the task's metric or its test split"
        ) from error
    if not math.isfinite(score):
        raise ExportError(
            f"the metric {metric.name} is {score} on the test split, and the bundle could not be "
            "verified: mend the task's metric or its test split"
        )
    return score


def _final(run: Run, trial: Trial, metric: str) -> dict[str, Any] | None:
    """The metric's mean over further seeds; None where there are none."""
    if not any(r.measurement is not None for r in trial.repeats):
        return None
    for objective in (*run.objectives(run.targets[0]), *run.limits):
        if objective.name == metric:
            return final(trial, objective).to_json()
    return None


def exported_program(
    model: Deployed, bench: Workbench, platform: str
) -> tuple[jax_export.Exported, str]:
    """The exported program, for any batch size (named "batch" in the shapes).

    It is lowered for the CPU too, so that it can be verified where its device is not. Devices that
    XLA does not compile for (ARM through IREE, a designed accelerator) take the CPU's StableHLO.
    """
    platforms = ("cpu", platform) if platform in ("cuda", "tpu") else ("cpu",)
    shapes = deployed_shapes(model.recipe, model.sites, model.params, model.state)
    example = bench.batch_shape(1)
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype)
    make = jax_export.export(deployed_program(model), platforms=platforms)
    with _without_locations():
        return make(shapes, inputs), "batch"


@contextmanager
def _without_locations() -> Iterator[None]:
    """Keep this machine's paths out of a program, and have equal programs in equal bytes."""
    setting = "jax_traceback_in_locations_limit"
    before = jax.config.values[setting]
    jax.config.update(setting, 0)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _with_error(value: float, error: float | None, unit: str) -> str:
    """A value, one standard error where it is known, and the unit."""
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.2g}") + (unit and f" {unit}")


def _card(manifest: Mapping[str, Any]) -> str:
    """A model card in Markdown (Mitchell et al., 2019, arXiv:1810.03993)."""
    test, mean = manifest["test"], manifest["final"]
    metric = in_markdown(test["objective"])
    rows = [
        f"| {metric} (test split, {test['examples']} examples) "
        f"| {_with_error(test['value'], test['standard_error'], in_markdown(test['unit']))} "
        "| measured, through the exported program |"
    ]
    if mean is not None:
        error = mean["detail"]["standard_error"]
        rows.append(
            f"| {metric} (validation split, mean over {len(mean['detail']['seeds'])} further "
            f"seeds) | {_with_error(mean['value'], error, in_markdown(mean['unit']))} | measured |"
        )
    for m in manifest["measurements"]:
        chosen = ", by which the search chose it" if mean is not None else ""
        split = f" ({m['detail']['split']} split{chosen})" if "split" in m.get("detail", {}) else ""
        batch = m.get("detail", {}).get("batch")
        batch = f" (batch {batch})" if batch else ""
        target = f" on {in_markdown(m['target'])}" if "target" in m else ""
        unit = f" {in_markdown(m['unit'])}" if m["unit"] else ""
        spread = f" ± {m['spread']:g}" if "spread" in m else ""
        name = in_markdown(m["objective"])
        rows.append(
            f"| {name}{split}{target}{batch} | {m['value']:.6g}{spread}{unit} | {m['provenance']} |"
        )
    choices = "\n".join(
        f"| {in_markdown(name)} | {in_markdown(value)} |"
        for name, value in manifest["candidate"].items()
    )
    shape = ", ".join(map(str, manifest["program"]["inputs"]))
    table = "\n".join(rows)
    return textwrap.dedent(
        """\
        # {task}, trial {trial}, for {target}

        A model that paretax {version} found, trained from seed {seed}.

        ## Figures

        | figure | value | how it was obtained |
        | --- | --- | --- |
        {table}

        Latency was taken on {processor}. Peak memory and size count what this bundle holds.

        ## What was done, in order

        {steps}

        ## What was touched

        Bytes are those of the dense model's parameters.

        {coverage}

        ## Configuration

        | parameter | value |
        | --- | --- |
        {choices}

        ## Use

        ```python
        from pathlib import Path
        from paretax.results import load_bundle

        model = load_bundle(Path("THIS_FOLDER"))  # checks every file against its checksum
        outputs = model(inputs)  # inputs: {dtype} ({shape})
        ```

        `paretax verify` on this folder runs the test split through `{program}` and compares.

        ## Limits

        The figures hold for the data that the task names, and for inputs preprocessed as the task
        does. The test split was not used in the search, but choosing among several fronts by it
        would make it part of one.
        """
    ).format(
        task=in_markdown(manifest["task"]),
        trial=manifest["trial"],
        target=in_markdown(manifest["target"]),
        version=manifest["versions"].get("paretax", ""),
        seed=manifest["seed"],
        table=table,
        processor=in_markdown(manifest["measured_on"]),
        choices=choices,
        coverage=card_section(manifest["coverage"]),
        steps="\n".join(f"{i}. {in_markdown(step)}" for i, step in enumerate(manifest["steps"], 1)),
        dtype=manifest["program"]["dtype"],
        shape=shape,
        program=files.PROGRAM,
    )
