"""What candidates cost, from the parts that they are made of."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.compilers import (
    CompiledProgram,
    CompileError,
    Compiler,
    PortableProgram,
)
from paretax.evaluators.latency_model.roofline import Queue, calling_seconds
from paretax.evaluators.parts.fusion import Checked, Fusion, Joint, ends, fitted
from paretax.evaluators.parts.splitting import Part, split
from paretax.evaluators.target import Target
from paretax.evaluators.workbench import Workbench

CHECKED = 8
"""Candidates of a search that are compiled whole as well, to learn what fusion saves."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """The latency of a candidate on a target, from its parts.

    Args:
        seconds: of a call.
        parts: how many were added.
        checked: whole programs of the space that the correction was learned from.
    """

    seconds: float
    parts: int
    checked: int


class PartsPricer:
    """Prices candidates of a space from parts that are compiled once for each target.

    Args:
        bench: the task.
        targets: the devices; one batch size for all.
        compiler: what compiles and keeps programs; None: a new one.

    Raises:
        ValueError: the targets differ in batch size.
    """

    def __init__(
        self, bench: Workbench, targets: Sequence[Target], compiler: Compiler | None = None
    ) -> None:
        if len({t.batch for t in targets}) > 1:
            raise ValueError("a pricer is for one batch size: make one for each")
        self._bench, self._targets = bench, list(targets)
        self._batch = targets[0].batch
        self._compiler = compiler or Compiler()
        self._compiled: set[str] = set()
        self._arguments: dict[str, int] = {}
        self._queues: dict[tuple[str, str], tuple[Queue, Queue]] = {}
        self._ends: dict[tuple[str, str], tuple[str, str]] = {}
        self._fusion = {t.profile.name: Fusion() for t in targets}
        self._checked: set[tuple[str, ...]] = set()
        self._seen: dict[str, list[Checked]] = {t.profile.name: [] for t in targets}
        self._split: LeastRecentlyUsed[list[Part]] = LeastRecentlyUsed(1024)
        self._made: dict[tuple[str, str], CompiledProgram] = {}

    def price(self, candidate: Mapping[str, Any]) -> dict[str, Price]:
        """Target by target, the price of a candidate; its parts are compiled where they are new."""
        texts = self._texts(candidate)
        return {t.profile.name: self._price(t, texts) for t in self._targets}

    def assembled(self, candidate: Mapping[str, Any]) -> dict[str, CompiledProgram]:
        """Target by target, a program of the kernels of all parts, as if it had been compiled."""
        texts = self._texts(candidate)
        model = self._bench.deployed(candidate)
        given = [*self._bench.arrays(model).values(), self._bench.batch_shape(self._batch)]
        size = sum(math.prod(a.shape) * a.dtype.itemsize for a in given)
        found = {}
        for target in self._targets:
            parts = [self._made[text, target.profile.name] for text in texts]
            inner = max(p.peak_memory - p.argument_bytes for p in parts)
            hashed = hashlib.sha256(" ".join(texts).encode()).hexdigest()[:24]
            found[target.profile.name] = CompiledProgram(
                fingerprint=f"parts-{hashed}",
                kernels=tuple(k for p in parts for k in p.kernels),
                peak_memory=size + inner,
                argument_bytes=size,
                output_bytes=parts[-1].output_bytes,
                arguments=len(given),
                code_size=None,
                estimate=None,
                seconds=0.0,
                compiler=parts[-1].compiler,
                products=tuple(t for p in parts for t in p.products),
            )
        return found

    def score(self, candidate: Mapping[str, Any]) -> dict[str, tuple[CompiledProgram, Price]]:
        """Target by target, a candidate's assembled program and its price.

        The first `CHECKED` candidates are compiled whole too, to learn the correction from them.
        """
        known = tuple(self._texts(candidate))
        if len(self._checked) < CHECKED and known not in self._checked:
            self._checked.add(known)
            self.check([candidate])
        prices, programs = self.price(candidate), self.assembled(candidate)
        return {name: (programs[name], price) for name, price in prices.items()}

    def _texts(self, candidate: Mapping[str, Any]) -> list[str]:
        """The texts of a candidate's parts."""
        return [part.text for part in self._parts_of(candidate)]

    def _parts_of(self, candidate: Mapping[str, Any]) -> list[Part]:
        """A candidate's parts, from its traced program; those that are new are compiled."""
        model = self._bench.deployed(candidate)
        parts = self._split.get(
            (model.key, model.recipe.form),
            lambda: split(
                deployed_program(model),
                self._bench.arrays(model),
                self._bench.batch_shape(self._batch),
            ),
        )
        for part in parts:
            if part.text not in self._compiled:
                self._compile(part)
                self._compiled.add(part.text)
        return parts

    def check(
        self, candidates: Iterable[Mapping[str, Any]]
    ) -> dict[str, list[tuple[float, float]]]:
        """Compile whole candidates, and learn from all so far what fusion across parts saves.

        Returns:
            Target by target the seconds of each candidate: from its parts before this, and whole.
        """
        found: dict[str, list[tuple[float, float]]] = {t.profile.name: [] for t in self._targets}
        for candidate in candidates:
            before, texts = self.price(candidate), self._texts(candidate)
            for target, whole in zip(self._targets, self._whole(candidate), strict=True):
                if whole is None:
                    continue
                name = target.profile.name
                found[name].append((before[name].seconds, whole))
                products, others = self._busy(texts, name)
                self._seen[name].append(
                    Checked(
                        products=products,
                        others=others,
                        joints=self._joints(texts, name),
                        whole=whole - self._calling(target, texts),
                    )
                )
        for name, rows in self._seen.items():
            if rows:
                self._fusion[name] = fitted(rows)
        return found

    def _price(self, target: Target, texts: Sequence[str]) -> Price:
        name = target.profile.name
        fusion = self._fusion[name]
        inner = fusion.seconds(*self._busy(texts, name), self._joints(texts, name))
        return Price(
            seconds=self._calling(target, texts) + inner,
            parts=len(texts),
            checked=fusion.checked,
        )

    def _busy(self, texts: Sequence[str], target: str) -> tuple[float, float]:
        """Seconds of the parts' kernels with products and of the others, as of one program."""
        products, others = zip(*(self._queues[text, target] for text in texts), strict=True)
        return sum(products, Queue()).seconds, sum(others, Queue()).seconds

    def _joints(self, texts: Sequence[str], target: str) -> tuple[Joint, ...]:
        """Where the parts of a program meet."""
        pairs = itertools.pairwise(self._ends[text, target] for text in texts)
        return tuple((before[1], after[0]) for before, after in pairs)

    def _calling(self, target: Target, texts: Sequence[str]) -> float:
        return calling_seconds(sum(self._arguments[t] for t in texts), target.profile)

    def _compile(self, part: Part) -> None:
        on_tpu = [t for t in self._targets if t.profile.platform == "tpu"]
        others = [t for t in self._targets if t.profile.platform != "tpu"]
        for target, made in (*self._ask(part, others), *self._ask(part.rounded, on_tpu)):
            if isinstance(made, CompileError):
                raise made
            self._arguments[part.text] = made.arguments
            self._made[part.text, target.profile.name] = made
            self._queues[part.text, target.profile.name] = target.latency_model.queues(made)
            self._ends[part.text, target.profile.name] = ends(made.kernels)

    def _ask(
        self, part: Part, targets: Sequence[Target]
    ) -> Iterable[tuple[Target, CompiledProgram | CompileError]]:
        program = PortableProgram(part.function, part.shapes)
        made = self._compiler.compile_all([t.profile for t in targets], program) if targets else []
        return zip(targets, made, strict=True)

    def _whole(self, candidate: Mapping[str, Any]) -> list[float | None]:
        model = self._bench.deployed(candidate)
        shapes = self._bench.arrays(model), self._bench.batch_shape(self._batch)
        program = PortableProgram(deployed_program(model), shapes)
        made = self._compiler.compile_all([t.profile for t in self._targets], program)
        return [
            None if isinstance(m, CompileError) else t.latency_model.predict(m).seconds
            for t, m in zip(self._targets, made, strict=True)
        ]
