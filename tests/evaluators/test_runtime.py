"""The surroundings of a measurement."""

from __future__ import annotations

import json
import os
import platform

import jax
import numpy as np
import pytest

from paretax.evaluators import runtime
from paretax.evaluators.runtime import (
    AS_WRITTEN,
    SINGLE_THREAD,
    machine,
    versions,
    worker_environment,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, f"{SINGLE_THREAD} {AS_WRITTEN}"),
        ("", f"{SINGLE_THREAD} {AS_WRITTEN}"),
        ("--xla_dump_to=here", f"--xla_dump_to=here {SINGLE_THREAD} {AS_WRITTEN}"),
        (f"{AS_WRITTEN} {SINGLE_THREAD}", f"{AS_WRITTEN} {SINGLE_THREAD}"),
        (
            "--xla_cpu_multi_thread_eigen=true",
            f"--xla_cpu_multi_thread_eigen=true {AS_WRITTEN}",
        ),
        (
            "--xla_allow_excess_precision=true",
            f"--xla_allow_excess_precision=true {SINGLE_THREAD}",
        ),
    ],
)
def test_a_worker_is_one_thread_and_rounds_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setattr(runtime, "_has_computed", lambda: False)
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    assert worker_environment()["XLA_FLAGS"] == after
    assert os.environ.get("XLA_FLAGS") == before  # nothing is set yet


@pytest.mark.parametrize("before", ["", AS_WRITTEN])
def test_workers_round_as_this_process_does(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """Once JAX has computed, its flags stay as they are."""
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", before)
    assert worker_environment()["XLA_FLAGS"] == f"{before} {SINGLE_THREAD}".strip()


def test_notices_of_xla_are_kept_from_the_user_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert worker_environment()["TF_CPP_MIN_LOG_LEVEL"] == "2"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert worker_environment()["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_versions_and_machine_are_plain_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    found = versions()
    assert found["python"] == platform.python_version()
    assert (found["jax"], found["numpy"]) == (jax.__version__, np.__version__)
    about = machine()
    assert about["cores"] == os.cpu_count()
    assert about["processor"]
    assert about["xla_flags"] == "--xla_dump_to=here"
    assert json.loads(json.dumps([found, about])) == [found, about]
