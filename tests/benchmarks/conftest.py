"""The benchmarks' own modules, which are no package."""

from __future__ import annotations

import importlib.util
import string
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def readme() -> ModuleType:
    """What writes the README's table."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def told(readme: ModuleType) -> dict[str, set[str]]:
    """The figures that the README's row of each script names."""
    rows: list[Any] = readme.ROWS
    texts = {row.script: row.compared + row.found for row in rows}
    parse = string.Formatter().parse
    return {name: {field for _, field, _, _ in parse(t) if field} for name, t in texts.items()}
