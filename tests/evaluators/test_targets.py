"""Costs on devices that are elsewhere, from their own compilers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretax.errors import UsageError
from paretax.evaluators import Evaluation, Measurement, Provenance, Reason, Target, Workbench
from paretax.evaluators.compilers import Compiler, MissingExtraError, Store, targets
from paretax.evaluators.costs import GRID
from paretax.evaluators.target import ALWAYS, MODELLED
from paretax.evaluators.targets import TargetsEvaluator
from paretax.hardware_profiles import load_profile
from paretax.tasks import load_task

FORMS: dict[str, dict[str, Any]] = {
    "f32": {},
    "bf16": {"precision": "bfloat16"},
    "w8a8": {"quantize": True},
}
CNN = {"channels": 64, "depth": 2, "hidden": 1024}
TRANSFORMER = {"width": 256, "heads": 4, "depth": 2, "patch": 4}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(Store(Path(tmp_path_factory.mktemp("compiled"))))


def values(evaluation: Evaluation) -> dict[tuple[str, str], Measurement]:
    return {(m.objective, m.target or ""): m for m in evaluation.measurements}


@pytest.mark.parametrize(
    ("task", "candidate", "batch"), [("mnist5k", CNN, 256), ("mnist5k_vit", TRANSFORMER, 256)]
)
def test_real_models_on_a_tpu_a_gpu_and_an_arm_core(
    task: str, candidate: Mapping[str, Any], batch: int, compiler: Compiler
) -> None:
    names = ("tpu-v5e", "h100", "aarch64")
    bench = Workbench(load_task(task, []))
    made = [Target.of(name, batch=batch) for name in names]
    evaluator = TargetsEvaluator(bench, made, MODELLED, compiler)
    found = {n: values(evaluator.evaluate({**candidate, **f}, 0)) for n, f in FORMS.items()}
    for form in found.values():
        for name in names:
            assert form["latency", name].provenance is Provenance.MODELLED
            assert form["memory", name].provenance is Provenance.COMPILED
            low, high = form["latency", name].detail["interval"]
            assert 0 < low < form["latency", name].value < high
            for objective in MODELLED:
                if objective not in ("area",):
                    assert form[objective, name].value > 0
    # What the hardware says: narrower numbers take less memory, energy and time on a GPU ...
    for objective in ("latency", "energy", "memory"):
        wide, half, byte = (found[n][objective, "h100"].value for n in FORMS)
        assert wide > half, objective
        if task == "mnist5k":  # a convolution of bytes writes float32, so it costs more than half
            assert wide > byte > half, objective
        elif objective != "latency":
            assert wide > half > byte, objective
    # A transformer's rounding to bytes is kernels of its own, whose host's work one waits for; in a
    # queue it is hidden.
    queued = [found[n]["latency", "h100"].detail["queued"] for n in FORMS]
    assert queued[0] > max(queued[1:])
    # ... a TPU multiplies float32 in bfloat16, so what it gains for sure is memory;
    assert found["w8a8"]["memory", "tpu-v5e"].value < found["f32"]["memory", "tpu-v5e"].value
    # ... and an A72 without a dot product of bytes still moves fewer of them.
    assert found["w8a8"]["memory", "aarch64"].value < found["f32"]["memory", "aarch64"].value


def test_dense_layers_gain_from_integers_on_a_tpu(compiler: Compiler) -> None:
    bench = Workbench(load_task("digits", []))
    evaluator = TargetsEvaluator(bench, [Target.of("tpu-v5e", batch=256)], ALWAYS, compiler)
    wide = {"width": 4096, "depth": 3}
    f32, bf16, w8a8 = (
        values(evaluator.evaluate({**wide, **form}, 0))["latency", "tpu-v5e"].value
        for form in FORMS.values()
    )
    assert f32 > bf16 > w8a8


def test_what_follows_from_a_latency(bench: Workbench, compiler: Compiler) -> None:
    target = Target.of("h100", batch=4, grid=100.0)
    found = values(
        TargetsEvaluator(bench, [target], MODELLED, compiler).evaluate({"width": 4, "depth": 1}, 0)
    )
    latency = found["latency", "h100"].value * 1e-6
    assert found["throughput", "h100"].value == pytest.approx(4 / latency, rel=1e-3)
    price = 6.98 / 3600 * latency / 4 * 1e6
    assert found["price", "h100"].value == pytest.approx(price, rel=1e-3)
    energy = found["energy", "h100"].value * 1e-3
    assert 70 * latency / 4 < energy <= 700 * latency / 4  # idle power, and the card's limit
    co2 = energy * 1e6 / 3.6e6 * 100.0
    assert found["co2", "h100"].value == pytest.approx(co2, rel=1e-3)
    assert ("area", "h100") not in found


def test_only_what_is_wanted_is_said(bench: Workbench, compiler: Compiler) -> None:
    evaluator = TargetsEvaluator(bench, [Target.of("cpu", measure=False)], ["energy"], compiler)
    found = evaluator.evaluate({"width": 4, "depth": 1}, 0).measurements
    assert [m.objective for m in found] == ["latency", "memory", "energy"]
    assert evaluator.provides == ("latency", "memory", "energy")


def test_equal_programs_are_compiled_once(bench: Workbench, tmp_path: Path) -> None:
    compiler = Compiler(Store(tmp_path))
    both = [Target.of("aarch64"), Target.of("cpu", measure=False), Target.of("systolic")]
    evaluator = TargetsEvaluator(bench, both, ALWAYS, compiler)
    plain = {"width": 4, "depth": 1, "quantize": True}
    first = evaluator.evaluate(plain, 0)
    assert compiler.compilations == 2  # the array is fed with the CPU's products
    says = {m.target for m in first.measurements if "skipped" in m.detail.get("assumes", "")}
    assert says == {"systolic"}
    assert evaluator.evaluate({**plain, "weight_bits": 3, "epochs": 9}, 1) == first
    assert compiler.compilations == 2
    evaluator.evaluate({**plain, "width": 5}, 0)
    assert compiler.compilations == 4


def own_profile(tmp_path: Path, **changes: Any) -> str:
    """A user's file, made of the shipped one of a Raspberry Pi 5."""
    shipped = Path(load_profile.__code__.co_filename).parent / "raspberry-pi-5.yaml"
    plain = {**yaml.safe_load(shipped.read_text("utf-8")), "name": "mine", **changes}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(plain), "utf-8")
    return str(path)


