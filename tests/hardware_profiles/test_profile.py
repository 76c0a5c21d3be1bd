"""The data sheets of devices, and what a sheet must be."""

from __future__ import annotations

import copy
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretax.errors import UsageError
from paretax.hardware_profiles import HardwareProfile, load_profile, parse_profile, profile_names
from paretax.hardware_profiles.profile import stated

PLAIN: dict[str, Any] = yaml.safe_load("""
name: mine
description: a GPU
kind: gpu
compiler: {platform: cuda, capability: "9.0", fpus_per_core: 128, shared_memory_per_core: 228 KiB,
  shared_memory_per_block: 227 KiB, threads_per_core: 2048}
peak: {f32: 60 TFLOP/s, tf32: 400 TFLOP/s, bf16: 800 TFLOP/s, int8: 1600 TOP/s}
f32_products: tf32
memories:
  - {name: L2, size: 50 MiB, bandwidth: 5 TB/s}
  - {name: HBM, size: 80 GiB, bandwidth: 3 TB/s, energy: 31 pJ}
launch_overhead: 2 us
call_overhead: 10 us
units: 132
granularity: {m: 16, n: 8, k: 16}
vector_bytes: 128
clock: 1.8 GHz
power: {idle: 70 W, peak: 700 W}
energy: {f32: 5 pJ, bf16: 0.4 pJ}
sources: [its maker]
""")

DELETED = object()

ACCELERATORS = ("gpu", "tpu")

GPUS_WITH_INT8 = ("a100", "h100", "h200", "b200", "l4", "t4", "rtx4090", "jetson-orin", "mi300x")

SHIPPED = {
    *("v100", "a100", "h100", "h200", "b200", "l4", "t4", "rtx4090", "jetson-orin", "mi300x"),
    *("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e"),
    *("cpu", "xeon-8480", "epyc-9654", "graviton3"),
    *("aarch64", "raspberry-pi-5", "android-a76", "android-x"),
    *("edge-tpu", "systolic"),
}


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """`PLAIN` with another value at a place, or without it."""
    plain = copy.deepcopy(PLAIN)
    part: Any = plain
    for key in path[:-1]:
        part = part[key]
    if value is DELETED:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return plain


@pytest.fixture(params=profile_names())
def profile(request: pytest.FixtureRequest) -> HardwareProfile:
    return load_profile(request.param)


def test_every_data_sheet_is_shipped_under_its_name() -> None:
    sheets = [f.name for f in files("paretax.hardware_profiles").iterdir() if "yaml" in f.name]
    assert sorted(sheets) == [f"{name}.yaml" for name in profile_names()]
    assert set(profile_names()) == SHIPPED
    for name in profile_names():
        assert load_profile(name).name == name


def test_a_sheet_says_where_its_figures_are_from(profile: HardwareProfile) -> None:
    assert profile.description
    assert "\n" not in profile.description
    assert all(source.strip() for source in profile.sources)
    assert any("estimate" in source for source in profile.sources)


def test_a_nearer_memory_is_faster_and_smaller(profile: HardwareProfile) -> None:
    for near, far in pairwise(profile.memories):
        assert near.bandwidth > far.bandwidth
        assert near.size < far.size
        if near.energy is not None and far.energy is not None:
            assert near.energy < far.energy
    assert profile.main_memory is profile.memories[-1]


@pytest.mark.parametrize(
    "name", [n for n in profile_names() if load_profile(n).kind in ACCELERATORS]
)
def test_fewer_bits_are_no_slower_on_an_accelerator(name: str) -> None:
    profile = load_profile(name)
    for dtype in set(profile.peak) & {"fp16", "bf16", "tf32"}:
        assert profile.peak[dtype] >= profile.peak["f32"]
    if {"int4", "int8"} <= set(profile.peak):
        assert profile.peak["int4"] >= profile.peak["int8"]
    if {"fp8", "bf16"} <= set(profile.peak):
        assert profile.peak["fp8"] >= profile.peak["bf16"]
    assert profile.peak[profile.f32_products] >= profile.peak["f32"]


@pytest.mark.parametrize("name", GPUS_WITH_INT8)
def test_int8_is_no_slower_than_16_bits_on_a_gpu_that_multiplies_it(name: str) -> None:
    peak = load_profile(name).peak
    assert peak["int8"] >= max(peak.get("bf16", 0.0), peak["fp16"])


