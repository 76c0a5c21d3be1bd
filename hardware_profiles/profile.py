"""A device on which candidates are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, ValidationError, model_validator

from paretax.errors import UsageError, shortened, shown, unknown
from paretax.hardware_profiles.machine import processor_fingerprint, user_profiles
from paretax.hardware_profiles.quantities import (
    Area,
    Bandwidth,
    Bytes,
    Frequency,
    Joules,
    Price,
    Rate,
    Seconds,
    Watts,
)
from paretax.plain import read_yaml_file

Dtype = Literal["f32", "tf32", "bf16", "fp16", "fp8", "int8", "int4"]
DTYPES: tuple[str, ...] = get_args(Dtype)
Kind = Literal["cpu", "gpu", "tpu", "mobile", "npu"]
KernelKind = Literal["dot", "convolution", "depthwise", "reduction", "elementwise", "data", "other"]
"""`data` only moves (copy, transpose, pad, gather); `reduction` sums, pools or normalises."""


class _Sheet(BaseModel):
    """Part of a data sheet: each key is checked, an unknown one refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalCpu(_Sheet):
    """XLA's compiler for the processor that runs paretax; its kernels are those of any CPU."""

    platform: Literal["cpu"]


class Tpu(_Sheet):
    """XLA's compiler for TPUs, which the extra `tpu` brings."""

    platform: Literal["tpu"]
    topology: str = Field(pattern=r"^v[0-9]+[a-z]*:[0-9x]+$")
    """The smallest that libtpu knows with this chip, such as v5e:2x2; one chip of it is used."""


class Cuda(_Sheet):
    """XLA's compiler for NVIDIA GPUs, which the extra `cuda` brings."""

    platform: Literal["cuda"]
    capability: str = Field(pattern=r"^[0-9]+\.[0-9]$")
    """CUDA compute capability, such as 9.0."""
    fpus_per_core: int = Field(gt=0, strict=True)
    """FP32 units of a streaming multiprocessor."""
    shared_memory_per_core: Bytes
    """Of a streaming multiprocessor."""
    shared_memory_per_block: Bytes
    """What a thread block may ask for (the opt-in limit)."""
    threads_per_core: int = Field(gt=0, strict=True)
    """Resident threads of a streaming multiprocessor."""
    stand_in: bool = False
    """Whether the device is another maker's, and these settings are the nearest NVIDIA ones."""


class Iree(_Sheet):
    """IREE's compiler through LLVM, which the extra `edge` brings."""

    platform: Literal["iree"]
    triple: str
    """LLVM's target, such as aarch64-none-linux-android29."""
    cpu: str
    """LLVM's name of the core, such as cortex-a76."""


class Systolic(_Sheet):
    """No compiler: the graph's products are laid on an array of multipliers, cycle by cycle."""

    platform: Literal["systolic"]
    rows: int = Field(gt=0, strict=True)
    columns: int = Field(gt=0, strict=True)
    dataflow: Literal["output_stationary", "weight_stationary", "input_stationary"]
    dtype: Dtype
    """In which the array multiplies."""
    area_per_unit: Area | None = None
    """Of a multiplier-accumulator; None: the area is not known."""
    area_per_mebibyte: Area | None = None
    """Of on-chip memory; None: the area is not known."""


Compiler = Annotated[LocalCpu | Tpu | Cuda | Iree | Systolic, Discriminator("platform")]


DATA_SHEET = "data sheet only"
"""The standing of a device whose model nobody held against a measurement."""


class Memory(_Sheet):
    """One level of memory."""

    name: str
    size: Bytes
    """Of the whole device, in bytes."""
    bandwidth: Bandwidth
    """Of the whole device, in bytes a second."""
    energy: Joules | None = None
    """Of moving a byte, in joules; None: not known."""


class Power(_Sheet):
    """Electrical power of the whole device."""

    idle: Watts
    peak: Watts

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.idle > self.peak:
            raise ValueError(
                f"idle must not exceed peak, got {self.idle:g} W > {self.peak:g} W: "
                "are the two swapped?"
            )
        return self


class Granularity(_Sheet):
    """The sizes that a product is padded to: (m, k) times (k, n)."""

    m: int = Field(default=1, gt=0, strict=True)
    n: int = Field(default=1, gt=0, strict=True)
    k: int = Field(default=1, gt=0, strict=True)


class Calibration(_Sheet):
    """What measuring programs on the device itself taught."""

    corrections: str
    """File of the learned corrections, beside this profile."""
    processor: str
    """Fingerprint of the machine that was measured."""
    error: float = Field(gt=0, allow_inf_nan=False)
    """Standard deviation of the logarithm of measured / modelled latency, of programs that the
    corrections were not fitted on."""
    median_error: float = Field(ge=0, allow_inf_nan=False)
    """Median of |modelled / measured - 1| of these programs."""
    programs: int = Field(gt=0, strict=True)
    """That were measured."""


