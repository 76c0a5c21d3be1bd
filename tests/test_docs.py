"""The documents say what is so."""

from __future__ import annotations

import doctest
import importlib
import itertools
import re
import shlex
import sys
import tomllib
import types
from pathlib import Path

import pytest
import typer

from paretax.cli import app
from paretax.search import load_config, plan
from paretax.spaces import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()
FOLDERS = ("hardware_profiles", "tasks", "spaces", "evaluators", "results", "search")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_opens_with_the_two_commands() -> None:
    head = README.splitlines()[:5]
    assert any(line.strip().startswith("make demo") for line in head)
    assert any(line.strip().startswith("make test") for line in head)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "lint"} <= set(targets)


def test_the_readme_names_commands_and_configs_that_exist() -> None:
    names = {c.name or (c.callback and c.callback.__name__) for c in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    used = set(re.findall(r"^ {4}paretax (\w+)", README, re.MULTILINE))
    assert used
    assert used <= names
    for config in set(re.findall(r"examples/\w+\.yaml", README)):
        assert (ROOT / config).exists()


COMMANDS = [
    line.strip().partition("  #")[0]
    for line in re.findall(r"^ {4}((?:paretax|pip|make) .*)$", README, re.MULTILINE)
]
"""Every command line of the README, in the order in which it stands."""


def test_the_readme_sets_up_before_it_uses() -> None:
    first = next(i for i, line in enumerate(COMMANDS) if line.startswith("paretax "))
    assert any(line.startswith("make setup") for line in COMMANDS[:first])


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("paretax ")])
def test_each_command_of_the_readme_is_taken(line: str) -> None:
    """Its arguments are parsed as the command line does; what it would do is not done."""
    words, command = shlex.split(line)[1:], typer.main.get_command(app)
    while isinstance(commands := getattr(command, "commands", None), dict):
        assert words[0] in commands, line
        command, words = commands[words[0]], words[1:]
    made = command.make_context(command.name, list(words))
    assert made.params


def test_what_the_readme_makes_is_there_before_it_is_read() -> None:
    made: set[str] = set()
    for line in COMMANDS:
        words = shlex.split(line)
        for option, value in itertools.pairwise(words):
            if option in ("--out", "-o"):
                made.add(value)
        for word in words[2:3]:
            if words[1] in ("leaderboard", "report", "export", "verify", "reproduce"):
                assert word in made, line
            if words[1] in ("search", "space"):
                assert (ROOT / word).is_file(), line
    assert made


def test_the_readme_installs_from_the_clone_extras_that_exist() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installs = [c for c in re.findall(r"pip install [^`\n]*", README) if "[" in c]
    assert installs
    for line in installs:
        (where, extras) = re.findall(r"'([^'\[]*)\[([^\]]*)\]'", line)[0]
        assert where == "."  # no index has it
        assert set(extras.split(",")) <= set(declared["optional-dependencies"])


def test_the_readme_shows_the_users_task_as_it_is() -> None:
    shown, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    source = (ROOT / "examples" / "my_task.py").read_text()
    assert shown.strip() == source.split('"""\n', 1)[1].strip()
    assert len([line for line in shown.splitlines() if line.strip()]) <= 30


def test_the_readmes_search_from_a_script_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, and with fewer trials."""
    task, search = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    smaller = search.replace('"trials": 12', '"trials": 2').replace('"epochs": 20', '"epochs": 1')
    here = smaller.replace("task=task,", 'task=task, executor="inline", final_seeds=0,')
    assert here.count("inline") == here.count('"trials": 2') == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bundles").mkdir()
    module = types.ModuleType("of_the_readme")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(f"{task}\n{here}", module.__dict__)
    assert "accuracy" in capsys.readouterr().out
    assert (tmp_path / "bundles" / "wine" / "manifest.json").is_file()


@pytest.mark.parametrize("config", sorted(ROOT.glob("examples/*.yaml")), ids=lambda p: p.name)
def test_every_example_is_a_plan_that_can_start(config: Path) -> None:
    checked = plan(load_config(config), [config.parent])
    assert checked.space.size().combinations > 1


def test_every_parameter_that_paretax_knows_is_explained() -> None:
    page = (ROOT / "docs" / "techniques.md").read_text()
    explained = set(re.findall(r"`(\w+)`", page))
    assert {setting.name for setting in SETTINGS} <= explained


def test_examples_in_docstrings() -> None:
    tried = 0
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            if ">>>" in file.read_text():
                parts = file.relative_to(ROOT).with_suffix("").parts
                found = doctest.testmod(importlib.import_module(".".join(("paretax", *parts))))
                assert found.failed == 0
                tried += found.attempted
    assert tried > 0


def test_the_table_of_releases_is_that_of_the_constraints() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    pinned: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if found := re.match(r"([\w-]+)==([\d.]+)", line):
            pinned.setdefault(found[1], []).append(found[2])
    for row, names in {
        "JAX and jaxlib": [("jax", "jax"), ("jaxlib", "jaxlib")],
        "Flax": [("flax", "flax")],
        "NumPy": [("numpy", "numpy")],
        "libtpu": [("libtpu", "libtpu")],
        "NVIDIA": [("jax-cuda12-plugin", "jax-cuda13-plugin")],
        "IREE": [("iree-base-compiler", "iree-base-compiler")],
    }.items():
        (line,) = (each for each in page.splitlines() if each.startswith(f"| {row}"))
        _, _, older, newer, _ = line.split("|")
        for before, after in names:
            assert pinned[before][0] in older
            assert pinned[after][-1] in newer
