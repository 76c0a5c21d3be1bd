"""How a deployed model's arrays lie in a file, to the byte.

A site's weights are stored as `weight_bits` wide two's-complement integers without gaps, lowest bit
first, or as float32. Where that is smaller, only the weights that were not pruned are stored, after
a bitmap with one bit a weight. Everything else (biases, norms, scales) is float32 as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from paretax.spaces.compression import Recipe
from paretax.spaces.quantization import FLOAT_BITS
from paretax.spaces.sites import Arrays, Site


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one site's weights are stored.

    Args:
        form: all of them, or a bitmap and the ones that stay.
        bits: width of a stored weight; 32 is float32.
        shape: of the weight.
        stored: how many weights are stored.
    """

    form: Literal["dense", "bitmap"]
    bits: int
    shape: tuple[int, ...]
    stored: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and their bitmap, without scales."""
        bitmap = (int(np.prod(self.shape)) + 7) // 8 if self.form == "bitmap" else 0
        return bitmap + (self.stored * self.bits + 7) // 8


def layout(site: Site, recipe: Recipe) -> Layout:
    """The smaller of the two forms; known before any training."""
    kept = site.size - recipe.pruned({site.weight: site})[site.weight]
    forms = [
        Layout(form="dense", bits=recipe.weight_bits, shape=site.shape, stored=site.size),
        Layout(form="bitmap", bits=recipe.weight_bits, shape=site.shape, stored=kept),
    ]
    return min(forms, key=lambda form: form.nbytes)


def stored_bytes(sites: Mapping[str, Site], recipe: Recipe, shapes: Mapping[str, Any]) -> int:
    """Bytes of all stored arrays, without the file's own header.

    Args:
        sites: of the model.
        recipe: what is done to them.
        shapes: shapes and dtypes of the deployed arrays, from `deployed_shapes`.
    """
    total = 0
    for name, array in shapes.items():
        if name in sites:
            total += layout(sites[name], recipe).nbytes
        elif name.endswith(".input") and name.removesuffix(".input") in sites:
            total += 4  # the step; the largest code follows from the width
        else:
            total += int(np.prod(array.shape)) * array.dtype.itemsize
    return total


def pack(
    arrays: Arrays, kept: Mapping[str, Any], sites: Mapping[str, Site], recipe: Recipe
) -> dict[str, np.ndarray]:
    """The arrays as they are stored.

    Args:
        arrays: from `compress`.
        kept: the mask of each site, from `masks`.
        sites: of the model.
        recipe: what was done to them.

    Returns:
        A site's weights under its name (uint8, or float32), its bitmap under `NAME.bitmap` (uint8)
        where it has one, its input's step under `NAME.input` (shape (1,)); the rest as it is.
    """
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        value = np.asarray(array)
        if name in sites:
            form = layout(sites[name], recipe)
            flat = value.ravel()
            if form.form == "bitmap":
                mask = np.asarray(kept[name]).ravel()
                flat = flat[mask]
                out[f"{name}.bitmap"] = np.packbits(mask, bitorder="little")
            out[name] = flat if form.bits == FLOAT_BITS else _pack_codes(flat, form.bits)
        elif name.endswith(".input") and name.removesuffix(".input") in sites:
            out[name] = value[:1]
        else:
            out[name] = value
    return out


def unpack(
    stored: Mapping[str, np.ndarray], layouts: Mapping[str, Layout], input_limit: float
) -> dict[str, np.ndarray]:
    """The arrays that the deployed program takes; the inverse of `pack`.

    Args:
        stored: from `pack`.
        layouts: of the sites, by name.
        input_limit: the largest code of quantised inputs.
    """
    out: dict[str, np.ndarray] = {}
    for name, value in stored.items():
        if name.endswith(".bitmap") and name.removesuffix(".bitmap") in layouts:
            continue
        if name.endswith(".input") and name.removesuffix(".input") in layouts:
            out[name] = np.array([value[0], input_limit], np.float32)
            continue
        if name not in layouts:
            out[name] = value
            continue
        form = layouts[name]
        kept = value if form.bits == FLOAT_BITS else _unpack_codes(value, form.bits, form.stored)
        size = int(np.prod(form.shape))
        if form.form == "bitmap":
            mask = np.unpackbits(stored[f"{name}.bitmap"], count=size, bitorder="little")
            full = np.zeros(size, kept.dtype)
            full[mask.astype(bool)] = kept
            kept = full
        out[name] = kept.reshape(form.shape)
    return out


def _pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    shifts = np.arange(bits, dtype=np.uint8)
    spread = (codes.astype(np.int8).view(np.uint8)[:, None] >> shifts) & np.uint8(1)
    return np.packbits(spread.ravel(), bitorder="little")


def _unpack_codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    spread = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    values = (spread << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.int16)
    signed: np.ndarray = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return signed.astype(np.int8)
