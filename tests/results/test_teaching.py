"""Teachers from every source, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as linen
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax import export as jax_export
from safetensors.numpy import save_file

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.results import teaching
from paretax.results.checkpoints import load_checkpoint
from paretax.results.teaching import (
    Teacher,
    check_teacher,
    keep_lesson,
    make_lesson,
    parse_teacher,
    run_lesson,
)
from paretax.tasks import Data, Split, classification, load_task

SMALL = {"width": 6, "depth": 1, "epochs": 3, "batch_size": 64, "learning_rate": 0.02}


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> Any:
        x = linen.Dense(5, name="hidden")(x)
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        return linen.Dense(3, name="out")(linen.relu(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.List([nnx.Linear(4, 5, rngs=rngs)])
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        return self.out(nnx.relu(self.norm(self.hidden[0](x))))


def load() -> Data:
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        x = rng.normal(size=(n, 4)).astype(np.float32)
        return Split(x, (np.arange(n) % 3).astype(np.int32))

    return Data(train=split(40), validation=split(12), test=split(12))


def bench_of(build: Any) -> Workbench:
    return Workbench(classification("own", load=load, build=build, defaults={"size": 1}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(load_task("breast_cancer", []))


def test_a_trained_teacher_says_what_its_model_computes(bench: Workbench) -> None:
    lesson = make_lesson(bench, Teacher(candidate=SMALL, seed=3))
    evaluator = AccuracyEvaluator(bench)
    weights = evaluator.train(SMALL, 3)
    outputs = evaluator.outputs(SMALL, weights, bench.data.train.inputs)
    np.testing.assert_array_equal(lesson.outputs, outputs)
    assert lesson.score == evaluator.score(SMALL, weights, bench.data.validation)
    assert lesson.inner is not None
    assert lesson.inner.shape == (len(bench.data.train), 6)
    last = lesson.inner @ np.asarray(weights["out/kernel"]) + np.asarray(weights["out/bias"])
    np.testing.assert_allclose(last, lesson.outputs, rtol=1e-5, atol=1e-5)


def never(*_: object) -> None:
    raise AssertionError("trained again")


def test_it_is_trained_once(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher(candidate=SMALL)
    first = make_lesson(bench, teacher)
    monkeypatch.setattr(teaching, "_teach", never)
    again = make_lesson(bench, teacher)
    np.testing.assert_array_equal(again.outputs, first.outputs)
    assert (again.key, again.score, again.teacher) == (first.key, first.score, first.teacher)
    for changed in (
        Teacher(candidate=SMALL, seed=1),
        Teacher(candidate=SMALL | {"width": 7}),
        Teacher(candidate=SMALL | {"epochs": 4}),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            make_lesson(bench, changed)


def test_a_run_keeps_the_lesson_that_its_candidates_had(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, folder = Teacher(candidate=SMALL), tmp_path / "run"
    first = make_lesson(bench, teacher)
    keep_lesson(folder, first)
    before = (folder / "teacher.safetensors").read_bytes()
    other = make_lesson(bench, Teacher(candidate=SMALL, seed=1))
    keep_lesson(folder, other)
    assert (folder / "teacher.safetensors").read_bytes() == before
    monkeypatch.setattr(teaching, "_teach", never)
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "empty"))
    kept = run_lesson(bench, Teacher(candidate=SMALL | {"epochs": 9}), folder, first.key)
    np.testing.assert_array_equal(kept.outputs, first.outputs)
    monkeypatch.undo()
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="had another teacher"):
        run_lesson(bench, Teacher(candidate=SMALL, seed=1), tmp_path / "moved", first.key)


def test_a_cache_that_is_broken_or_closed_only_costs_time(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher(candidate=SMALL)
    first = make_lesson(bench, teacher)
    (file,) = (tmp_path / "cache" / "teachers").iterdir()
    file.write_bytes(file.read_bytes()[:7])
    np.testing.assert_array_equal(make_lesson(bench, teacher).outputs, first.outputs)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "a file"))
    np.testing.assert_array_equal(make_lesson(bench, teacher).outputs, first.outputs)


@pytest.mark.parametrize("part", ["loss", "model"])
def test_arrays_that_a_task_holds_count(part: str) -> None:
    """Class weights, pretrained weights: another value is another teacher."""

    def key_with(value: float) -> str:
        held = jnp.full(3, value)
        scale, weights = (held, jnp.ones(3)) if part == "model" else (jnp.ones(3), held)

        class Net(linen.Module):
            @linen.compact
            def __call__(self, x: jax.Array) -> Any:
                return linen.Dense(3)(x) * scale

        task = classification("own", load=load, build=lambda config: Net(), defaults={})
        squares = lambda o, t: jnp.mean((o - jax.nn.one_hot(t, 3)) ** 2 * weights)  # noqa: E731
        bench = Workbench(replace(task, loss_function=squares))
        return make_lesson(bench, Teacher(candidate={"epochs": 1, "batch_size": 8})).key

    assert key_with(1.0) == key_with(1.0)
    assert key_with(1.0) != key_with(2.0)


def test_a_teacher_that_diverges(bench: Workbench) -> None:
    wild = SMALL | {"learning_rate": 1e30, "optimizer": "sgd"}
    with pytest.raises(UsageError, match="teacher's training diverged"):
        make_lesson(bench, Teacher(candidate=wild))


def test_a_batch_that_is_larger_than_the_data(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="batch_size must not exceed the 341 training examples"):
        check_teacher(bench, Teacher(candidate=SMALL | {"batch_size": 400}), (2,))


def test_another_task_s_data_is_another_lesson() -> None:
    def other() -> Data:
        data = load()
        return Data(
            train=Split(data.train.inputs + 1, data.train.targets),
            validation=data.validation,
            test=data.test,
        )

    build = lambda config, rngs: NnxNet(rngs)  # noqa: E731
    teacher = Teacher(candidate={"epochs": 1, "batch_size": 8})
    changed = classification("own", load=other, build=build, defaults={"size": 1})
    keys = {make_lesson(b, teacher).key for b in (bench_of(build), Workbench(changed))}
    assert len(keys) == 2


def nnx_checkpoint(path: Path, kind: str) -> tuple[Workbench, Any]:
    model = NnxNet(nnx.Rngs(7))
    model.norm.mean.set_value(jnp.arange(5.0))
    model.eval()  # type: ignore[no-untyped-call]
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    if kind == "orbax":
        with ocp.StandardCheckpointer() as saver:
            saver.save(path.resolve(), state)
    else:
        plain = nnx.to_pure_dict(state)
        tree = jax.tree_util.tree_flatten_with_path(plain)[0]
        flat = {"/".join(str(k.key) for k in keys): np.asarray(leaf) for keys, leaf in tree}
        save_file(flat, path)
    return bench_of(lambda config, rngs: NnxNet(rngs)), model


@pytest.mark.parametrize("kind", ["orbax", "safetensors"])
def test_an_nnx_checkpoint_teaches(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("state" if kind == "orbax" else "state.safetensors")
    bench, model = nnx_checkpoint(path, kind)
    lesson = make_lesson(bench, Teacher(candidate={"size": 1}, checkpoint=path))
    np.testing.assert_allclose(lesson.outputs, model(bench.data.train.inputs), atol=1e-5)


@pytest.mark.parametrize("kind", ["orbax", "msgpack"])
def test_a_linen_checkpoint_teaches(kind: str, tmp_path: Path) -> None:
    bench = bench_of(lambda config: LinenNet())
    model, inputs = LinenNet(), jnp.asarray(bench.data.train.inputs)
    variables = model.init(jax.random.key(5), inputs, train=False)
    variables["batch_stats"]["norm"]["mean"] = jnp.arange(5.0)
    path = tmp_path / ("state" if kind == "orbax" else "state.msgpack")
    if kind == "orbax":
        with ocp.StandardCheckpointer() as saver:
            saver.save(path.resolve(), variables)
    else:
        path.write_bytes(flax.serialization.to_bytes(variables))
    lesson = make_lesson(bench, Teacher(candidate={"size": 1}, checkpoint=path))
    expected: Any = model.apply(variables, inputs, train=False)
    np.testing.assert_allclose(lesson.outputs, expected, atol=1e-5)


def test_an_exported_program_teaches(tmp_path: Path) -> None:
    bench = bench_of(lambda config, rngs: NnxNet(rngs))
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    (batch,) = jax_export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    program = jax_export.export(jax.jit(lambda x: x @ matrix))(shape)
    (tmp_path / "teacher.bin").write_bytes(program.serialize())
    teacher = Teacher(program=tmp_path / "teacher.bin")
    check_teacher(bench, teacher, (3,))
    lesson = make_lesson(bench, teacher)
    np.testing.assert_allclose(lesson.outputs, bench.data.train.inputs @ matrix, rtol=1e-5)
    assert lesson.inner is None
    with pytest.raises(UsageError, match=r"\(2,\).*teacher.bin has \(3,\).*classes"):
        check_teacher(bench, teacher, (2,))


def test_what_is_no_teacher(tmp_path: Path) -> None:
    bench = bench_of(lambda config, rngs: NnxNet(rngs))
    (tmp_path / "noise").write_bytes(b"\x00\x01\x02")
    with pytest.raises(UsageError, match="neither a bundle nor a program"):
        check_teacher(bench, Teacher(program=tmp_path / "noise"), (3,))
    shape = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    two = jax_export.export(jax.jit(lambda x, y: x + y))(shape, shape)
    (tmp_path / "two").write_bytes(two.serialize())
    with pytest.raises(UsageError, match="takes 2 and gives 1"):
        check_teacher(bench, Teacher(program=tmp_path / "two"), (3,))
    (batch,) = jax_export.symbolic_shape("b")
    any_number = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    nan = jax_export.export(jax.jit(lambda x: x[:, :3] * jnp.nan))(any_number)
    (tmp_path / "nan").write_bytes(nan.serialize())
    with pytest.raises(UsageError, match="not finite"):
        make_lesson(bench, Teacher(program=tmp_path / "nan"))
    fixed = jax_export.export(jax.jit(lambda x: x[:, :3]))(shape)
    wide = jax_export.export(jax.jit(lambda x: x[:, :3]))(
        jax.ShapeDtypeStruct((batch, 9), jnp.float32)
    )
    foreign = jax_export.export(jax.jit(lambda x: x[:, :3]), platforms=("cuda",))(any_number)
    for program, words in (
        (fixed, "symbolic batch"),
        (wide, r"shape \(4,\).*\(9,\)"),
        (foreign, "exported for cuda"),
    ):
        (tmp_path / "other").write_bytes(program.serialize())
        with pytest.raises(UsageError, match=words):
            check_teacher(bench, Teacher(program=tmp_path / "other"), (3,))


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    expected = {"kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32)}
    with pytest.raises(UsageError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing", expected)
    (tmp_path / "noise.msgpack").write_bytes(b"\xc1")
    with pytest.raises(UsageError, match="no checkpoint that can be read"):
        load_checkpoint(tmp_path / "noise.msgpack", expected)
    save_file({"kernel": np.zeros((4, 2), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"'kernel' of shape \(4, 3\), got \(4, 2\)"):
        load_checkpoint(tmp_path / "other.safetensors", expected)


def test_paths_are_looked_for_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "teacher.bin").write_bytes(b"x")
    found = parse_teacher({"program": "teacher.bin"}, [tmp_path / "a", tmp_path / "b"])
    assert found.program == tmp_path / "b" / "teacher.bin"
    with pytest.raises(UsageError, match=r"'nowhere' is not there: looked in .*a, .*b"):
        parse_teacher({"program": "nowhere"}, [tmp_path / "a", tmp_path / "b"])
