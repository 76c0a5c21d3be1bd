"""Bundles that somebody damaged or made up, checksums and all: refused in one line, or right."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from paretax.errors import UsageError
from paretax.results import BrokenBundleError, Run, export_bundle, load_bundle, verify_bundle
from paretax.results import manifest as files
from paretax.results.manifest import checksum, digest
from paretax.results.opening import check_calls

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(searched: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of integers, not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    trial = next(t for t in searched.trials if t.candidate["quantize"] and t.candidate["sparsity"])
    export_bundle(searched, trial, "cpu", folder)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return shutil.copytree(whole, tmp_path / "bundle")


def edit(folder: Path, change: Edit) -> None:
    """Change the manifest, then make the checksums again."""
    manifest = json.loads((folder / files.MANIFEST).read_text("utf-8"))
    manifest["checksums"] = {name: checksum(folder / name) for name in manifest["checksums"]}
    change(manifest)
    (folder / files.MANIFEST).write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["test"].update(value="0.9"), r"test\.value: input should be a valid number"),
        (lambda m: m["test"].update(value=float("nan")), r"test\.value: .* finite number"),
        (lambda m: m["test"].update(examples=-1), r"test\.examples: .* greater than or equal to 0"),
        (lambda m: m["test"].update(objective=["a"]), r"test\.objective: .* valid string"),
        (lambda m: m.update(test=[]), r"manifest's test: "),
        (lambda m: m.update(task={"a": 1}), r"manifest's task: .* valid string"),
        (lambda m: m.update(task="x" * 10_000), r"manifest's task: .* at most 500 characters"),
        (lambda m: m["program"].update(inputs="batch"), r"program\.inputs: .* valid list"),
        (lambda m: m["program"].update(inputs=[]), r"program\.inputs: "),
        (lambda m: m["weights"].update(bytes=True), r"weights\.bytes: .* valid integer"),
        (lambda m: m["weights"].update(layouts=[]), r"weights\.layouts: .* valid dict"),
        (lambda m: m.update(checksums={"model_card.md": 3}), r"checksums\.model_card\.md: "),
        (lambda m: m.update(versions=["jax"]), r"manifest's versions: "),
        (lambda m: m["checksums"].update({"../../etc/passwd": "0" * 64}), "none that a bundle has"),
        (lambda m: m["checksums"].update({"evil.py": "0" * 64}), "none that a bundle has"),
    ],
)
def test_a_value_of_another_kind_is_named(copied: Path, change: Edit, message: str) -> None:
    edit(copied, change)
    for check in (load_bundle, verify_bundle):
        with pytest.raises(BrokenBundleError, match=message) as refused:
            check(copied)
        assert len(str(refused.value)) < 1000


def test_a_manifest_without_end_is_refused(copied: Path) -> None:
    (copied / files.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is not JSON"):
        load_bundle(copied)
    (copied / files.MANIFEST).write_bytes(b" " * 10_000_001)
    with pytest.raises(BrokenBundleError, match=r"10,000,001 bytes, and at most 10,000,000"):
        load_bundle(copied)


@pytest.mark.parametrize("name", [files.CARD, files.WEIGHTS, files.PROGRAM, files.MANIFEST])
def test_a_link_is_no_file_of_a_bundle(copied: Path, name: str, tmp_path: Path) -> None:
    (copied / name).rename(tmp_path / "elsewhere")
    (copied / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BrokenBundleError, match=f"the file {name} is a link"):
        load_bundle(copied)


@pytest.mark.parametrize("kind", ["pipe", "link to a folder", "link to nothing"])
def test_what_else_is_there_is_refused(copied: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(copied / "more")
    else:
        (copied / "more").symlink_to("/" if "folder" in kind else "/nowhere")
    with pytest.raises(BrokenBundleError, match="the file more is not in the manifest"):
        load_bundle(copied)


def test_a_pipe_in_place_of_a_file_does_not_hang(copied: Path) -> None:
    (copied / files.CARD).unlink()
    os.mkfifo(copied / files.CARD)
    with pytest.raises(BrokenBundleError, match="no plain file"):
        load_bundle(copied)


def test_weights_beyond_what_is_said_are_not_read(copied: Path) -> None:
    with (copied / files.WEIGHTS).open("ab") as file:
        file.truncate(10**9)
    with pytest.raises(BrokenBundleError, match=r"1,000,000,000 bytes, and at most"):
        load_bundle(copied)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [files.PROGRAM, files.WEIGHTS])
def test_damage_with_new_checksums_ends_in_one_line(copied: Path, name: str, seed: int) -> None:
    """Where it is read all the same, its digest is another one."""
    before = digest(copied)
    rng = np.random.default_rng(seed)
    content = bytearray((copied / name).read_bytes())
    for _ in range(int(rng.integers(1, 20))):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    if seed % 4 == 0:
        del content[int(rng.integers(len(content))) :]
    (copied / name).write_bytes(content)
    edit(copied, lambda m: None)
    with pytest.raises(BrokenBundleError, match="digest"):
        verify_bundle(copied, expect=before)
    words = ""
    try:
        verify_bundle(copied)
    except (BrokenBundleError, UsageError) as error:
        words = str(error)
    assert "\n" not in words.strip()
    assert len(words) < 1000


def test_the_digest_covers_all(whole: Path, tmp_path: Path) -> None:
    found = verify_bundle(whole, expect=digest(whole))
    assert found.digest == digest(whole)
    changed = shutil.copytree(whole, tmp_path / "bundle")
    edit(changed, lambda m: m.update(seed=12345))
    assert verify_bundle(changed).value == found.value
    with pytest.raises(BrokenBundleError, match="digest"):
        verify_bundle(changed, expect=found.digest)


def told(folder: Path) -> dict[str, tuple[bool, str]]:
    """Each figure: whether it was found again, and how."""
    return {claim.figure: (claim.held, claim.why) for claim in verify_bundle(folder).claims}


def change(name: str, value: float) -> Edit:
    """Another value of a measurement."""

    def edited(manifest: dict[str, Any]) -> None:
        (one,) = (m for m in manifest["measurements"] if m["objective"] == name)
        one["value"] = value

    return edited


def test_figures_are_found_again_or_claimed(copied: Path) -> None:
    assert told(copied) == {
        "accuracy": (False, "measured by its training"),
        "latency on cpu": (False, "measured on that device"),
        "memory on cpu": (True, "compiled again, equal"),
        "size": (True, "counted in the file"),
    }
    edit(copied, change("latency", 0.001))
    assert told(copied)["latency on cpu"] == (False, "measured on that device")
    edit(copied, change("size", 1.0))
    with pytest.raises(BrokenBundleError, match=r"size is said to be 1 bytes, and \d+ bytes are"):
        verify_bundle(copied)


def test_memory_that_was_made_up_is_refused(copied: Path) -> None:
    edit(copied, change("memory", 1.0))
    with pytest.raises(BrokenBundleError, match="memory on cpu is said to be 1 bytes"):
        verify_bundle(copied)
    edit(copied, lambda m: m["device"]["scored_with"].update(processor="another one"))
    held, why = told(copied)["memory on cpu"]
    assert not held
    assert "comes out here, with another processor" in why


def test_a_bundle_of_before_claims_its_figures(copied: Path) -> None:
    edit(copied, lambda m: m.pop("device"))
    held, why = told(copied)["memory on cpu"]
    assert not held
    assert "of an earlier version" in why


def exported(function: Callable[..., Any], **options: Any) -> str:
    shape = jax.ShapeDtypeStruct((4, 4), np.float32)
    return str(export.export(jax.jit(function), **options)(shape).mlir_module())


def custom_call(name: str) -> str:
    """A program that calls something by its name."""
    plain = exported(lambda x: jnp.linalg.cholesky(x @ x.T))
    assert "@lapack_" in plain
    return re.sub(r"@lapack_\w+", lambda _: f"@{name}", plain)


def test_a_program_computes_and_calls_nobody() -> None:
    check_calls(exported(lambda x: jnp.linalg.qr(x)[0] + jnp.linalg.cholesky(x @ x.T)))
    check_calls(exported(lambda x: jax.lax.top_k(jnp.sort(x), 2)[0]))

    @jax.jit
    def my_custom_call(x: jax.Array) -> jax.Array:
        return x + 1

    named = exported(lambda x: my_custom_call(x) * 2)
    assert "@my_custom_call" in named  # a name says nothing
    check_calls(named)
    for name in ("xla_ffi_python_cpu_callback", '"system"', '"lapack_ \\22"'):
        with pytest.raises(BrokenBundleError, match="of whoever runs it"):
            check_calls(custom_call(name))
    with pytest.raises(BrokenBundleError, match="what cannot be read"):
        check_calls('"stablehlo.custom_call"(%0) <{call_target_name = "system"}>')
