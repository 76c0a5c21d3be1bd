"""How long a kernel takes on a device, from its data sheet alone.

A roofline (Williams, Waterman, Patterson: Roofline, CACM 2009) a kernel, with what a data sheet
knows beyond it: products are padded to the granularity of the unit that multiplies, their tiles
fill the device's cores in waves, each array comes from the memory that holds it, and a short
transfer does not reach the bandwidth (Little's law). Nothing here was fitted to networks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from paretax.evaluators.kernels import Kernel, Product
from paretax.evaluators.latency_model.kinds import habits
from paretax.evaluators.systolic import Array, cycles
from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.profile import Systolic

_NEXT = {
    "int4": "int8",
    "int8": "bf16",
    "fp8": "fp16",
    "fp16": "bf16",
    "bf16": "f32",
    "tf32": "f32",
}
"""In which dtype a device multiplies that has no unit for one."""

_TILES = ((256, 128), (128, 128), (128, 64), (64, 64), (64, 32), (32, 32), (16, 16))
"""Of a product that one core works on, as libraries offer them."""

_SPLITS = (1, 2, 4, 8, 16)
"""Into how many parts a long sum may be split, to fill more cores."""

_LOOPS = 0.45
"""Operations a clock of a convolution in XLA:CPU's plain loops: 0.24 to 0.66 on a Xeon."""

_FEW_ROWS, _MANY_ROWS = 4096, 65536
_FEW, _MANY = 2.3e-6, 14e-6
"""Seconds of one group of a convolution whose groups have a width that is no power of two, up to so
many rows; with more, and for each so many of them: measured on an H100 for 3 to 38 groups of 24 and
48 channels, batches 1 to 256. Groups of 4 to 256 channels that are powers of two run at once."""

TRANSCENDENTAL = 8
"""Elementary operations of an exponential or a root, by polynomial or Newton steps."""

