"""Real compilers, of devices that are not there: what they are asked, answer, and keep."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from paretax.evaluators.compilers import (
    CompiledProgram,
    CompileError,
    Compiler,
    MissingExtraError,
    PortableProgram,
    Store,
    close_services,
    service,
    targets,
)
from paretax.evaluators.compilers.iree import compile_iree
from paretax.hardware_profiles import load_profile, profile_names

TARGETS = ("cpu", "tpu-v5e", "a100", "aarch64")
"""One of each compiler."""


def shape(*lengths: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(lengths, dtype)


def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A convolution of 16 -> 32 channels on 8 x 8 pixels, then a dense layer."""
    kind: Any = jnp.int32 if x.dtype == jnp.int8 else None
    x = jax.lax.conv_general_dilated(
        x,
        weights["filter"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=kind,
    )
    x = x.astype(jnp.float32)  # XLA:GPU refuses a convolution that gives int32
    x = jnp.maximum(x, 0).astype(weights["dense"].dtype).reshape(x.shape[0], -1)
    return jnp.matmul(x, weights["dense"], preferred_element_type=kind)


def program(dtype: Any = jnp.float32) -> PortableProgram:
    weights = {
        "filter": shape(3, 3, 16, 32, dtype=dtype),
        "dense": shape(8 * 8 * 32, 64, dtype=dtype),
    }
    return PortableProgram(network, (weights, shape(4, 8, 8, 16, dtype=dtype)))


FLOPS = 2 * 4 * 64 * 32 * 144 + 2 * 4 * 2048 * 64
ARGUMENTS = 9 * 16 * 32 + 2048 * 64 + 4 * 64 * 16


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(Store(tmp_path_factory.mktemp("compiled")))


@pytest.fixture(scope="module")
def made(compiler: Compiler) -> Callable[[str, Any], CompiledProgram]:
    return lambda name, dtype: compiler.compile(load_profile(name), program(dtype), True)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8], ids=["f32", "bf16", "s8"])
@pytest.mark.parametrize("name", TARGETS)
def test_what_a_compiler_makes(
    made: Callable[[str, Any], CompiledProgram], name: str, dtype: Any
) -> None:
    found = made(name, dtype)
    products = sum(k.count * p.flops for k in found.kernels for p in k.products)
    # A compiler may pad channels, or compute a convolution in another form; it does not do less.
    assert 0.99 * FLOPS <= products <= 1.35 * FLOPS
    size = jnp.dtype(dtype).itemsize
    assert found.argument_bytes >= ARGUMENTS * size
    assert found.arguments == 3
    assert found.peak_memory >= found.argument_bytes + found.output_bytes
    assert found.output_bytes >= 4 * 64 * min(size, 4)
    assert found.seconds > 0
    assert found.text
    assert {k.count for k in found.kernels} == {1}
    assert CompiledProgram.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("name", TARGETS)
def test_narrow_numbers_move_fewer_bytes(
    made: Callable[[str, Any], CompiledProgram], name: str
) -> None:
    f32, s8 = (made(name, dtype).argument_bytes for dtype in (jnp.float32, jnp.int8))
    assert s8 < 0.6 * f32  # tiles of a TPU pad small arrays


@pytest.mark.parametrize("name", ["tpu-v5e", "a100"])
def test_accelerators_multiply_what_they_are_given(
    made: Callable[[str, Any], CompiledProgram], name: str
) -> None:
    dtypes = {k.dtype for k in made(name, jnp.int8).kernels if k.products}
    assert "int8" in dtypes


def test_a_tpu_compiler_estimates(made: Callable[[str, Any], CompiledProgram]) -> None:
    found = made("tpu-v5e", jnp.bfloat16)
    assert found.estimate is not None
    assert sum(k.estimate or 0 for k in found.kernels) > 0
    assert made("a100", jnp.bfloat16).estimate is None


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_a_compiler(compiler: Compiler, name: str) -> None:
    small = PortableProgram(lambda x, w: jax.nn.relu(x @ w), (shape(4, 32), shape(32, 8)))
    found = compiler.compile(load_profile(name), small)
    assert sum(p.flops for k in found.kernels for p in k.products) >= 2 * 4 * 32 * 8