def test_figures_are_of_a_plausible_size(profile: HardwareProfile) -> None:
    fastest = max(profile.peak.values())
    assert 1e9 < profile.peak["f32"] <= fastest < 1e16
    assert 1e8 < profile.main_memory.bandwidth < 1e13
    assert 1e-7 <= profile.launch_overhead <= 1e-5
    assert profile.launch_overhead < profile.call_overhead <= 1e-3
    assert 1e8 < profile.clock < 6e9
    assert 0 < profile.power.idle < profile.power.peak <= 1000
    assert set(profile.energy) == set(profile.peak)
    assert all(1e-14 < energy < 1e-9 for energy in profile.energy.values())
    assert profile.vector is None or profile.vector <= fastest


def test_a_core_does_not_exceed_its_arithmetic_units(profile: HardwareProfile) -> None:
    """float32 of one thread: at most four multiply-add units of its registers' width."""
    if profile.kind in ("cpu", "mobile"):
        assert profile.units == 1
        assert profile.peak["f32"] <= 4 * 2 * (profile.vector_bytes / 4) * profile.clock


def test_devices_that_are_rented_have_a_price(profile: HardwareProfile) -> None:
    rented = profile.kind in ACCELERATORS and profile.name != "jetson-orin"
    if rented:
        assert profile.price is not None
        assert 0.1 < profile.price < 20
    if profile.name == "jetson-orin" or profile.kind in ("mobile", "npu"):
        assert profile.price is None


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("v100", "f32", 15.7e12),
        ("v100", "fp16", 125e12),
        ("a100", "f32", 19.5e12),
        ("a100", "tf32", 156e12),
        ("a100", "bf16", 312e12),
        ("a100", "int8", 624e12),
        ("h100", "bf16", 989.4e12),
        ("h100", "fp8", 1978.9e12),
        ("h200", "bf16", 989.4e12),
        ("b200", "bf16", 2250e12),
        ("t4", "int8", 130e12),
        ("l4", "fp16", 121e12),
        ("rtx4090", "bf16", 165.2e12),
        ("jetson-orin", "int8", 85e12),
        ("mi300x", "bf16", 1307.4e12),
        ("tpu-v4", "bf16", 275e12),
        ("tpu-v5e", "bf16", 197e12),
        ("tpu-v5e", "int8", 394e12),
        ("tpu-v5p", "bf16", 459e12),
        ("tpu-v6e", "bf16", 918e12),
        ("edge-tpu", "int8", 4e12),
    ],
)
def test_published_rates(name: str, dtype: str, rate: float) -> None:
    rates = {str(known): value for known, value in load_profile(name).peak.items()}
    assert rates[dtype] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [
        ("v100", 900e9),
        ("a100", 2039e9),
        ("h100", 3352e9),
        ("h200", 4800e9),
        ("l4", 300e9),
        ("t4", 320e9),
        ("rtx4090", 1008e9),
        ("jetson-orin", 204.8e9),
        ("mi300x", 5300e9),
        ("tpu-v4", 1200e9),
        ("tpu-v5e", 819e9),
        ("tpu-v5p", 2765e9),
        ("tpu-v6e", 1638e9),
        ("systolic", 12.8e9),
    ],
)
def test_published_bandwidths_of_the_main_memory(name: str, bandwidth: float) -> None:
    assert load_profile(name).main_memory.bandwidth == pytest.approx(bandwidth)


@pytest.mark.parametrize("name", ["edge-tpu", "systolic"])
def test_the_rate_of_an_array_is_that_of_its_units(name: str) -> None:
    profile = load_profile(name)
    array = profile.compiler
    assert array.platform == "systolic"
    units = 2.0 * array.rows * array.columns * profile.clock
    assert profile.peak[array.dtype] == pytest.approx(units, rel=0.03)


def test_only_another_makers_gpu_stands_in_for_its_compiler() -> None:
    compilers = {name: load_profile(name).compiler for name in profile_names()}
    stand_ins = [n for n, c in compilers.items() if c.platform == "cuda" and c.stand_in]
    assert stand_ins == ["mi300x"]
    assert any("stand-in" in source for source in load_profile("mi300x").sources)


def test_only_the_local_cpu_is_measured() -> None:
    measured = [name for name in profile_names() if load_profile(name).mode == "measured"]
    assert measured == ["cpu"]


def test_an_unknown_target_says_which_there_are() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'cpus'.*'cpu'.*Valid: .*cpu"):
        load_profile("cpus")
    with pytest.raises(UsageError, match=r"unknown target 'h10'.*mean 'h100'.*own \.yaml"):
        load_profile("h10")