class HardwareProfile(_Sheet):
    """What is known of a device. All figures are of the whole device, in SI base units."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """Under which configs name it."""
    description: str
    """One line."""
    kind: Kind
    compiler: Compiler
    """What compiles a program for it."""
    mode: Literal["measured", "modelled"] = "modelled"
    """`measured` runs programs on the device, which must be this machine's."""
    peak: dict[Dtype, Rate]
    """Products of matrices (dense) by the dtype of the operands, op/s."""
    vector: Rate | None = None
    """Elementwise float32 arithmetic, op/s; None: the float32 peak."""
    f32_products: Dtype = "f32"
    """The dtype in which XLA computes a float32 product at its default precision."""
    memories: tuple[Memory, ...] = Field(min_length=1)
    """From the nearest to the units to the farthest, which holds the program."""
    launch_overhead: Seconds
    """Between two kernels of a program, in seconds."""
    call_overhead: Seconds
    """Of calling a program, in seconds."""
    argument_overhead: Seconds = 0.0
    """Of each array that a call passes, in seconds."""
    host_overhead: Seconds | None = None
    """Of the host's work for each kernel, before the device begins, in seconds; None: that of
    devices of its kind."""
    library_overhead: Seconds | None = None
    """Of the host's work for each call of a library (cuDNN), beside the device, in seconds; None:
    that of devices of its kind."""
    efficiency: dict[KernelKind, float] | None = None
    """Kind of kernel -> the share of its roofline that it reaches, 1 where a kind is left out;
    None: that of devices of its kind."""
    slowdown: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """By which everything but `call_overhead` takes longer than all the rest of the profile says,
    found by measuring programs on such a device."""
    units: int = Field(gt=0, strict=True)
    """Cores that share a kernel: streaming multiprocessors, tensor cores of a chip, CPU threads."""
    granularity: Granularity
    """Of the unit that multiplies matrices."""
    vector_bytes: int = Field(gt=0, strict=True)
    """Bytes that a vector instruction works on: SIMD register, warp, lanes x sublanes."""
    clock: Frequency
    power: Power
    energy: dict[Dtype, Joules]
    """Of an operation, by dtype, in joules."""
    price: Price | None = None
    """In USD an hour; None: it is not rented out."""
    checked: str = ""
    """What measurements on such a device its model was held against, with which outcome."""
    error: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Standard deviation of the logarithm of measured / modelled latency, of networks of families
    that the overheads and efficiencies were not fitted on; None: nobody measured the device."""
    calibration: Calibration | None = None
    """None: nobody calibrated it, and the data sheet stands alone."""
    sources: tuple[str, ...] = Field(min_length=1)
    """Where the figures are from, and which of them are estimates."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.peak:
            raise ValueError("`peak` is empty: give at least one dtype's rate")
        if "f32" not in self.peak:
            raise ValueError("`peak` lacks f32: every program has float32 parts; give its rate")
        if self.f32_products not in self.peak:
            raise ValueError(f"`f32_products` is {self.f32_products}, which `peak` lacks: add it")
        if "f32" not in self.energy:
            raise ValueError("`energy` lacks f32: give the energy of a float32 operation")
        for kind, share in (self.efficiency or {}).items():
            if not 0 < share <= 1:
                raise ValueError(
                    f"`efficiency` must give shares above 0 and at most 1, got {kind}: {share}"
                )
        if not all(source.strip() for source in self.sources):
            raise ValueError("`sources` has an empty text: say where the figures are from")
        return self

    @property
    def standing(self) -> str:
        """What its modelled latencies rest on, in a few words."""
        if self.calibration is not None:
            return f"calibrated on {self.calibration.programs} programs"
        return f"checked: {self.checked}" if self.checked else DATA_SHEET

    @property
    def platform(self) -> str:
        """Which compiler makes programs for it."""
        return self.compiler.platform

    @property
    def main_memory(self) -> Memory:
        """The one that holds weights, inputs and outputs."""
        return self.memories[-1]