def varied() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Programs that use much of the language."""
    x, square = shape(8, 16), shape(16, 16)
    return {
        "sort": (lambda a: jnp.sort(a, axis=0), (x,)),
        "top-k": (lambda a: jax.lax.top_k(a, 3), (x,)),
        "argmax": (lambda a: jnp.argmax(a, 1), (x,)),
        "gather": (lambda a, i: a[i], (x, shape(5, dtype=jnp.int32))),
        "scatter": (lambda a, i: a.at[i].add(1.0), (x, shape(5, dtype=jnp.int32))),
        "cumsum": (lambda a: jnp.cumsum(a, 1), (x,)),
        "softmax": (lambda a: jax.nn.softmax(a @ a.T), (x,)),
        "einsum": (lambda a: jnp.einsum("abcd,abed->abce", a, a), (shape(2, 3, 4, 5),)),
        "scan": (
            lambda a, w: jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), c.sum()), a, None, 7),
            (x, square),
        ),
        "while": (lambda a: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, a), (x,)),
        "cond": (lambda a: jax.lax.cond(a.sum() > 0, lambda b: b @ b.T, lambda b: b @ b.T * 2, a),
                 (x,)),
        "pool": (
            lambda a: jax.lax.reduce_window(a, -jnp.inf, jax.lax.max, (2, 2), (2, 2), "SAME"),
            (x,),
        ),
        "random": (lambda a: a + jax.random.normal(jax.random.key(0), a.shape), (x,)),
        "unused": (lambda a, b: a * 2, (x, square)),
        "transposed convolution": (
            lambda a, w: jax.lax.conv_transpose(a, w, (2, 2), "SAME"),
            (shape(1, 4, 4, 3), shape(3, 3, 3, 5)),
        ),
        "complex": (lambda a: jnp.abs(a * (1 + 2j)), (x,)),
        "nothing": (lambda a: a, (x,)),
    }  # fmt: skip


@pytest.mark.parametrize("case", varied())
@pytest.mark.parametrize("name", TARGETS)
def test_much_of_the_language_is_understood(compiler: Compiler, name: str, case: str) -> None:
    function, args = varied()[case]
    found = compiler.compile(load_profile(name), PortableProgram(function, args))
    for kernel in found.kernels:
        assert kernel.bytes >= 0
        assert kernel.flops >= 0
        assert math.isfinite(kernel.estimate or 0.0)


def test_loops_count_their_turns(compiler: Compiler) -> None:
    function, args = varied()["scan"]
    for name in TARGETS:
        found = compiler.compile(load_profile(name), PortableProgram(function, args))
        flops = sum(k.count * p.flops for k in found.kernels for p in k.products)
        assert flops == pytest.approx(7 * 2 * 8 * 16 * 16, rel=0.01)


def test_a_loop_reads_a_slice_of_a_stack_each_turn(compiler: Compiler) -> None:
    """By hand: 5 x 4 turns, each with one of 4 matrices, and an inner loop without a stack."""

    def nested(w: jax.Array, x: jax.Array) -> jax.Array:
        def outer(state: jax.Array, one: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.fori_loop(0, 5, lambda _, s: jnp.tanh(s @ one), state), None

        last, _ = jax.lax.scan(outer, x, w)
        return last

    args = shape(4, 64, 64), shape(8, 64)
    found = compiler.compile(load_profile("aarch64"), PortableProgram(nested, args))
    flops = sum(k.count * p.flops for k in found.kernels for p in k.products)
    assert flops == sum(p.flops for p in found.products) == 20 * 2 * 8 * 64 * 64
    moved = sum(k.count * k.bytes_read for k in found.kernels if k.products)
    assert moved <= 1.1 * 20 * 4 * (64 * 64 + 8 * 64)


# What is kept -------------------------------------------------------------------------------------


def small(factor: float = 2.0) -> PortableProgram:
    return PortableProgram(lambda x: jnp.tanh(x) * factor, (shape(3, 5),))


def test_equal_graphs_compile_once(tmp_path: Path) -> None:
    def first(x: jax.Array) -> jax.Array:
        return jnp.tanh(x) * 2.0

    compiler = Compiler(Store(tmp_path))
    cpu = load_profile("cpu")
    one = compiler.compile(cpu, PortableProgram(first, (shape(3, 5),)))
    assert compiler.compile(cpu, small()) == one
    assert compiler.compilations == 1
    compiler.compile(cpu, small(3.0))
    assert compiler.compilations == 2
    # Another process of this user finds both on the disk; devices with one compiler share them.
    other = Compiler(Store(tmp_path))
    assert other.compile(cpu, small()) == one
    assert other.compile(load_profile("systolic"), small()) == one
    assert other.compilations == 0


def test_one_tpu_is_not_another(compiler: Compiler) -> None:
    v5e, v6e = (compiler.compile(load_profile(n), program()) for n in ("tpu-v5e", "tpu-v6e"))
    assert v5e.estimate != v6e.estimate


def test_text_is_kept_too(tmp_path: Path) -> None:
    cpu = load_profile("cpu")
    Compiler(Store(tmp_path)).compile(cpu, small())
    again = Compiler(Store(tmp_path))
    assert again.compile(cpu, small()).text == ""
    assert "ENTRY" in again.compile(cpu, small(), with_text=True).text
    assert again.compilations == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"kernels": 3}', b"\xff\xfe", b"null"])
def test_a_damaged_file_is_made_again(tmp_path: Path, content: bytes) -> None:
    cpu = load_profile("cpu")
    one = Compiler(Store(tmp_path)).compile(cpu, small())
    (file,) = tmp_path.rglob("*.json")
    whole = file.read_bytes()
    file.write_bytes(content)
    again = Compiler(Store(tmp_path))
    found = again.compile(cpu, small())
    assert (found.kernels, again.compilations) == (one.kernels, 1)
    assert json.loads(file.read_bytes())["kernels"] == json.loads(whole)["kernels"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    compiler = Compiler(Store(tmp_path / "file" / "below"))
    assert compiler.compile(load_profile("cpu"), small()).kernels


def test_many_at_once(tmp_path: Path) -> None:
    cpu = load_profile("cpu")

    def work(index: int) -> CompiledProgram:
        return Compiler(Store(tmp_path)).compile(cpu, small(float(index % 3)))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, range(12)))
    assert len({f.fingerprint for f in found}) == 3
    assert len(list(tmp_path.rglob("*.json"))) == 3


# Processes ----------------------------------------------------------------------------------------


def test_a_compiler_that_dies_fails_its_program_alone(tmp_path: Path) -> None:
    compiler, tpu = Compiler(Store(tmp_path)), load_profile("tpu-v5e")
    running = service("tpu")
    running.start()
    assert running._process is not None
    os.kill(running._process.pid, signal.SIGSTOP)  # it holds the request until it is killed
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(compiler.compile, tpu, small())
        while not running._lock.locked():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(running._process.pid, signal.SIGKILL)
        with pytest.raises(CompileError, match="the compiler's process ended with -9"):
            waiting.result(timeout=60)
    assert compiler.compile(tpu, small()).kernels


def test_nothing_of_the_compilers_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    close_services()
    close_services()  # twice does no harm
    compiler = Compiler(Store(tmp_path))
    for name in TARGETS:
        compiler.compile(load_profile(name), small(4.0))
    assert capfd.readouterr() == ("", "")


def test_a_program_that_is_refused(tmp_path: Path) -> None:
    """More than a TPU v5e's 16 GiB, in one product."""
    big = PortableProgram(lambda a, b: a @ b, (shape(2**17, 2**15), shape(2**15, 2**15)))
    compiler, profiles = Compiler(Store(tmp_path)), [load_profile("tpu-v5e"), load_profile("cpu")]
    refused, fine = compiler.compile_all(profiles, big)
    assert isinstance(refused, CompileError)
    assert "memory" in str(refused) or "RESOURCE_EXHAUSTED" in str(refused)
    assert "\n" not in str(refused)
    assert isinstance(fine, CompiledProgram)


