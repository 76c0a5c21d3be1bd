"""Compiling a program for a target, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.compilers.iree import compile_iree
from paretax.evaluators.compilers.portable import PortableProgram
from paretax.evaluators.compilers.program import CompiledProgram, CompileError
from paretax.evaluators.compilers.services import service
from paretax.evaluators.compilers.store import Store
from paretax.evaluators.compilers.targets import settings_key, target_settings
from paretax.evaluators.compilers.xla import REFUSALS, compile_exported
from paretax.hardware_profiles import HardwareProfile, load_profile

LOG = logging.getLogger("paretax.compilers")
"""Is told the target, as soon as its compiler has made a program or refused it."""


class Compiler:
    """Compiles programs for targets; equal graphs once, in this process and on this machine.

    Args:
        store: of programs on disk; None: the user's.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self._known: LeastRecentlyUsed[CompiledProgram] = LeastRecentlyUsed(4096)
        self._fingerprints: LeastRecentlyUsed[str] = LeastRecentlyUsed(4096)
        self.compilations = 0
        """How often a compiler ran."""

    def compile(
        self, profile: HardwareProfile, program: PortableProgram, with_text: bool = False
    ) -> CompiledProgram:
        """Have a target's compiler make a program, or find it.

        Args:
            profile: of the target.
            program: what is compiled.
            with_text: whether the optimised text is wanted.

        Raises:
            MissingExtraError: the compiler is not installed.
            CompileError: the compiler refused the program.
        """
        settings = target_settings(profile)
        key = settings_key(settings)
        fingerprint = self._fingerprint(program)

        def make() -> CompiledProgram:
            kept = self.store.get(key, fingerprint, with_text)
            if kept is not None:
                return kept
            self.compilations += 1
            try:
                made = replace(_compile(settings, program), products=program.products)
            finally:
                LOG.info("%s", profile.name)
            self.store.put(key, made)
            return made

        return self._known.get((key, fingerprint, with_text), make)

    def _fingerprint(self, program: PortableProgram) -> str:
        if program.graph is None:
            return program.fingerprint
        return self._fingerprints.get(program.graph, lambda: self.store.fingerprint(program))

    def compile_all(
        self, profiles: Sequence[HardwareProfile], program: PortableProgram
    ) -> list[CompiledProgram | CompileError]:
        """For several targets, those of different compilers at once.

        Returns:
            Target by target the program, or why there is none.

        Raises:
            MissingExtraError: a compiler is not installed.
        """
        keys = {settings_key(target_settings(p)): p for p in profiles}
        # Traced here once, not in each thread. What is kept needs no thread, which takes longer.
        fingerprint = self._fingerprint(program)
        kept = [k for k in keys if self.store.has(k, fingerprint)]
        platforms = list({p.platform: None for k, p in keys.items() if k not in kept})

        def work(some: Iterable[str]) -> dict[str, CompiledProgram | CompileError]:
            found: dict[str, CompiledProgram | CompileError] = {}
            for key in some:
                try:
                    found[key] = self.compile(keys[key], program)
                except CompileError as error:
                    found[key] = error
            return found

        together = work(kept)
        if platforms:
            left = [
                [k for k, p in keys.items() if p.platform == name and k not in kept]
                for name in platforms
            ]
            with ThreadPoolExecutor(len(left)) as pool:
                for part in pool.map(work, left):
                    together |= part
        return [together[settings_key(target_settings(p))] for p in profiles]


def _compile(settings: dict[str, Any], program: PortableProgram) -> CompiledProgram:
    match settings["platform"]:
        case "iree":
            return compile_iree(program.stablehlo, settings, program.fingerprint)
        case "cpu":
            try:
                return compile_exported(program.exported, settings, program.fingerprint)
            except REFUSALS as error:
                raise CompileError(f"{type(error).__name__}: {error}") from error
    return service(settings["platform"]).compile(program.exported, settings, program.fingerprint)


_COMPILER: list[Compiler] = []


def compile_for(
    target: str | HardwareProfile, fn: Callable[..., Any], args: Sequence[Any]
) -> CompiledProgram:
    """What a target's own compiler makes of a function; the target need not be there.

    Args:
        target: a profile, its name, or the path of one.
        fn: traceable by JAX.
        args: arrays, or `jax.ShapeDtypeStruct`s.

    Raises:
        MissingExtraError: the target's compiler is not installed.
        CompileError: the compiler refused the program.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from paretax.evaluators.compilers import compile_for
        >>> square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
        >>> program = compile_for("cpu", lambda a, b: a @ b, (square, square))
        >>> sum(kernel.flops for kernel in program.kernels)
        524288
    """
    if not _COMPILER:
        _COMPILER.append(Compiler())
    profile = load_profile(target) if isinstance(target, str) else target
    return _COMPILER[0].compile(profile, PortableProgram(fn, tuple(args)), with_text=True)