def stated(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile's data states: without keys at their defaults, or that no cost follows from.

    So the data of a profile compare across versions that have more keys, or had others.
    """
    fields = {n: f for n, f in HardwareProfile.model_fields.items() if not f.is_required()}
    return {
        key: value
        for key, value in plain.items()
        if key not in ("sparsity", "checked")
        and not (key in fields and value == fields[key].get_default(call_default_factory=True))
    }


def parse_profile(plain: Any, where: str) -> HardwareProfile:
    """A profile from the data of its YAML file.

    Raises:
        UsageError: a missing or unknown key, or a value that the profile refuses.
    """
    if not isinstance(plain, Mapping):
        raise UsageError(
            f"{where} must be a mapping with name, peak, memories, ..., got {shown(plain)}"
        )
    if plain.get("sparsity"):
        raise UsageError(
            f"{where} must not have the key 'sparsity', got {shown(plain['sparsity'])}: remove it, "
            "as no compiler here makes sparse products, and no cost follows from it"
        )
    try:
        return HardwareProfile.model_validate({k: v for k, v in plain.items() if k != "sparsity"})
    except ValidationError as error:
        raise _readable(error, where) from None


_RULES = {
    "string_type": "must be text (put a number in quotes)",
    "tuple_type": "must be a list",
    "too_short": "must have at least one entry",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "invalid_key": "must be text, as every key",
}
"""pydantic's type of error -> the rule, in the words of a data sheet."""

_PATTERNS = {
    "name": "must be lower-case letters, digits, '.', '_' and '-', like 'my-phone'",
    "capability": "must be like '9.0'",
    "topology": "must be like 'v5e:2x2'",
}
"""Key -> what its pattern asks for."""


def _readable(error: ValidationError, where: str) -> UsageError:
    """The first error in one line: the rule, the value, the place, and the fix."""
    first = error.errors()[0]
    path = [str(p) for p in first["loc"] if p != "[key]"]
    named = [p for i, p in enumerate(path) if i != 1 or path[0] != "compiler"]  # not its platform
    place, value = shortened(".".join(named)), first["input"]
    inside = f"`{shortened('.'.join(named[:-1]))}` of {where}" if len(named) > 1 else where
    match first["type"]:
        case "extra_forbidden":
            known = HardwareProfile.model_fields if len(path) == 1 else _keys_beside(path)
            return unknown("key", path[-1], known, inside)
        case "missing":
            return UsageError(f"{where} lacks the key {place!r}: add it")
        case "union_tag_not_found":
            return UsageError(f"{where} lacks the key 'compiler.platform': add it")
        case "literal_error" if path[0] in ("peak", "energy"):
            return unknown("dtype", value, DTYPES, f"`{path[0]}` of {where}")
        case "literal_error":
            valid = re.findall(r"'([^']+)'", first["ctx"]["expected"])
            return unknown(named[-1], value, valid, inside)
        case "union_tag_invalid":
            platforms = re.findall(r"'([^']+)'", first["ctx"]["expected_tags"])
            return unknown("platform", value.get("platform"), platforms, f"`compiler` of {where}")
        case "value_error":
            rule = str(first["ctx"]["error"])
            return UsageError(f"{where}{f': {place}' if place else ''}: {rule}")
        case "greater_than":
            rule = f"must be above {first['ctx']['gt']}"
        case "string_pattern_mismatch":
            rule = _PATTERNS.get(path[-1], first["msg"])
        case kind:
            rule = _RULES.get(kind, first["msg"][0].lower() + first["msg"][1:])
    return UsageError(f"{where}: {place}: {rule}, got {shown(value)}")


def _keys_beside(path: list[str]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "cpu": LocalCpu,
        "tpu": Tpu,
        "cuda": Cuda,
        "iree": Iree,
        "systolic": Systolic,
        "memories": Memory,
        "power": Power,
        "granularity": Granularity,
    }
    for part in reversed(path[:-1]):
        if part in parts:
            return list(parts[part].model_fields)
    return []


_FOLDER = Path(__file__).parent


def profile_names() -> tuple[str, ...]:
    """The profiles that paretax ships."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _FOLDER.glob("*.yaml")))


def profile_file(name: str) -> Path:
    """The file of a shipped profile, or the user's own file by its path.

    Raises:
        UsageError: there is none.
    """
    path = Path(name)
    own = path.suffix in (".yaml", ".yml")
    if not own and name not in profile_names():
        raise UsageError(
            f"{unknown('target', name, profile_names())} Or the path of your own .yaml."
        )
    if own and not path.is_file():
        raise UsageError(f"there is no profile {name!r}: check the path")
    if own:
        return path
    calibrated = calibrated_path(name)
    return calibrated if calibrated.is_file() else _FOLDER / f"{name}.yaml"


def calibrated_path(name: str) -> Path:
    """Where the calibration of this machine under a profile's name is kept."""
    return user_profiles() / f"{name}-{processor_fingerprint()}.yaml"


def load_profile(name: str) -> HardwareProfile:
    """A shipped profile by name, or a user's own by the path of its YAML file.

    Where this machine was calibrated under a name, that profile stands for the shipped one.

    Raises:
        UsageError: there is none, or it is not well formed.
    """
    file = profile_file(name)
    profile = parse_profile(read_yaml_file(file), f"profile {name!r}")
    if profile.calibration is None:
        return profile
    beside = str(file.parent / profile.calibration.corrections)
    known = profile.calibration.model_copy(update={"corrections": beside})
    return profile.model_copy(update={"calibration": known})
