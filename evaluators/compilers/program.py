"""What a compiler says of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paretax.errors import UsageError
from paretax.evaluators.compilers.traced import TracedProduct
from paretax.evaluators.kernels import Kernel

_LONGEST = 400  # characters of what a compiler says; some print the whole program


class CompileError(RuntimeError):
    """The target's compiler refused a program; the message has its first words, in one line."""

    def __init__(self, words: str) -> None:
        line = " ".join(words.split())
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ...")

    def __reduce__(self) -> tuple[type[CompileError], tuple[str]]:
        return CompileError, (str(self),)


class MissingExtraError(UsageError):
    """The target's compiler is not installed; the message names the extra that brings it."""

    def __init__(self, target: str, compiler: str, extra: str) -> None:
        super().__init__(
            f"target {target!r} needs {compiler}, which is not installed: "
            f"pip install 'paretax[{extra}]'"
        )


@dataclass(frozen=True, kw_only=True)
class CompiledProgram:
    """A program that a target's compiler made, without what runs it.

    Args:
        fingerprint: of the program and of the compiler; equal programs, equal costs.
        kernels: what it runs in a call, in order.
        peak_memory: bytes that it needs at once: arguments, results and temporaries.
        argument_bytes: of the arguments among them, weights and inputs.
        output_bytes: of the results among them.
        arguments: how many arrays a call passes.
        code_size: bytes of machine code; None: the compiler does not say.
        estimate: the compiler's own, of a whole call, in seconds; None: it makes none.
        seconds: that compiling took.
        compiler: its name and version.
        products: what the program multiplies, before its compiler changed it.
        text: of the optimised program; "" where it was not kept.
    """

    fingerprint: str
    kernels: tuple[Kernel, ...]
    peak_memory: int
    argument_bytes: int
    output_bytes: int
    arguments: int
    code_size: int | None
    estimate: float | None
    seconds: float
    compiler: str
    products: tuple[TracedProduct, ...] = ()
    text: str = field(default="", repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plain data, without the text."""
        return {
            "fingerprint": self.fingerprint,
            "kernels": [k.to_json() for k in self.kernels],
            "peak_memory": self.peak_memory,
            "argument_bytes": self.argument_bytes,
            "output_bytes": self.output_bytes,
            "arguments": self.arguments,
            "code_size": self.code_size,
            "estimate": self.estimate,
            "seconds": self.seconds,
            "compiler": self.compiler,
            "products": [p.to_json() for p in self.products],
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], text: str = "") -> CompiledProgram:
        """The inverse of `to_json`."""
        kernels = tuple(Kernel.from_json(k) for k in plain["kernels"])
        products = tuple(TracedProduct.from_json(p) for p in plain["products"])
        return cls(**{**plain, "kernels": kernels, "products": products, "text": text})
