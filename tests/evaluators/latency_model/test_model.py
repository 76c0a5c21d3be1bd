"""The latency model: what limits a kernel, in the direction in which hardware is limited."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.kernels import Kernel, Product
from paretax.evaluators.latency_model.calibration import Probe, learn
from paretax.evaluators.latency_model.corrections import Corrections, Sample, fit
from paretax.evaluators.latency_model.features import NAMES, features
from paretax.evaluators.latency_model.kinds import habits
from paretax.evaluators.latency_model.model import UNCALIBRATED, LatencyModel, footprint_of
from paretax.evaluators.latency_model.pieces import pieces
from paretax.evaluators.latency_model.roofline import (
    Footprint,
    bound,
    peak,
    product_seconds,
    vector_rate,
)
from paretax.hardware_profiles import load_profile, profile_names

SMALL = Footprint(resident=1e4, temporary=0)
LARGE = Footprint(resident=1e10, temporary=1e9)


def product(m: int, n: int, k: int, dtype: str = "f32", **changes: Any) -> Kernel:
    size = {"f32": 4, "bf16": 2, "fp16": 2, "int8": 1}[dtype]
    return Kernel(
        name="dot",
        kind="dot",
        dtype=dtype,
        products=(Product(m=m, n=n, k=k),),
        bytes_read=size * (m * k + k * n),
        bytes_written=size * m * n,
        bytes_arguments=size * k * n,
        **changes,
    )


def elementwise(count: int) -> Kernel:
    return Kernel(
        name="add",
        kind="elementwise",
        dtype="f32",
        operations=count,
        bytes_read=4 * count,
        bytes_written=4 * count,
    )


def program(*kernels: Kernel, arguments: int = 2) -> CompiledProgram:
    given = sum(k.bytes_arguments for k in kernels)
    return CompiledProgram(
        fingerprint="f",
        kernels=kernels,
        peak_memory=sum(k.bytes for k in kernels),
        argument_bytes=given,
        output_bytes=kernels[-1].bytes_written if kernels else 0,
        arguments=arguments,
        code_size=None,
        estimate=None,
        seconds=0.0,
        compiler="none",
    )


ACCELERATORS = ("v100", "a100", "h100", "t4", "tpu-v5e", "tpu-v6e")


@pytest.mark.parametrize("name", profile_names())
def test_more_work_is_never_faster(name: str) -> None:
    profile = load_profile(name)
    for small, large in (
        (product(64, 64, 64), product(128, 64, 64)),
        (product(64, 64, 64), product(64, 640, 64)),
        (product(512, 512, 512), product(512, 512, 1024)),
        (elementwise(1000), elementwise(10_000)),
        (elementwise(10**6), elementwise(10**8)),
    ):
        assert 0 < bound(small, profile, LARGE).busy <= bound(large, profile, LARGE).busy


@pytest.mark.parametrize("name", profile_names())
def test_no_product_exceeds_the_peak(name: str) -> None:
    profile = load_profile(name)
    for size in (8, 64, 512, 4096):
        for dtype in ("f32", "bf16", "int8"):
            found = product(size, size, size, dtype)
            assert bound(found, profile, LARGE).compute >= 0.999 * found.flops / max(
                peak(dtype, profile), profile.vector or 0.0
            )


@pytest.mark.parametrize("name", ACCELERATORS)
def test_precision_helps_where_the_hardware_has_it(name: str) -> None:
    profile = load_profile(name)
    seconds = [
        bound(product(4096, 4096, 4096, dtype), profile, LARGE).busy
        for dtype in ("f32", "bf16" if "bf16" in profile.peak else "fp16", "int8")
    ]
    assert seconds[0] > seconds[1]
    if "int8" in profile.peak:
        assert seconds[1] > seconds[2]


def test_large_products_are_near_the_peak_and_small_ones_are_not() -> None:
    profile = load_profile("a100")
    whole, tiny = product(8192, 8192, 8192, "bf16"), product(16, 16, 16, "bf16")
    assert bound(whole, profile, LARGE).busy < 2 * whole.flops / profile.peak["bf16"]
    assert bound(tiny, profile, LARGE).busy > 100 * tiny.flops / profile.peak["bf16"]


@pytest.mark.parametrize("name", ["tpu-v5e", "systolic"])
def test_a_padded_product_costs_its_padding(name: str) -> None:
    profile = load_profile(name)
    grain = profile.granularity
    m, n, k = 64 * grain.m, 8 * grain.n, 8 * grain.k
    exact, wider = (bound(product(m, n + i, k, "int8"), profile, SMALL).compute for i in (0, 1))
    assert wider == pytest.approx(exact * 9 / 8, rel=0.05)


def test_what_fits_a_cache_is_read_from_it() -> None:
    profile = load_profile("cpu")
    kernel = product(1, 64, 64)  # its weights lie where the whole program fits
    assert bound(kernel, profile, SMALL).memory < bound(kernel, profile, LARGE).memory


def test_a_program_is_its_kernels_and_its_call() -> None:
    profile = load_profile("cpu")
    model = LatencyModel(profile)
    empty = model.predict(program()).seconds
    assert empty == pytest.approx(profile.call_overhead + 2 * profile.argument_overhead)
    one = model.predict(program(elementwise(1000))).seconds
    repeated = replace(elementwise(1000), count=10)
    launch = profile.launch_overhead
    assert one > empty + launch
    assert model.predict(program(repeated)).seconds > empty + 10 * launch


def test_launches_limit_small_programs_and_hide_behind_long_kernels() -> None:
    model = LatencyModel(load_profile("h100"))
    small = model.predict(program(*[elementwise(100)] * 50))
    assert max(small.limits, key=small.limits.__getitem__) == "launches"
    large = model.predict(program(product(8192, 8192, 8192, "bf16")))
    assert max(large.limits, key=large.limits.__getitem__) == "arithmetic"
    moving = model.predict(program(elementwise(10**9)))
    assert max(moving.limits, key=moving.limits.__getitem__) == "memory"
    assert sum(moving.limits.values()) == pytest.approx(1.0)


def test_a_prefetch_hides_behind_the_kernels() -> None:
    model = LatencyModel(load_profile("tpu-v5e"))
    work = product(2048, 2048, 2048, "bf16")
    copy = Kernel(
        name="copy", kind="data", dtype="bf16", bytes_read=2**16, bytes_written=2**16,
        overlapped=True,
    )  # fmt: skip
    alone, both = model.predict(program(work)).seconds, model.predict(program(work, copy)).seconds
    assert alone <= both < alone + 0.1 * (0.5e-6 + 2**16 / 819e9)


def test_the_compilers_own_estimate_is_taken_where_it_is_the_smaller() -> None:
    """By hand: 2 x 4096^3 operations at 197 TFLOP/s take 698 us, 3 x 32 MiB of HBM 123 us."""
    profile = load_profile("tpu-v5e")

    def seconds(estimate: float) -> float:
        kernel = product(4096, 4096, 4096, "bf16", estimate=estimate)
        found = LatencyModel(profile).kernel_seconds([kernel], LARGE)
        return found[0]

    moved = 3 * 32 * 2**20 / profile.main_memory.bandwidth
    assert seconds(300e-6) == pytest.approx(300e-6)
    assert 698e-6 < seconds(5e-3) < 698e-6 + moved
    assert seconds(1e-9) == pytest.approx(moved)  # which the compiler does not count


def test_a_call_and_one_in_a_queue_on_a_gpu() -> None:
    """By hand: the host launches a graph, and calls a library beside the device."""
    profile, known = load_profile("h200"), habits(load_profile("h200"))
    few = elementwise(10)
    short = [few, replace(few, name="conv", library="cudnn"), few]
    device = 3 * profile.launch_overhead
    device += sum(LatencyModel(profile).kernel_seconds(short, SMALL))
    found = LatencyModel(profile).predict(program(*short, arguments=0))
    assert device < known.library
    call = profile.call_overhead + 2 * known.host + known.library
    assert found.seconds == pytest.approx(call)
    assert found.queued == pytest.approx(call)
    long = [elementwise(10**9), *short[:2]]
    busy = LatencyModel(profile).kernel_seconds(long, footprint_of(program(*long)))
    device = sum(busy) + 3 * profile.launch_overhead
    found = LatencyModel(profile).predict(program(*long, arguments=0))
    assert found.queued == pytest.approx(device, rel=1e-3)
    assert found.seconds == pytest.approx(profile.call_overhead + 2 * known.host + device, rel=1e-3)


@pytest.mark.parametrize("name", ["t4", "v100", "rtx4090"])
def test_tiles_count_also_where_vectors_are_as_fast(name: str) -> None:
    """float32 on cards whose float32 products run at the rate of their vectors."""
    profile = load_profile(name)
    seconds = partial(product_seconds, dtype="f32", profile=profile)
    even = Product(m=128 * profile.units, n=128, k=4096)
    alone = even.flops / peak("f32", profile)
    assert seconds(even) >= alone
    # One tile more than there are cores is a second wave, at nearly twice the time; 17 columns are
    # padded to the next tile.
    assert seconds(Product(m=256 * profile.units + 1, n=256, k=64)) > 1.02 * seconds(
        Product(m=256 * profile.units, n=256, k=64)
    )
    padded = Product(m=128 * profile.units, n=17, k=4096)
    assert seconds(padded) > 1.2 * padded.flops / peak("f32", profile)
    # What is thinner than a tile runs on vectors.
    thin = Product(m=1, n=4096, k=4096)
    assert seconds(thin) == pytest.approx(thin.flops / vector_rate(profile))


def test_groups_of_odd_widths_run_one_after_another_on_a_gpu() -> None:
    """As measured on an H100: 17 groups of 24 channels at 12,544 rows, in microseconds."""

    def us(name: str, dtype: str, **sizes: int) -> float:
        found = Product(window=9, **sizes)
        size = 2 * found.groups * found.m * (found.n + found.k // 9)
        kernel = replace(
            product(1, 1, 1), kind=found.kind, products=(found,), dtype=dtype, bytes_read=size
        )
        return 1e6 * LatencyModel(load_profile(name)).kernel_seconds([kernel], LARGE)[0]

    odd = us("h100", "bf16", groups=17, m=12544, n=24, k=216)
    assert odd == pytest.approx(378, rel=0.1)
    assert us("h100", "bf16", groups=38, m=3136, n=24, k=216) == pytest.approx(124, rel=0.15)
    assert us("h100", "bf16", groups=3, m=200704, n=24, k=216) == pytest.approx(193, rel=0.3)
    assert us("h100", "bf16", groups=4, m=50176, n=48, k=432) == pytest.approx(105, rel=0.2)
    # Those of even ones, and one channel each, run at once; a group of many takes its own time.
    assert us("h100", "bf16", groups=16, m=12544, n=32, k=288) < odd / 4
    assert us("h100", "bf16", groups=384, m=12544, n=1, k=9) < odd / 4
    assert us("t4", "f32", groups=2, m=65536, n=768, k=6912) > 2 * 65536 * 768 * 6912 * 2 / 8.1e6
    assert us("tpu-v5e", "bf16", groups=17, m=12544, n=24, k=216) < odd / 4


def test_a_convolution_in_plain_loops_is_slow_on_a_cpu() -> None:
    found = Product(m=16, n=256, k=1152, window=9)
    plain = replace(product(16, 256, 1152), kind="convolution", products=(found,))
    loops = replace(plain, library="loops")
    cpu = load_profile("xeon-8480")
    fast, slow = LatencyModel(cpu).kernel_seconds([plain, loops], SMALL)
    assert slow == pytest.approx(found.flops / (0.45 * cpu.clock), rel=0.05)
    assert slow > 20 * fast


def test_a_users_own_gpu_works_as_gpus_do() -> None:
    """What its profile does not say is that of its kind; what it says counts."""
    shipped = load_profile("h100")
    mine = shipped.model_copy(update={"name": "mine", "library_overhead": 1e-6})
    assert habits(mine).efficiency == habits(shipped).efficiency
    assert habits(mine).host == habits(shipped).host > 0
    assert habits(mine).library == 1e-6
    assert habits(load_profile("cpu")).efficiency == {}
    assert habits(load_profile("tpu-v5e")).host == 0.0


def test_a_kernel_reaches_its_share_of_the_roofline() -> None:
    assert load_profile("h100").efficiency is None  # it has its kind's
    ours = habits(load_profile("h100")).efficiency
    assert 0 < min(ours.values()) < max(ours.values()) < 1
    plain = load_profile("h100").model_copy(update={"efficiency": {}})
    some = plain.model_copy(update={"efficiency": {"dot": 0.5}})
    kernels = [product(4096, 4096, 4096, "bf16"), elementwise(10**8)]
    whole, half = (LatencyModel(p).kernel_seconds(kernels, LARGE) for p in (plain, some))
    assert half == pytest.approx([2 * whole[0], whole[1]])


def test_an_interval_is_wider_for_a_device_that_nobody_measured() -> None:
    def width(name: str) -> float:
        found = LatencyModel(load_profile(name)).predict(program(elementwise(10)))
        return math.log(found.high / found.low) / (2 * 1.2816)

    assert width("h200") == pytest.approx(load_profile("h200").error, rel=1e-4)
    assert width("b200") == pytest.approx(UNCALIBRATED, rel=1e-4)
    assert width("b200") > width("h200")


def test_an_interval() -> None:
    found = LatencyModel(load_profile("h100"), error=0.1).predict(program(elementwise(10)))
    assert found.low == pytest.approx(found.seconds * math.exp(-0.12816))
    assert found.high == pytest.approx(found.seconds * math.exp(0.12816))


# Corrections --------------------------------------------------------------------------------------


def samples(count: int, seed: int = 0) -> list[Sample]:
    """Kernels that are slower the smaller they are."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 20, (count, len(NAMES)))
    return [
        Sample(group=("dot xla", "data xla")[i % 2], features=p, log_ratio=float(2 - p[0] / 10))
        for i, p in enumerate(points)
    ]


