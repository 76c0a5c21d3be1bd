"""The compilers of the targets: XLA's for CPU, TPU and NVIDIA GPU, IREE's for ARM."""

from paretax.evaluators.compilers.compiling import Compiler, compile_for
from paretax.evaluators.compilers.portable import PortableProgram
from paretax.evaluators.compilers.program import CompiledProgram, CompileError, MissingExtraError
from paretax.evaluators.compilers.services import close_services, service
from paretax.evaluators.compilers.store import Store

__all__ = [
    "CompileError",
    "CompiledProgram",
    "Compiler",
    "MissingExtraError",
    "PortableProgram",
    "Store",
    "close_services",
    "compile_for",
    "service",
]
