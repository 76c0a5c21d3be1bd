"""How a deployed model's arrays lie in a file, to the byte.

A site's weights are stored as `weight_bits` wide two's-complement integers without gaps, lowest bit
first, or in a floating-point format. Where that is smaller, only the weights that were not pruned
are stored, after a bitmap with one bit a weight, which also serves patterns N:M (for 2:4 it takes
as much room as indices would). Everything else (biases, norms, statistics, tables of whole numbers)
is as it is, in its own dtype, and scales are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from paretax.spaces.floating import format_of, stored_format
from paretax.spaces.recipe import Recipe, Treatment
from paretax.spaces.sites import Arrays, Site

_RAW: Mapping[int, type] = {32: np.float32, 16: np.uint16, 8: np.uint8}
"""How a file holds floating-point weights of each width."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one site's weights are stored.

    Args:
        form: all of them, or a bitmap and the ones that stay.
        number: "int", or the floating-point format, one of `PRECISIONS`.
        bits: width of a stored weight.
        shape: of the weight.
        stored: how many weights are stored.
    """

    form: Literal["dense", "bitmap"]
    number: str = "float32"
    bits: int
    shape: tuple[int, ...]
    stored: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and their bitmap, without scales."""
        bitmap = (int(np.prod(self.shape)) + 7) // 8 if self.form == "bitmap" else 0
        return bitmap + (self.stored * self.bits + 7) // 8


def layout(site: Site, treatment: Treatment, pruned: int | None = None) -> Layout:
    """The smaller of the two forms.

    Args:
        site: whose weights are stored.
        treatment: what is done to them.
        pruned: how many of them are zeroed; None: as many as the treatment says.
    """
    if treatment.weights_quantized:
        number, bits = "int", treatment.weight_bits
    else:
        number = stored_format(site, treatment.precision)
        bits = 8 * format_of(number).itemsize
    kept = site.size - (treatment.count(site.size) if pruned is None else pruned)
    forms = [
        Layout(form="dense", number=number, bits=bits, shape=site.shape, stored=site.size),
        Layout(form="bitmap", number=number, bits=bits, shape=site.shape, stored=kept),
    ]
    return min(forms, key=lambda form: form.nbytes)


def stored_bytes(
    sites: Mapping[str, Site],
    recipe: Recipe,
    shapes: Mapping[str, Any],
    pruned: Mapping[str, int] | None = None,
) -> int:
    """Bytes of all stored arrays, without the file's own header.

    Args:
        sites: of the model.
        recipe: what is done to them.
        shapes: shapes and dtypes of the deployed arrays, from `deployed_shapes`.
        pruned: how many weights each site lost; None: as the recipe says before training.
    """
    counts = recipe.pruned(sites) if pruned is None else pruned
    total = 0
    for name, array in shapes.items():
        if name in sites:
            total += layout(sites[name], recipe.treatments[name], counts[name]).nbytes
        elif name.endswith(".input") and name.removesuffix(".input") in sites:
            total += 4 * int(np.prod(array.shape[:-1]))  # the largest code follows from the width
        else:
            total += int(np.prod(array.shape)) * array.dtype.itemsize
    return total


def pack(
    arrays: Arrays, kept: Mapping[str, Any], sites: Mapping[str, Site], recipe: Recipe
) -> dict[str, np.ndarray]:
    """The arrays as they are stored.

    Args:
        arrays: from `compress`.
        kept: the mask of each site, from `masks` or of weights that are not zero.
        sites: of the model.
        recipe: what was done to them.

    Returns:
        A site's weights under its name (uint8 where they are packed; float16 formats as uint16),
        its bitmap under `NAME.bitmap` (uint8) where it has one, its input's step under
        `NAME.input` (shape (..., 1)); the rest as it is.
    """
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        value = np.asarray(array)
        if name in sites:
            mask = np.asarray(kept[name]).ravel()
            form = layout(sites[name], recipe.treatments[name], int((~mask).sum()))
            flat = value.ravel()
            if form.form == "bitmap":
                flat = flat[mask]
                out[f"{name}.bitmap"] = np.packbits(mask, bitorder="little")
            if form.number == "int":
                out[name] = _pack_codes(flat, form.bits)
            else:
                out[name] = flat.view(_RAW[form.bits])
        elif name.endswith(".input") and name.removesuffix(".input") in sites:
            out[name] = value[..., :1]
        else:
            out[name] = value
    return out


def unpack(
    stored: Mapping[str, np.ndarray],
    layouts: Mapping[str, Layout],
    input_limits: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """The arrays that the deployed program takes; the inverse of `pack`.

    Args:
        stored: from `pack`.
        layouts: of the sites, by name.
        input_limits: the largest code of each site's quantised inputs.
    """
    out: dict[str, np.ndarray] = {}
    for name, value in stored.items():
        if name.endswith(".bitmap") and name.removesuffix(".bitmap") in layouts:
            continue
        if name.endswith(".input") and (site := name.removesuffix(".input")) in layouts:
            limit = np.full_like(value, input_limits[site])
            out[name] = np.concatenate([value, limit], axis=-1)
            continue
        if name not in layouts:
            out[name] = value
            continue
        form = layouts[name]
        if form.number == "int":
            kept = _unpack_codes(value, form.bits, form.stored)
        else:
            kept = value.view(format_of(form.number))
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
