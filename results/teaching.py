"""Teachers: trained by paretax, brought as a checkpoint, or as an exported program.

A teacher's outputs over the training split are computed once, and kept under a hash of everything
that they depend on: in the run's folder, and in a cache that all runs of a user share
(`$PARETAX_CACHE`, or else `paretax` in the user's cache folder).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from paretax.errors import UsageError, users_code
from paretax.evaluators import AccuracyEvaluator, Lesson, Workbench
from paretax.evaluators.accuracy import in_chunks
from paretax.evaluators.graph import Description, describe
from paretax.evaluators.lanes import DivergedError
from paretax.evaluators.runtime import cache_folder, versions
from paretax.evaluators.scoring import metric_of, widened
from paretax.results.bundle import load_bundle
from paretax.results.checkpoints import load_checkpoint
from paretax.results.manifest import checksum
from paretax.results.releases import read_program
from paretax.spaces import SETTINGS, check_space, parse_space, training
from paretax.spaces.dimensions import choose
from paretax.tasks.outputs import outputs_of

LESSON = "teacher.safetensors"
"""Name of the file of a run that holds what its teacher says."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Where a teacher comes from.

    Args:
        candidate: the configuration of a model of the task, which is trained from `seed`, unless
            its weights are brought.
        seed: of its training.
        checkpoint: where its weights are.
        program: a bundle, or a file that `jax.export` wrote, which takes the task's inputs.
    """

    candidate: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    checkpoint: Path | None = None
    program: Path | None = None

    @property
    def words(self) -> str:
        """What it is."""
        if self.program is not None:
            return f"the program {self.program.name}"
        made = json.dumps(dict(self.candidate), sort_keys=True)
        where = "" if self.checkpoint is None else f" of {self.checkpoint.name}"
        return f"the model{where} {made}"


def parse_teacher(plain: Mapping[str, Any], folders: Sequence[Path]) -> Teacher:
    """A teacher from a config.

    Args:
        plain: the fields of `Teacher`; paths are relative to one of the folders.
        folders: beside the config, and the current one.

    Raises:
        UsageError: a file is not there, or the fields do not go together.
    """
    if plain.get("program") and (plain.get("checkpoint") or plain.get("candidate")):
        raise UsageError("a teacher is a program or a candidate, and both are given: leave one out")
    if not plain.get("program") and plain.get("candidate") is None:
        raise UsageError("a teacher needs `candidate` (a model's configuration) or `program`")
    return Teacher(
        candidate=dict(plain.get("candidate") or {}),
        seed=int(plain.get("seed") or 0),
        checkpoint=_locate(plain.get("checkpoint"), folders),
        program=_locate(plain.get("program"), folders),
    )


def _locate(path: str | None, folders: Sequence[Path]) -> Path | None:
    if path is None:
        return None
    for folder in folders:
        if (folder / path).exists():
            return folder / path
    raise UsageError(f"the teacher {path!r} is not there: looked in {', '.join(map(str, folders))}")


def check_teacher(bench: Workbench, teacher: Teacher, outputs: tuple[int, ...]) -> None:
    """Refuse a teacher that cannot teach, before anything is trained.

    Args:
        bench: the task.
        teacher: of its students.
        outputs: shape of a student's outputs for one example.

    Raises:
        UsageError: its outputs have another shape, or it does not take the task's inputs.
    """
    if teacher.program is not None:
        found = _program(teacher.program, bench.batch_shape(1))[1]
    else:
        if teacher.candidate:  # without it the model is that of the task's defaults
            space = parse_space(dict(teacher.candidate))
            check_space(space, SETTINGS, bench.task.defaults, bench.task.name)
        if teacher.candidate.get("distill"):
            raise UsageError("a teacher must not be distilled itself: leave `distill` out of it")
        with users_code(f"the teacher {json.dumps(dict(teacher.candidate))}"):
            found = tuple(bench.prepared(teacher.candidate).outputs.shape[1:])
            model = bench.deployed(teacher.candidate)
        if teacher.checkpoint is None:
            bench.check_training(teacher.candidate)
        else:
            load_checkpoint(teacher.checkpoint, {**model.params, **_own_state(bench, teacher)})
    if found != outputs:
        raise UsageError(
            f"a teacher must have outputs of its student's shape {outputs}, and "
            f"{teacher.words} has {found}: the classes must be the same"
        )


def make_lesson(bench: Workbench, teacher: Teacher) -> Lesson:
    """The teacher's outputs over the training split, kept ones where there are any.

    Args:
        bench: the task.
        teacher: its teacher.

    Raises:
        UsageError: the teacher's training failed, or its program does.
    """
    key, whole = lesson_key(bench, teacher)
    place = cache_folder("teachers") / f"{key}.safetensors"
    kept = _load(place, key) if whole else None
    if kept is not None:
        return kept
    lesson = _teach(bench, teacher, key)
    if whole:
        with suppress(OSError):  # a cache that cannot be written only saves nothing
            _save(place, lesson)
    return lesson


def keep_lesson(folder: Path, lesson: Lesson) -> str:
    """Keep a lesson with a run; one that is there stays.

    Returns:
        The SHA-256 of the file.
    """
    place = folder / LESSON
    if not place.exists():
        _save(place, lesson)
    return checksum(place)


def run_lesson(
    bench: Workbench,
    teacher: Teacher,
    folder: Path,
    taught: str | None,
    written: str | None = None,
) -> Lesson:
    """The lesson that a run's candidates had.

    Args:
        bench: the task.
        teacher: the run's.
        folder: of the run.
        taught: the key that the journal has; None where it has none yet.
        written: the SHA-256 of the file, as the journal has it; None where it has none.

    Raises:
        UsageError: it is not kept, and today's would be another, or the file was changed.
    """
    place = folder / LESSON
    if written is not None and place.is_file() and checksum(place) != written:
        raise UsageError(
            f"{str(place)!r} was changed since it was written: its SHA-256 is not the one in the "
            "journal; bring it back, or delete it, and the teacher is asked again"
        )
    kept = None if taught is None else _load(folder / LESSON, taught)
    if kept is not None:
        return kept
    lesson = make_lesson(bench, teacher)
    if taught is not None and lesson.key != taught:
        raise UsageError(
            f"the run {str(folder)!r} had another teacher: its data, its file or a version has "
            f"changed since, and {LESSON} is not there any more; bring back what was changed"
        )
    return lesson


def _teach(bench: Workbench, teacher: Teacher, key: str) -> Lesson:
    train, validation = bench.data.train, bench.data.validation
    inner = None
    if teacher.program is not None:
        call, _ = _program(teacher.program, bench.batch_shape(1))
        outputs, checked = call(train.inputs), call(validation.inputs)
    else:
        evaluator = AccuracyEvaluator(bench)
        if teacher.checkpoint is not None:
            model = bench.deployed(teacher.candidate)
            own = {**model.params, **_own_state(bench, teacher)}
            weights: Any = load_checkpoint(teacher.checkpoint, own)
            pipeline = bench.features(teacher.candidate).pipeline
            weights |= {} if pipeline is None else dict(pipeline.arrays)
        else:
            try:
                weights = evaluator.train(teacher.candidate, teacher.seed)
            except DivergedError as error:
                raise UsageError(
                    f"the teacher's training diverged ({error}): lower its learning_rate"
                ) from error
        outputs = evaluator.outputs(teacher.candidate, weights, train.inputs)
        checked = evaluator.outputs(teacher.candidate, weights, validation.inputs)
        inner = evaluator.inner(teacher.candidate, weights, train.inputs)
    _check_outputs(bench, teacher, outputs, checked)
    score = metric_of(bench.task, checked, validation.targets)
    return Lesson(
        key=key, teacher=teacher.words, outputs=widened(outputs), inner=inner, score=score
    )


def _check_outputs(bench: Workbench, teacher: Teacher, *outputs: np.ndarray) -> None:
    """Refuse outputs that no student can match; classes may be ruled out by -inf."""
    ruled_out = outputs_of(bench.task) == "classes"
    for found in outputs:
        if not (np.isfinite(found) | (ruled_out & np.isneginf(found))).all():
            raise UsageError(f"{teacher.words} has outputs that are not finite: it cannot teach")


def _own_state(bench: Workbench, teacher: Teacher) -> dict[str, jax.ShapeDtypeStruct]:
    """The state of the model itself, without what preprocessing was fitted to."""
    return dict(bench.prepared(teacher.candidate).state)


def _program(path: Path, inputs: jax.ShapeDtypeStruct) -> tuple[Any, tuple[int, ...]]:
    """What computes outputs of a teacher's program, and their shape for one example.

    Raises:
        UsageError: it does not run here, or does not take any number of such inputs.
    """
    call: Any
    if path.is_dir():
        call = load_bundle(path)
        exported = call.program
    else:
        try:
            exported = read_program(path.read_bytes(), str(path), {})
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"{str(path)!r} is neither a bundle nor a program that jax.export wrote: {error}"
            ) from error
        if len(exported.in_avals) != 1 or len(exported.out_avals) != 1:
            raise UsageError(
                f"a teacher's program must take one array, the inputs, and give one, the outputs; "
                f"{str(path)!r} takes {len(exported.in_avals)} and gives {len(exported.out_avals)}"
            )
        call = partial(in_chunks, jax.jit(exported.call))
    taken, here = exported.in_avals[-1], jax.default_backend()
    if here not in exported.platforms:
        raise UsageError(
            f"the teacher {str(path)!r} was exported for {', '.join(exported.platforms)}, and this "
            f"machine computes on {here}: export it for {here} as well"
        )
    if tuple(taken.shape[1:]) != inputs.shape[1:] or taken.dtype != inputs.dtype:
        raise UsageError(
            f"a teacher's program must take the task's inputs, {inputs.dtype} with examples of "
            f"shape {inputs.shape[1:]}, and {str(path)!r} takes {taken.dtype} of {taken.shape[1:]}"
        )
    if isinstance(taken.shape[0], int):
        raise UsageError(
            f"a teacher's program must take any number of examples, and {str(path)!r} takes "
            f"{taken.shape[0]}: export it with a symbolic batch (jax.export.symbolic_shape)"
        )
    return call, tuple(exported.out_avals[0].shape[1:])


def lesson_key(bench: Workbench, teacher: Teacher) -> tuple[str, bool]:
    """A hash of the training examples, the teacher, its model's program, and the versions.

    Returns:
        It, and whether it holds everything: a model may do what cannot be seen (a callback), and
        then no other run's outputs stand for its.
    """
    digest = hashlib.sha256(f"{bench.task.name} {bench.task.metric.name}".encode())
    digest.update(str(outputs_of(bench.task)).encode())
    whole = True
    for split in (bench.data.train, bench.data.validation):
        for array in (split.inputs, split.targets):
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(np.asarray(array, order="C").tobytes())
    if teacher.program is not None:
        source = teacher.program
        digest.update(checksum(source / "manifest.json" if source.is_dir() else source).encode())
    else:
        for described in _programs(bench, teacher):
            digest.update(described.words.encode())
            whole = whole and not described.unseen
        made = [bench.config(teacher.candidate), dict(teacher.candidate), teacher.seed]
        digest.update(json.dumps(made, sort_keys=True).encode())
        if teacher.checkpoint is not None:
            for file in sorted(p for p in [teacher.checkpoint, *teacher.checkpoint.rglob("*")]):
                if file.is_file():
                    digest.update(checksum(file).encode())
    digest.update(json.dumps(versions(), sort_keys=True).encode())
    return digest.hexdigest()[:32], whole


def _programs(bench: Workbench, teacher: Teacher) -> Iterator[Description]:
    """All that a teacher's model and the task's loss do, from the teacher's own numbers."""
    prepared, model = bench.prepared(teacher.candidate), bench.model(teacher.candidate)
    key = jax.random.key(0)
    arrays = dict(model.params), dict(model.state)
    size = int(choose(training.SETTINGS, teacher.candidate)["batch_size"])
    targets = bench.data.train.targets
    batch = jax.ShapeDtypeStruct((2, *targets.shape[1:]), targets.dtype)
    for function, given in (
        (model.init, (key,)),
        (model.apply, (*arrays, prepared.features.shape(size), key)),
        (model.predict, (*arrays, prepared.features.shape(2))),
        (bench.task.loss, (prepared.outputs, batch)),
    ):
        closed, results = jax.make_jaxpr(function, return_shape=True)(*given)
        trees = jax.tree.structure(given), jax.tree.structure(results)
        yield Description(words=f"{trees}")
        yield describe(closed)


def _save(path: Path, lesson: Lesson) -> None:
    """Written beside and moved, so that a file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"outputs": np.asarray(lesson.outputs, order="C")}
    if lesson.inner is not None:
        arrays["inner"] = np.asarray(lesson.inner, order="C")
    about = {"key": lesson.key, "teacher": lesson.teacher, "score": repr(lesson.score)}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(arrays, draft, metadata=about)
    draft.replace(path)


def _load(path: Path, key: str) -> Lesson | None:
    """A kept lesson; None where there is none of that key."""
    if not path.is_file():
        return None
    try:
        opened = safe_open(path, framework="numpy")
    except (OSError, SafetensorError):  # of a cache: as if it were not there
        return None
    with opened as file:
        about = file.metadata() or {}
        if about.get("key") != key:
            return None
        names = set(file.keys())
        inner = file.get_tensor("inner") if "inner" in names else None
        return Lesson(
            key=key,
            teacher=about["teacher"],
            outputs=file.get_tensor("outputs"),
            inner=inner,
            score=float(about["score"]),
        )