def test_plain_data_becomes_a_profile() -> None:
    profile = parse_profile(PLAIN, "here")
    assert (profile.name, profile.platform, profile.mode) == ("mine", "cuda", "modelled")
    assert profile.peak["bf16"] == 800e12
    assert profile.vector is None
    assert profile.price is None
    assert profile.memories[0].size == 50 * 2**20
    assert profile.memories[0].energy is None
    assert profile.main_memory.energy == pytest.approx(31e-12)
    assert (profile.granularity.m, profile.granularity.n, profile.granularity.k) == (16, 8, 16)
    assert profile.sources == ("its maker",)


def test_a_users_own_sheet_is_read_by_its_path(tmp_path: Path) -> None:
    for ending in ("yaml", "yml"):
        path = tmp_path / f"mine.{ending}"
        path.write_text(yaml.safe_dump(PLAIN), "utf-8")
        assert load_profile(str(path)) == parse_profile(PLAIN, "here")


def test_a_profile_of_an_earlier_version_opens() -> None:
    """Calibration wrote `sparsity: {}`, which says nothing."""
    assert parse_profile({**PLAIN, "sparsity": {}}, "here") == parse_profile(PLAIN, "here")


def test_profiles_compare_by_what_they_state() -> None:
    dumped = parse_profile(PLAIN, "here").model_dump(mode="json")
    earlier = {k: v for k, v in dumped.items() if k not in ("host_overhead", "checked", "error")}
    assert stated({**earlier, "sparsity": {"2:4": 2.0}}) == stated(dumped)
    assert stated({**dumped, "clock": 1.0}) != stated(dumped)
    assert stated({**dumped, "host_overhead": 1e-6}) != stated(dumped)