def test_a_trend_is_learned_and_never_left() -> None:
    made = fit(samples(600))
    points = np.stack([s.features for s in samples(100, 1)])
    truth = np.array([s.log_ratio for s in samples(100, 1)])
    mean, spread = made.predict("dot xla", points)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.15
    assert (spread > 0).all()
    far, _ = made.predict("dot xla", 1e6 * np.ones((1, len(NAMES))))
    assert 0 <= far[0] <= 2


def test_a_group_that_was_not_measured_borrows() -> None:
    made = fit([*samples(100), *[replace(s, group="dot ynn") for s in samples(3)]])
    points = np.zeros((1, len(NAMES)))
    for known, borrowed in (("dot xla", "dot cudnn"), ("dot xla", "dot ynn"), ("", "depthwise x")):
        assert made.predict(borrowed, points)[0] == made.predict(known, points)[0]


def test_corrections_are_read_back(tmp_path: Path) -> None:
    made = fit(samples(200))
    made.save(tmp_path / "kept.npz")
    again = Corrections.load(tmp_path / "kept.npz")
    points = np.stack([s.features for s in samples(50, 2)])
    for group in ("dot xla", "data xla", ""):
        np.testing.assert_array_equal(made.predict(group, points), again.predict(group, points))


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04N.", json.dumps({}).encode()])
def test_a_damaged_file_of_corrections(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kept.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"kept\.npz' cannot be read .*: calibrate again"):
        Corrections.load(path)
    with pytest.raises(UsageError, match="calibrate again"):
        Corrections.load(tmp_path / "missing.npz")