LATENCY = {"cpu": 80e-9, "mobile": 120e-9, "gpu": 600e-9, "tpu": 500e-9, "npu": 100e-9}
"""Seconds until the first byte from the farthest memory, by kind of device."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a program keeps in memory.

    Args:
        resident: bytes of all of it, which decides where its weights lie between two calls.
        temporary: bytes among them that exist during a call only.
    """

    resident: float
    temporary: float


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What limits a kernel, all in seconds of one run.

    Args:
        compute: of its arithmetic.
        memory: of what it moves.
        launch: before it, or beside it.
        apart: whether `memory` already is what the arithmetic does not hide.
    """

    compute: float
    memory: float
    launch: float
    apart: bool = False

    @property
    def busy(self) -> float:
        """Arithmetic and transfers, which overlap in part: the 1.5-norm of the two.

        Between no overlap (their sum) and a perfect one (the larger of the two).
        """
        if self.apart:
            return self.compute + self.memory
        return float((self.compute**1.5 + self.memory**1.5) ** (1 / 1.5))


def bound(kernel: Kernel, profile: HardwareProfile, footprint: Footprint) -> Bound:
    """The limits of a kernel on a device.

    Args:
        kernel: what runs.
        profile: of the device.
        footprint: of its program.
    """
    if runs_on_array(kernel, profile):
        return _on_array(kernel, profile)
    if kernel.library == "loops" and profile.kind == "cpu":
        products = sum(p.flops for p in kernel.products) / (_LOOPS * profile.clock)
    else:
        products = sum(product_seconds(p, kernel.dtype, profile) for p in kernel.products)
    plain = kernel.operations + (TRANSCENDENTAL - 1) * kernel.transcendentals
    occupied = _occupied(kernel, profile)
    vector = plain / (vector_rate(profile) * occupied)
    return Bound(
        compute=products + vector,
        memory=_memory(kernel, profile, footprint.resident),
        launch=profile.launch_overhead,
    )


def runs_on_array(kernel: Kernel, profile: HardwareProfile) -> bool:
    """Whether a systolic array multiplies it; what is wider than the array's dtype runs beside it,
    on whatever gives the profile's rate for that dtype.
    """
    sheet = profile.compiler
    if not isinstance(sheet, Systolic) or not kernel.products:
        return False
    return peak(kernel.dtype, profile) >= peak(sheet.dtype, profile)


def _on_array(kernel: Kernel, profile: HardwareProfile) -> Bound:
    """Of a kernel with products on a systolic array, cycle by cycle, waiting for DRAM included."""
    array = Array.of(profile)
    taken = [cycles(p, array) for p in kernel.products]
    compute = sum(c.compute for c in taken) / array.clock
    stalls = sum(c.stalls for c in taken) / array.clock
    plain = kernel.operations + (TRANSCENDENTAL - 1) * kernel.transcendentals
    return Bound(
        compute=compute + plain / vector_rate(profile),
        memory=stalls,
        launch=profile.launch_overhead,
        apart=True,
    )


def vector_rate(profile: HardwareProfile) -> float:
    """Elementwise operations a second."""
    return profile.vector or profile.peak["f32"]


def peak(dtype: str, profile: HardwareProfile) -> float:
    """Operations a second of products of this dtype, or of the next one that the device has.

    float32 products run in the dtype that XLA takes for them at its default precision.
    """
    if dtype == "f32":
        return profile.peak[profile.f32_products]
    if dtype == "f64":
        return profile.peak["f32"] / 2
    while dtype not in profile.peak:
        if dtype not in _NEXT:  # 32-bit whole numbers, which no matrix unit multiplies
            return vector_rate(profile)
        dtype = _NEXT[dtype]
    return profile.peak[dtype]


def product_seconds(product: Product, dtype: str, profile: HardwareProfile) -> float:
    """A product on the matrix unit, or, where padding would cost more, on the vector unit.

    A GPU's library multiplies in tiles whatever unit does it, so that tiles, waves and padding
    count also in a dtype for which the device has vector units alone; only a product that is
    thinner than the smallest tile (of a vector, of a channel) runs without. Groups of odd widths
    run one after another.
    """
    if profile.kind == "gpu" and _is_one_by_one(product):
        least = _FEW if product.m <= _FEW_ROWS else _MANY * max(1.0, product.m / _MANY_ROWS)
        return product.groups * max(
            least, product_seconds(replace(product, groups=1), dtype, profile)
        )
    matrix = min(
        _tiled(product, tile, split, profile) for tile in _tiles(profile) for split in _SPLITS
    ) / peak(dtype, profile)
    if profile.kind == "gpu" and min(product.m, product.n) >= min(_TILES[-1]):
        return matrix
    return min(product.flops / vector_rate(profile), matrix)


def _is_one_by_one(product: Product) -> bool:
    """Whether a GPU's library runs the groups of a convolution one after another."""
    grouped = product.groups > 1 and product.kind == "convolution"
    return grouped and product.n & (product.n - 1) != 0  # no power of two


def _tiles(profile: HardwareProfile) -> tuple[tuple[int, int], ...]:
    """Those of a library; a single core has nothing to share, so its tile is its granularity."""
    grain = profile.granularity
    return _TILES if profile.units > 1 else ((grain.m, grain.n),)


