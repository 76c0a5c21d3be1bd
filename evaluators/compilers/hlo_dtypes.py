"""Kernels that only make a product's operands fit a device, and that another would not run.

XLA:CPU has no product of int8 rows, nor most of 16 bits: it converts the operands to int32 or
float32 first, and spreads grouped filters of integers out over all channels, with zeros between.
"""

from __future__ import annotations

from paretax.evaluators.compilers.hlo_text import Computation, Instruction, Module

_LOOKED_THROUGH = {"bitcast", "copy", "transpose", "reshape", "broadcast", "slice", "reverse"}
_SPREADS = {"constant", "iota", "compare", "select"}
"""What puts zeros between the filters of groups."""

_WHOLE = {"s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32,
          "u32": 32, "s64": 64}  # fmt: skip
_EXACT = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
"""Bits of the largest whole numbers up to which a floating-point type holds all."""

_RANGE = {"bf16": 8, "f16": 5, "f32": 8, "f64": 11}  # bits of the exponent


def holds(wide: str, narrow: str) -> bool:
    """Whether a type holds every value of another."""
    if narrow == wide:
        return True
    if narrow in _WHOLE:
        bits = _WHOLE[narrow] - narrow.startswith("s")
        if wide in _WHOLE:
            room = _WHOLE[wide] - wide.startswith("s")
            return room >= bits and (wide.startswith("s") or narrow.startswith("u"))
        return _EXACT.get(wide, 0) >= bits
    if narrow.startswith("f8e") or narrow.startswith("f4"):
        return wide in _EXACT and not (wide == "f16" and "e8m0" in narrow)
    if narrow in _EXACT and wide in _EXACT:
        return _EXACT[wide] >= _EXACT[narrow] and _RANGE[wide] >= _RANGE[narrow]
    return False


def only_widens(module: Module, place: Computation, instruction: Instruction) -> bool:
    """Whether a kernel does nothing but convert operands of products to a type that holds them.

    Args:
        module: the program.
        place: the computation in which the kernel stands.
        instruction: the kernel.
    """
    parts, sources = [instruction], place.instructions
    if instruction.opcode == "fusion":
        sources = module.computations[instruction.called[0]].instructions
        parts = [part for part in sources.values() if part.opcode != "parameter"]
    converted = False
    for part in parts:
        if part.opcode == "convert":
            before = sources[part.operands[0]].results[0].dtype
            converted = holds(part.results[0].dtype, before)
            if not converted:
                return False
        elif part.opcode not in _LOOKED_THROUGH | _SPREADS:
            return False
    users = [user for user in place if instruction.name in user.operands]
    return converted and bool(users) and all(_multiplies(module, user) for user in users)


def _multiplies(module: Module, instruction: Instruction) -> bool:
    if instruction.opcode in ("dot", "convolution"):
        return True
    bodies = [module.computations[n] for n in instruction.called if n in module.computations]
    return any(_multiplies(module, part) for body in bodies for part in body)