def test_a_program_that_does_not_fit(bench: Workbench, compiler: Compiler, tmp_path: Path) -> None:
    tiny = [{"name": "SRAM", "size": "1 KiB", "bandwidth": "1 GB/s"}]
    path = own_profile(tmp_path, memories=tiny)
    evaluator = TargetsEvaluator(bench, [Target.of(path)], ALWAYS, compiler)
    found = evaluator.evaluate({"width": 64, "depth": 2}, 0)
    assert found.failure is not None
    assert found.failure.reason is Reason.LIMIT_EXCEEDED
    assert found.failure.message.startswith("memory@mine must be at most the device's 1024 bytes")
    assert found.failure.violation > 1
    assert {m.target for m in found.measurements} == {"mine"}


def test_a_program_that_is_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_profile(
        tmp_path, compiler={"platform": "iree", "triple": "aarch64-none-linux", "cpu": "no-such"}
    )
    targets = [Target.of(path), Target.of("cpu", measure=False)]
    found = TargetsEvaluator(bench, targets, ALWAYS, Compiler(Store(tmp_path))).evaluate(
        {"width": 4, "depth": 1}, 0
    )
    assert found.failure is not None
    assert found.failure.reason is Reason.COMPILE_ERROR
    assert found.failure.message.startswith("mine: ")
    assert {m.target for m in found.measurements} == {"cpu"}  # the others are scored all the same


def test_a_target_without_its_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'paretax\[cuda\]'"):
        Target.of("h100")


@pytest.mark.parametrize(
    ("name", "objective", "why"),
    [
        ("h100", "latency_p99", "its latency is modelled, not measured"),
        ("raspberry-pi-5", "price", "its profile has no `price`"),
        ("h100", "area", "no systolic array"),
    ],
)
def test_what_cannot_be_had_of_a_target(name: str, objective: str, why: str) -> None:
    target = Target.of(name)
    assert objective not in target.provides
    with pytest.raises(UsageError, match=why):
        target.check([objective])
    target.check(["latency", "energy"])


def test_an_accelerator_is_designed_with_the_model(bench: Workbench, compiler: Compiler) -> None:
    target = Target.of("systolic", batch=64)
    evaluator = TargetsEvaluator(bench, [target], MODELLED, compiler)
    model = {"width": 64, "depth": 2, "quantize": True}
    small, large, again = (
        values(evaluator.evaluate({**model, **design}, 0))
        for design in (
            {"array_rows": 8, "array_columns": 8},
            {"array_rows": 64, "array_columns": 64},
            {"array_rows": 8, "array_columns": 8, "array_sram_kib": 256},
        )
    )
    assert large["latency", "systolic"].value < small["latency", "systolic"].value
    assert large["area", "systolic"].value > small["area", "systolic"].value
    assert again["area", "systolic"].value == small["area", "systolic"].value


def test_a_device_that_a_worker_is_beside_is_measured() -> None:
    made = Target.of("a100", accelerator_type="A100")
    assert made.measure
    assert "latency_p99" in made.provides
    for changes, why in (
        ({"measure": False}, "leave out `measure: false`"),
        ({"parts": True}, "measured or priced from parts"),
    ):
        with pytest.raises(UsageError, match=why):
            Target.of("a100", accelerator_type="A100", **changes)
    with pytest.raises(UsageError, match="JAX does not run on it"):
        Target.of("edge-tpu", accelerator_type="CORAL")


def test_a_target_is_plain_enough_to_compare() -> None:
    one = Target.of("h100", batch=2)
    assert one == Target.of("h100", batch=2)
    assert one != replace(one, grid=1.0)
    assert one.grid == GRID