@pytest.mark.parametrize("key", [key for key in PLAIN if key != "f32_products"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(UsageError, match=f"profile 'x' lacks the key '{key}': add it"):
        parse_profile(changed((key,), DELETED), "profile 'x'")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("peak", "bf16"), "-1 TFLOP/s", "peak.bf16: a rate must be .* not negative, got '-1 TFL"),
        (("peak", "bf16"), "0 TFLOP/s", "peak.bf16: it must be above 0, got 0: leave out"),
        (("peak", "bf61"), "1 TFLOP/s", "unknown dtype 'bf61' in `peak` of x.*mean 'bf16'.*Valid"),
        (("energy", "fp61"), "1 pJ", "unknown dtype 'fp61' in `energy` of x.*mean 'fp16'.*Valid"),
        (("peak", "bf16"), 312, "peak.bf16: a rate must have a unit, got 312: write it like '19"),
        (("peak", "bf16"), "312 GB/s", "peak.bf16: .*unit like that of '19.5 TFLOP/s', got '312 "),
        (("peak",), {}, "`peak` is empty: give at least one dtype's rate"),
        (("peak",), None, "peak: must be a mapping, got None"),
        (("peak",), {"bf16": "1 TFLOP/s"}, "`peak` lacks f32: .*give its rate"),
        (("energy",), {"bf16": "1 pJ"}, "`energy` lacks f32: give the energy of a float32"),
        (("f32_products",), "fp8", "`f32_products` is fp8, which `peak` lacks: add it"),
        (("f32_products",), "tf23", "unknown f32_products 'tf23' in x.*mean 'tf32'.*Valid: f32"),
        (("launch_overheads",), "1 us", "unknown key 'launch_overheads' in x.*'launch_overhead'"),
        (("power", "idel"), "1 W", "unknown key 'idel' in `power` of x.*mean 'idle'.*Valid"),
        (("compiler", "capabilty"), "9.0", "unknown key 'capabilty' in `compiler` of x.*'capab"),
        (("memories", 1, "bandwith"), "1 B/s", "key 'bandwith' in `memories.1` of x.*'bandwidth'"),
        (("granularity", "q"), 1, "unknown key 'q' in `granularity` of x.*Valid: m, n, k"),
        (("memories", 1, "size"), DELETED, "x lacks the key 'memories.1.size': add it"),
        (("compiler", "threads_per_core"), DELETED, "x lacks the key 'compiler.threads_per_core'"),
        (("memories", 0, "size"), "0 B", "memories.0.size: it must be above 0, got 0"),
        (("memories",), [], "memories: must have at least one entry, got"),
        (("memories",), None, "memories: must be a list, got None"),
        (("name",), "A GPU", "name: must be lower-case letters.*got 'A GPU'"),
        (("name",), "-gpu", "name: must be lower-case letters.*got '-gpu'"),
        (("name",), "", "name: must be lower-case letters.*got ''"),
        (("name",), None, "name: must be text.*got None"),
        (("sources",), [], "sources: must have at least one entry, got"),
        (("sources",), "its maker", "sources: must be a list, got 'its maker'"),
        (("sources",), None, "sources: must be a list, got None"),
        (("power", "idle"), "800 W", "power: idle must not exceed peak, got 800 W > 700 W"),
        (("efficiency",), {"dot": 1.5}, "`efficiency` must give shares above 0 .* got dot: 1.5"),
        (("efficiency",), {"dots": 0.5}, "unknown .*'dots'.*"),
        (("sparsity",), {"2:4": 2.0}, "x must not have the key 'sparsity', got .*2:4.*: remove it"),
        (("units",), "108", "units: must be a whole number, got '108'"),
        (("units",), True, "units: must be a whole number, got True"),
        (("units",), 108.0, "units: must be a whole number, got 108.0"),
        (("vector",), "0 FLOP/s", "vector: it must be above 0, got 0"),
        (("clock",), "0 Hz", "clock: it must be above 0, got 0"),
        (("energy", "f32"), "0 pJ", "energy.f32: it must be above 0, got 0"),
        (("sources",), [""], "`sources` has an empty text: say where"),
        (("sources",), ["a data sheet", "  "], "`sources` has an empty text: say where"),
        (("compiler", "platform"), "cudaa", "unknown platform 'cudaa' .*mean 'cuda'.*Valid: cpu"),
        (("compiler", "platform"), DELETED, "x lacks the key 'compiler.platform': add it"),
        (("compiler",), "cuda", "compiler: must be a mapping, got 'cuda'"),
        (("compiler", "capability"), "9", "compiler.capability: must be like '9.0', got '9'"),
        (("compiler", "capability"), 9.0, r"must be text \(put a number in quotes\), got 9.0"),
        (("compiler", "fpus_per_core"), 0, "compiler.fpus_per_core: must be above 0, got 0"),
        (("compiler", "stand_in"), "maybe", "compiler.stand_in: must be true or false, got 'may"),
        (("mode",), "measure", "unknown mode 'measure' in x.*mean 'measured'.*Valid: measured"),
        (("kind",), "gpus", "unknown kind 'gpus' in x.*mean 'gpu'.*Valid: cpu, gpu"),
        (("units",), 1.5, "units: must be a whole number, got 1.5"),
        (("units",), 0, "units: must be above 0, got 0"),
        (("price",), "3 EUR/h", "price: a price must have a unit like that of '1.20 USD/h', got"),
    ],
)
def test_what_a_profile_refuses(path: tuple[str | int, ...], value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        parse_profile(changed(path, value), "x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ({"platform": "tpu", "topology": "v5e"}, "compiler.topology: must be like 'v5e:2x2'"),
        ({"platform": "iree", "triple": "aarch64-none-elf"}, "lacks the key 'compiler.cpu': add"),
        ({"platform": "cpu", "cpu": "zen4"}, "unknown key 'cpu' in `compiler` of x.*Valid: plat"),
        (
            {"platform": "systolic", "rows": 8, "columns": 8, "dataflow": "x", "dtype": "int8"},
            "unknown dataflow 'x' in `compiler` of x.*Valid: output_stationary, weight",
        ),
    ],
)
def test_what_a_compiler_refuses(compiler: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        parse_profile(changed(("compiler",), compiler), "x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("plain", [None, "cpu", ["cpu"], 3])
def test_a_profile_is_a_mapping(plain: object) -> None:
    with pytest.raises(
        UsageError, match="x must be a mapping with name, .*got " + re.escape(repr(plain))
    ):
        parse_profile(plain, "x")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no profile '.*none.yaml': check the path"):
        load_profile(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("content", [b"name: [1", b"a: b: c", b"\xff\xfe\x00\x81", b"\x00"])
def test_a_file_that_is_not_yaml_is_named_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"'.*mine\.yaml' is not YAML: .") as refused:
        load_profile(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("name: " + "[" * 3000 + "]" * 3000, "nested more than 50"),
        (
            "a0: &a0 [l,l,l,l,l,l,l,l,l]\n"
            + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
            "more than 100,000 values",
        ),
        ("name: &x {a: *x}\n", r"\*x stands within itself"),
        ("name: " + "x" * 10_000_000, "more than 10,000,000 bytes"),
    ],
)
def test_a_file_that_would_be_endless_is_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=rf"'.*mine\.yaml'.* {words}") as refused:
        load_profile(str(path))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("content", ["", "just text", "- 1"])
def test_a_file_that_is_no_mapping_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError, match=r"profile '.*mine\.yaml' must be a mapping"):
        load_profile(str(path))


def test_a_profile_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_profile("cpu").units = 2