def _tiled(product: Product, tile: tuple[int, int], split: int, profile: HardwareProfile) -> float:
    """Operations for which the device is busy: padded to tiles, in waves over its cores.

    A core works through a tile at its share of the peak, less what small tiles lose to moving
    their operands: a tile of m x n does m n operations for each m + n numbers that it loads.
    """
    grain = profile.granularity
    rows, columns = max(tile[0], grain.m), max(tile[1], grain.n)
    k = _up(product.k, grain.k * split)
    tiles = product.groups * -(-product.m // rows) * -(-product.n // columns) * split
    waves = -(-tiles // profile.units)
    operations = 2.0 * rows * columns * (k / split)
    if profile.units == 1:
        return waves * operations
    balance = grain.m * grain.n / (grain.m + grain.n)
    intensity = rows * columns / (rows + columns)
    return waves * operations * profile.units * (1 + balance / intensity)


def _up(length: int, grain: int) -> int:
    return -(-length // grain) * grain


def _occupied(kernel: Kernel, profile: HardwareProfile) -> float:
    """The share of the vector units that an elementwise kernel can fill."""
    lanes = profile.units * profile.vector_bytes / 4
    work = max(kernel.operations, 1)
    return min(1.0, max(work / (4 * lanes), 1 / profile.units))


def _memory(kernel: Kernel, profile: HardwareProfile, resident: float) -> float:
    """Seconds of moving: what was given lies where the whole program fits, the rest nearer."""
    far = max(0, kernel.bytes - kernel.bytes_near)
    given = min(kernel.bytes_arguments, far)
    passed = far - given
    if profile.kind == "tpu":  # no cache: what is on the chip, the compiler has put there
        seconds = far / profile.main_memory.bandwidth
    else:
        seconds = given / _bandwidth(profile, resident)
        seconds += passed / _bandwidth(profile, min(resident, 2.0 * kernel.bytes))
    seconds += kernel.bytes_near / profile.memories[0].bandwidth
    reach = LATENCY[profile.kind] if profile.kind in ("gpu", "tpu", "npu") else 0.0
    return seconds + (reach if far else 0.0)


def _bandwidth(profile: HardwareProfile, size: float) -> float:
    """Of the memory that holds a working set; between two, the share of each counts.

    A set that is larger than a cache loses it gradually: up to twice the cache's size part of it
    is still found there.
    """
    levels = profile.memories
    for near, far in itertools.pairwise(levels):
        if size <= near.size:
            return near.bandwidth
        if size < 2 * near.size:
            missed = (size - near.size) / near.size
            return 1 / ((1 - missed) / near.bandwidth + missed / far.bandwidth)
    return levels[-1].bandwidth


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What a device works through in a call, in seconds.

    Args:
        serial: of the kernels, which run one after another, with their launches.
        beside: of the copies that the compiler set beside them.
        host: of the host's work before the device begins: kernels that are launched as a graph.
        library: of the host's work beside the device: calls of libraries, one after another.
    """

    serial: float = 0.0
    beside: float = 0.0
    host: float = 0.0
    library: float = 0.0

    def __add__(self, other: Queue) -> Queue:
        """One after the other."""
        return Queue(
            serial=self.serial + other.serial,
            beside=self.beside + other.beside,
            host=self.host + other.host,
            library=self.library + other.library,
        )

    @property
    def device(self) -> float:
        """Copies hide behind kernels in part, as the first kernels wait for theirs: the 1.5-norm
        of the two, as within a kernel.
        """
        return float((self.serial**1.5 + self.beside**1.5) ** (1 / 1.5))

    @property
    def seconds(self) -> float:
        """Of a call that one waits for."""
        return self.host + max(self.library, self.device)


def queue(kernels: list[tuple[Kernel, float]], profile: HardwareProfile) -> Queue:
    """The kernels of a program.

    Args:
        kernels: each with the seconds of one run, without the launch.
        profile: of the device.
    """
    found, known, slow = Queue(), habits(profile), profile.slowdown
    for kernel, seconds in kernels:
        by_library, times = kernel.library == "cudnn", kernel.count * slow
        found += Queue(
            serial=0.0 if kernel.overlapped else times * (seconds + profile.launch_overhead),
            beside=times * seconds if kernel.overlapped else 0.0,
            host=0.0 if by_library else times * known.host,
            library=times * known.library if by_library else 0.0,
        )
    return found


def calling_seconds(arguments: int, profile: HardwareProfile) -> float:
    """Of a call, before and after its kernels."""
    return profile.call_overhead + arguments * profile.argument_overhead