def test_features_are_finite_on_every_device() -> None:
    for name in profile_names():
        for kernel in (product(3, 5, 7), product(512, 512, 512, "int8"), elementwise(10)):
            found = features(kernel, load_profile(name), LARGE)
            assert found.shape == (len(NAMES),)
            assert np.isfinite(found).all()


# Fusions of several products ----------------------------------------------------------------------


FUSED = Kernel(
    name="fusion",
    kind="convolution",
    dtype="bf16",
    library="ynn",
    products=(
        Product(m=64, n=8, k=27, window=9),
        Product(groups=8, m=64, n=1, k=9, window=9),
        Product(m=64, n=24, k=8),
    ),
    operations=4000,
    transcendentals=400,
    exponentials=400,
    summed=80,
    bytes_read=5000,
    bytes_written=3072,
    bytes_arguments=5000,
    bytes_results=3072,
)


def test_a_fusion_is_its_products() -> None:
    found = pieces(FUSED)
    assert [p.kind for p in found] == ["convolution", "depthwise", "dot"]
    assert [p.products for p in found] == [(p,) for p in FUSED.products]
    assert [p.operations for p in found] == [800, 800, 2400]  # as the results' sizes
    assert sum(p.exponentials for p in found) == FUSED.exponentials
    assert found[2].bytes_read == 2 * (64 * 8 + 8 * 24)
    assert found[2].bytes_arguments == 2 * 8 * 24
    assert {(p.library, p.dtype) for p in found} == {("ynn", "bf16")}