@pytest.mark.parametrize(
    ("name", "extra"), [("tpu-v5e", "tpu"), ("h100", "cuda"), ("aarch64", "edge")]
)
def test_a_missing_extra_is_named(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch, compiler: Compiler
) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError) as caught:
        compiler.compile(load_profile(name), small())
    message = str(caught.value)
    assert message.startswith(f"target {name!r} needs ")
    assert message.endswith(f"which is not installed: pip install 'paretax[{extra}]'")
    assert "\n" not in message


def test_files_are_for_the_user_alone(tmp_path: Path) -> None:
    Compiler(Store(tmp_path / "kept")).compile(load_profile("cpu"), small())
    folders = [f for f in (tmp_path / "kept").iterdir() if f.is_dir()]
    assert len(folders) == 2  # of programs, and of what is noted of graphs
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (-6, "LLVM ERROR: out of memory\nAllocation failed\n#0 0x00", "crashed (out of memory): a"),
        (-9, "", "crashed (signal 9): a `cpu` without"),
        (1, "x.mlir:1:2: error: no such type\nnote: here\n", "x.mlir:1:2: error: no such type"),
    ],
)
def test_how_irees_compiler_ended(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, told: str
) -> None:
    """Its tool's error has all of its diagnostics."""
    from iree import compiler

    def ends(*given: Any, **named: Any) -> bytes:
        raise compiler.CompilerToolError(
            subprocess.CompletedProcess(["iree-compile"], code, b"", said.encode())
        )

    monkeypatch.setattr(compiler, "compile_str", ends)
    settings = {"triple": "aarch64-none-linux", "cpu": "cortex-x3", "version": "0"}
    with pytest.raises(CompileError) as caught:
        compile_iree("", settings, "program")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_other_code_has_read_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that was kept holds the counts of the code that read it."""
    program = PortableProgram(jnp.dot, (shape(3, 4), shape(4, 5)))

    def compilations() -> int:
        compiler = Compiler(Store(tmp_path))
        compiler.compile(load_profile("xeon-8480"), program)
        return compiler.compilations

    assert [compilations(), compilations()] == [1, 0]
    monkeypatch.setattr(targets, "counting", lambda: "that of another version")
    assert [compilations(), compilations()] == [1, 0]
