"""What a search is told, as it stands in a YAML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError

from paretax.errors import UsageError, shown, unknown
from paretax.evaluators import Axis, Objective, Target, make_objectives
from paretax.evaluators.costs import GRID
from paretax.hardware_profiles import load_profile
from paretax.plain import read_yaml_file
from paretax.search.samplers import SAMPLERS
from paretax.search.samplers.options import MOST
from paretax.spaces import Space, parse_space
from paretax.tasks import Metric
from paretax.tasks.loading import name_of


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number stands, which pydantic takes for 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        values = value.values() if isinstance(value, Mapping) and float in kinds else [value]
        if kinds & {int, float} and bool not in kinds and any(isinstance(v, bool) for v in values):
            raise ValueError("a number is wanted, not true or false")
        return value


class TargetConfig(_Part):
    """A device that candidates are scored on."""

    name: str
    """Of a hardware profile."""

    file: str | None = None
    """Of the user's own profile; a `name` that is a path stands for it."""

    batch: int = Field(default=1, ge=1)
    """Examples in one call of the program that is scored."""

    measure: bool | None = None
    """Whether programs are run on the device; None: on this machine's CPU only."""

    parts: bool = False
    """Whether a candidate's latency is the sum of its parts, each compiled once; the final front is
    compiled whole."""

    accelerator_type: str | None = Field(default=None, min_length=1)
    """Ray's name of the device, such as H100: programs are run there, by a worker of its own."""

    grid: float = Field(default=GRID, ge=0, allow_inf_nan=False)
    """Grams of CO2 equivalent a kilowatt-hour where the device stands."""


class BudgetConfig(_Part):
    """When a search ends; at least one of the two."""

    trials: int | None = Field(default=None, ge=1)
    """Candidates, the baseline, rejected and failed ones included, but at least one of the space;
    None: no bound."""

    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time from the start or the resumption after which no new batch starts; None: no bound."""


class SamplerConfig(_Part):
    """What proposes candidates."""

    name: str = "nsga2"
    """One of the samplers."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that sampler, by name."""


class RungsConfig(_Part):
    """Where trainings are looked at before their end, and the dominated ones stopped."""

    first: int = Field(ge=1)
    """Epochs at the first rung."""

    factor: int = Field(default=3, ge=2)
    """Each further rung comes after so many times the epochs; one of so many trials goes on."""


class TeacherConfig(_Part):
    """Whom candidates with `distill: true` learn from: a candidate, or a program."""

    candidate: dict[str, bool | int | float | str] | None = None
    """A configuration of the task's model, which is trained first; None: it is a program."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of that training."""

    checkpoint: str | None = None
    """Weights of that model, which is then not trained: an Orbax folder, .msgpack, .safetensors."""

    program: str | None = None
    """A bundle, or a file that jax.export wrote."""