def test_a_kernel_with_one_product_or_none_stays() -> None:
    for kernel in (product(4, 5, 6), elementwise(7)):
        assert pieces(kernel) == [kernel]


def test_a_corrected_fusion_takes_as_long_as_its_products() -> None:
    profile = load_profile("cpu")
    rows = [
        Sample(group=group, features=features(kernel, profile, SMALL), log_ratio=log)
        for group, log in (("convolution ynn", 0.0), ("depthwise ynn", 3.0), ("dot ynn", 0.0))
        for kernel in (product(m, 8, 8) for m in range(1, 40))
    ]
    model = LatencyModel(profile, fit(rows))
    parts = model.kernel_seconds(pieces(FUSED), SMALL)
    (whole,) = model.kernel_seconds([FUSED], SMALL)
    assert whole == pytest.approx(sum(parts))
    assert parts[1] == pytest.approx(math.exp(3.0) * bound(pieces(FUSED)[1], profile, SMALL).busy)


# Calibration --------------------------------------------------------------------------------------


def probes(count: int) -> list[Probe]:
    """A machine that is three times slower than its sheet, and takes 20 us a call, 2 an array."""
    rng, profile = np.random.default_rng(0), load_profile("cpu")
    found = []
    for _ in range(count):
        kernels = []
        for part in range(int(rng.integers(1, 5))):
            m, n, k = (int(2 ** rng.uniform(2, 10)) for _ in range(3))
            made = product(m, n, k) if rng.random() < 0.5 else elementwise(m * n)
            kernels.append(replace(made, name=f"k{part}"))
        whole = program(*kernels, arguments=int(rng.integers(1, 20)))
        times = {k.name: 3 * bound(k, profile, footprint_of(whole)).busy for k in kernels}
        calling = 20e-6 + 2e-6 * whole.arguments
        noise = math.exp(rng.normal(0, 0.02))
        found.append(
            Probe(program=whole, seconds=noise * (calling + sum(times.values())), kernels=times)
        )
    return found