class SearchConfig(_Part):
    """A whole search."""

    task: Any
    """A built-in task, `module:attribute`, or, from Python, a task itself."""

    space: dict[str, Any]
    """Parameter name to its domain, or to a value that is held; see `parse_space`."""

    forbidden: list[dict[str, Any]] = Field(default_factory=list)
    """Combinations that may not be; see `Space`."""

    targets: list[TargetConfig] = Field(default_factory=lambda: [TargetConfig(name="cpu")])
    """The devices; a plain name stands for one with batch 1."""

    objectives: list[str] = Field(min_length=1)
    """Names of the quantities to trade off: the task's metric, latency, memory, size."""

    limits: dict[str, float] = Field(default_factory=dict)
    """The worst value that is accepted of a quantity, in its unit; it need not be an objective."""

    teacher: TeacherConfig | None = None
    """Whom candidates learn from that have `distill: true`; None: nobody."""

    baseline: dict[str, bool | int | float | str] | None = None
    """The user's own configuration, with which the search begins as trial 0: values that take the
    place of the task's and paretax's defaults. None: the defaults; see `make_baseline`."""

    budget: BudgetConfig

    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    """A plain name stands for one with its own defaults."""

    seed: int = Field(default=0, ge=0)
    """Of the proposals, and of every training."""

    workers: int | None = Field(default=None, ge=1, le=10_000)
    """Processes that train; None: one a core, at most 8."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray` spreads the work over processes and machines, `inline` stays in this process."""

    batch: int | None = Field(default=None, ge=1, le=MOST)
    """Candidates that are asked for at once; None: as the sampler likes, or else 8."""

    signatures: int | None = Field(default=None, ge=1)
    """Different sets of compiled programs that the candidates of a batch may need, beside the
    baseline; four times as many in the first batch, which the search goes on from. The others are
    moved to one of them: they keep their numbers (learning rate, bit-widths), and take its
    architecture, batch size, optimiser and techniques. None: no bound."""

    final_seeds: int = Field(default=3, ge=0)
    """Further seeds that the final front is trained with, once the budget is spent: the mean of
    their metric then counts, with its standard error. 0: the search's own scores count."""

    rungs: RungsConfig | None = None
    """Early stopping; None: every candidate is trained to its end."""

    population: Axis = "auto"
    """`batch` trains candidates that share programs as one program with a batch axis, `loop` one
    after another; `auto` does what is faster on the device, on the CPU `loop`."""

    trial_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time after which a scoring or training counts as failed (`ray` only); None: no bound."""

    @field_validator("task")
    @classmethod
    def _some_task(cls, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | list | dict):
            raise PydanticCustomError("task", "input should be a task, or its name as a string")
        return value

    @field_serializer("task", when_used="json")
    def _task_name(self, task: Any) -> str:
        return name_of(task)

    @field_validator("targets", mode="before")
    @classmethod
    def _plain_targets(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"name": t} if isinstance(t, str) else t for t in value]
        return value

    @field_validator("sampler", mode="before")
    @classmethod
    def _plain_sampler(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def make_space(self) -> Space:
        """The space. Raises UsageError where it is not well formed."""
        return parse_space(self.space, self.forbidden)

    @property
    def worker_count(self) -> int:
        """How many workers there are."""
        if self.executor == "inline":
            return 1
        return self.workers or min(8, os.cpu_count() or 1)

    def make_targets(self) -> tuple[Target, ...]:
        """The devices, with their profiles.

        Raises:
            UsageError: one that does not exist, or whose compiler is not installed.
        """
        made = tuple(
            Target.of(
                t.file or t.name,
                batch=t.batch,
                grid=t.grid,
                measure=t.measure,
                parts=t.parts,
                accelerator_type=t.accelerator_type,
            )
            for t in self.targets
        )
        for name in (*self.objectives, *self.limits):
            plain, _, only = name.partition("@")
            for target in made:
                if not only or target.profile.name == only:
                    target.check([plain])
        return made

    def make_objectives(self, metric: Metric) -> tuple[Objective, ...]:
        """The objectives, each with its limit.

        Raises:
            UsageError: one that nobody evaluates, or that is named twice.
        """
        for name in self.objectives:
            if self.objectives.count(name) > 1:
                raise UsageError(f"an objective must be named once, got {name!r} twice")
        names = [t.name for t in self.targets]
        return tuple(
            o
            for name in self.objectives
            for o in make_objectives(name, metric, names, self.limits.get(name))
        )

    def make_limits(self, metric: Metric) -> tuple[Objective, ...]:
        """Everything that has a hard limit, be it an objective or not."""
        names = [t.name for t in self.targets]
        return tuple(
            o
            for name, limit in self.limits.items()
            for o in make_objectives(name, metric, names, limit)
        )

    def check_names(self) -> None:
        """Refuse targets and samplers that do not exist."""
        seen: set[str] = set()
        for target in self.targets:
            load_profile(target.file or target.name)
            if target.name in seen:
                raise UsageError(f"a target must be named once, got {target.name!r} twice")
            seen.add(target.name)
        away = [t.name for t in self.targets if t.accelerator_type is not None]
        if away and self.executor != "ray":
            raise UsageError(
                f"target {away[0]!r} has an `accelerator_type`, which only Ray finds: set "
                "executor: ray"
            )
        if not self.targets:
            raise UsageError("`targets` is empty: name at least one, such as cpu")
        if self.budget.trials is None and self.budget.minutes is None:
            raise UsageError("`budget` needs trials or minutes: give at least one")
        if self.sampler.name not in SAMPLERS:
            raise unknown("sampler", self.sampler.name, SAMPLERS)


def parse_config(plain: Any, where: str) -> SearchConfig:
    """A config from plain data.

    Raises:
        UsageError: the first thing that is wrong: where, the rule, and the value.
    """
    if not isinstance(plain, Mapping):
        raise UsageError(f"{where} must be a mapping with task, space, ..., got {shown(plain)}")
    try:
        config = SearchConfig.model_validate(plain)
    except ValidationError as error:
        raise _readable(error, where) from None
    targets = [_with_file(target) for target in config.targets]
    config = config.model_copy(update={"targets": targets})
    config.check_names()
    return config


def _with_file(target: TargetConfig) -> TargetConfig:
    """A target that is named by the path of a profile, by the profile's name."""
    if not target.name.endswith((".yaml", ".yml")):
        return target
    name = load_profile(target.name).name
    return target.model_copy(update={"name": name, "file": target.name})


def load_config(path: Path | str) -> SearchConfig:
    """A config from a YAML file.

    Raises:
        UsageError: the file is not there, is not YAML, or what `parse_config` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no config {str(path)!r}: check the path")
    return parse_config(read_yaml_file(path), str(path))


def _readable(error: ValidationError, where: str) -> UsageError:
    """The first error, as the rule, the value and the place."""
    first = error.errors()[0]
    place = ".".join(str(p) for p in first["loc"]) or "the config"
    if first["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {
            "budget": BudgetConfig,
            "rungs": RungsConfig,
            "sampler": SamplerConfig,
            "teacher": TeacherConfig,
            "targets": TargetConfig,
        }
        model = parts.get(str(first["loc"][0]), SearchConfig)
        return unknown("key", first["loc"][-1], model.model_fields, where)
    if first["type"] == "missing":
        return UsageError(f"{where} lacks {place!r}: add it")
    value = first["input"]
    got = "NaN" if isinstance(value, float) and math.isnan(value) else shown(value)
    return UsageError(f"{where}: {place}: {first['msg'][0].lower()}{first['msg'][1:]}, got {got}")