def test_calibration_finds_what_the_sheet_does_not_say() -> None:
    profile = load_profile("cpu")
    learned = learn(probes(300), profile.model_copy(update={"argument_overhead": 2e-6}))
    assert learned.profile.call_overhead == pytest.approx(20e-6, rel=0.2)
    assert learned.median_error < 0.05
    assert learned.error < 0.15
    model = LatencyModel(learned.profile, learned.corrections, learned.error)
    for each in probes(20):
        assert model.predict(each.program).seconds == pytest.approx(each.seconds, rel=0.25)


def test_noise_of_the_kernels_is_not_taken_for_the_call() -> None:
    """Long programs whose kernels are measured up to 5% wrong either way."""
    rng = np.random.default_rng(1)
    noisy = [
        replace(p, kernels={n: 100 * t for n, t in p.kernels.items()}, seconds=0.0)
        for p in probes(300)
    ]
    noisy = [
        replace(p, seconds=p.busy * rng.uniform(0.95, 1.05) + 20e-6 + 2e-6 * p.program.arguments)
        for p in noisy
    ]
    profile = load_profile("cpu").model_copy(update={"argument_overhead": 2e-6})
    learned = learn(noisy, profile)
    model = LatencyModel(learned.profile, learned.corrections, learned.error)
    ratios = [model.predict(p.program).seconds / p.seconds for p in noisy]
    assert abs(np.mean(np.log(ratios))) < 0.02


def test_disturbed_measurements_are_dropped() -> None:
    good = probes(200)
    bad = [replace(p, seconds=4 * p.seconds) for p in probes(20)]
    busy = [replace(p, disturbed=True) for p in probes(10)]
    learned = learn([*good, *bad, *busy], load_profile("cpu"))
    assert learned.dropped >= 30
    assert learned.programs >= 180
    assert learned.median_error < 0.05


def test_a_machine_that_is_too_busy() -> None:
    busy = [replace(p, disturbed=True) for p in probes(50)]
    with pytest.raises(ValueError, match=r"only 0 of 50 programs .* while nothing else runs"):
        learn(busy, load_profile("cpu"))
