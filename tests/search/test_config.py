"""Configs, well formed and not."""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.search import SearchConfig, load_config, parse_config
from paretax.tasks import Metric, accuracy

PLAIN: dict[str, Any] = {
    "task": "digits",
    "space": {"width": {"type": "int", "low": 1, "high": 4}},
    "objectives": ["accuracy", "size"],
    "budget": {"trials": 8},
}

LOSS = Metric(name="loss", direction="minimize", compute=lambda outputs, targets: 0.0)


def parse(**changes: Any) -> SearchConfig:
    return parse_config({**PLAIN, **changes}, "the config")


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in PLAIN.items() if k != key}


# Well formed --------------------------------------------------------------------------------------


def test_what_is_left_out_has_its_default() -> None:
    config = parse()
    assert [(t.name, t.batch) for t in config.targets] == [("cpu", 1)]
    assert (config.sampler.name, config.sampler.options) == ("nsga2", {})
    assert (config.budget.trials, config.budget.minutes) == (8, None)
    assert (config.limits, config.forbidden, config.seed) == ({}, [], 0)
    assert (config.workers, config.batch, config.trial_seconds) == (None, None, None)
    assert config.executor == "ray"
    assert 1 <= config.worker_count <= 8


def test_everything_can_be_said() -> None:
    config = parse(
        targets=[{"name": "cpu", "batch": 32}],
        limits={"latency": 50, "accuracy": 0.5},
        budget={"minutes": 0.5},
        sampler={"name": "grid", "options": {"points": 2}},
        forbidden=[{"width": 3}],
        seed=7,
        workers=3,
        batch=5,
        trial_seconds=1.5,
    )
    assert config.targets[0].batch == 32
    assert config.limits == {"latency": 50.0, "accuracy": 0.5}
    assert (config.budget.trials, config.budget.minutes) == (None, 0.5)
    assert config.sampler.options == {"points": 2}
    assert (config.seed, config.worker_count, config.batch) == (7, 3, 5)
    assert config.trial_seconds == 1.5
    assert {dict(c)["width"] for c in config.make_space().grid(4)} == {1, 2, 4}


def test_plain_names_stand_for_targets_and_samplers() -> None:
    config = parse(targets=["cpu"], sampler="random")
    assert [(t.name, t.batch) for t in config.targets] == [("cpu", 1)]
    assert (config.sampler.name, config.sampler.options) == ("random", {})


def test_the_inline_executor_is_one_worker() -> None:
    assert parse(executor="inline", workers=5).worker_count == 1


def test_a_config_is_plain_data_and_back() -> None:
    """As the journal keeps it, and as a resumed search compares it."""
    config = parse(limits={"size": 9}, sampler="grid")
    assert parse_config(config.model_dump(mode="json"), "the journal") == config


def test_objectives_carry_their_limits() -> None:
    config = parse(objectives=["latency", "accuracy"], limits={"accuracy": 0.5, "memory": 1e6})
    found = config.make_objectives(accuracy)
    assert [(o.title, o.limit) for o in found] == [("latency@cpu", None), ("accuracy", 0.5)]
    limits = config.make_limits(accuracy)
    assert [(o.title, o.limit) for o in limits] == [("accuracy", 0.5), ("memory@cpu", 1e6)]


# Refused ------------------------------------------------------------------------------------------


def test_only_ray_finds_a_device_elsewhere() -> None:
    there = [{"name": "h100", "accelerator_type": "H100"}]
    assert parse(targets=there).targets[0].accelerator_type == "H100"
    with pytest.raises(UsageError, match="which only Ray finds: set executor: ray"):
        parse(targets=there, executor="inline")


@pytest.mark.parametrize("key", list(PLAIN))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(UsageError, match=f"the config lacks '{key}': add it"):
        parse_config(without(key), "the config")


def test_a_missing_key_of_a_part_is_named_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"lacks 'targets\.0\.name'"):
        parse(targets=[{"batch": 2}])


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"objectivs": []}, "objectivs", "objectives"),
        ({"budget": {"trails": 3}}, "trails", "trials"),
        ({"sampler": {"name": "grid", "option": {}}}, "option", "options"),
        ({"targets": [{"name": "cpu", "bach": 1}]}, "bach", "batch"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    changes: dict[str, Any], key: str, nearest: str
) -> None:
    with pytest.raises(
        UsageError, match=rf"unknown key '{key}' in the config\. Did you mean '{nearest}'\?"
    ):
        parse(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": 3}, r"task: .*as a string, got 3"),
        ({"space": [1]}, r"space: .*dictionary, got \[1\]"),
        ({"objectives": "size"}, r"objectives: .*list, got 'size'"),
        ({"objectives": []}, r"objectives: .*at least 1 item.*got \[\]"),
        ({"objectives": [1]}, r"objectives\.0: .*string, got 1"),
        ({"limits": {"size": "small"}}, r"limits\.size: .*number.*got 'small'"),
        ({"budget": 8}, r"budget: .*got 8"),
        ({"budget": {"trials": 0}}, r"budget\.trials: .*greater than or equal to 1, got 0"),
        ({"budget": {"trials": 2.5}}, r"budget\.trials: .*integer.*got 2\.5"),
        ({"budget": {"minutes": 0}}, r"budget\.minutes: .*greater than 0, got 0"),
        ({"budget": {"minutes": math.nan}}, r"budget\.minutes: .*finite.*got NaN"),
        ({"budget": {"minutes": math.inf}}, r"budget\.minutes: .*finite.*got inf"),
        ({"targets": "cpu"}, r"targets: .*list, got 'cpu'"),
        ({"targets": [{"name": "cpu", "batch": 0}]}, r"targets\.0\.batch: .*got 0"),
        ({"sampler": 3}, r"sampler: .*got 3"),
        ({"seed": -1}, r"seed: .*got -1"),
        ({"workers": 0}, r"workers: .*got 0"),
        ({"batch": 0}, r"batch: .*got 0"),
        ({"executor": "dask"}, r"executor: .*'ray' or 'inline', got 'dask'"),
        ({"trial_seconds": -1.0}, r"trial_seconds: .*got -1\.0"),
        ({"trial_seconds": math.inf}, r"trial_seconds: .*finite.*got inf"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^the config: {message}"):
        parse(**changes)


@pytest.mark.parametrize("plain", [None, [], "task: digits", 3])
def test_a_config_is_a_mapping(plain: Any) -> None:
    with pytest.raises(UsageError, match=r"the config must be a mapping with task, space"):
        parse_config(plain, "the config")


@pytest.mark.parametrize("budget", [{}, {"trials": None}, {"trials": None, "minutes": None}])
def test_a_search_needs_an_end(budget: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="`budget` needs trials or minutes"):
        parse(budget=budget)


def test_targets_exist_and_are_named_once() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'cpus'.*'cpu'"):
        parse(targets=["cpus"])
    with pytest.raises(UsageError, match="a target must be named once, got 'cpu' twice"):
        parse(targets=["cpu", {"name": "cpu", "batch": 2}])
    with pytest.raises(UsageError, match="`targets` is empty"):
        parse(targets=[])


def test_samplers_exist() -> None:
    with pytest.raises(UsageError, match=r"unknown sampler 'nsga'.*'nsga2'.*grid, nsga2, random"):
        parse(sampler="nsga")


def test_objectives_exist_and_are_named_once() -> None:
    with pytest.raises(UsageError, match="named once, got 'size' twice"):
        parse(objectives=["size", "accuracy", "size"]).make_objectives(accuracy)
    with pytest.raises(UsageError, match=r"unknown objective 'sise'.*'size'"):
        parse(objectives=["sise"]).make_objectives(accuracy)
    with pytest.raises(UsageError, match="unknown objective 'accuracy'"):
        parse().make_objectives(LOSS)


def test_limits_are_on_what_exists_and_finite() -> None:
    with pytest.raises(UsageError, match=r"unknown objective 'sise'.*'size'"):
        parse(limits={"sise": 3}).make_limits(accuracy)
    for limit in (math.nan, math.inf):
        with pytest.raises(UsageError, match=f"'size' must be a finite number, got {limit}"):
            parse(limits={"size": limit}).make_limits(accuracy)
        with pytest.raises(UsageError, match=f"'size' must be a finite number, got {limit}"):
            parse(limits={"size": limit}).make_objectives(accuracy)


def test_a_space_that_is_not_well_formed_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown type 'integer' in parameter 'width'"):
        parse(space={"width": {"type": "integer"}}).make_space()


# Files --------------------------------------------------------------------------------------------

TEXT = """\
task: digits
space:
  width: {type: int, low: 1, high: 4}
objectives: [accuracy, size]
budget: {trials: 8}
"""


def load(folder: Path, text: str | bytes) -> SearchConfig:
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(str(path))


def test_a_file_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, TEXT) == parse()


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("-2e3", -2e3),
        ("+1.5e+2", 150.0),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("0.25", 0.25),
        ("3", 3),
    ],
)
def test_numbers_are_read_as_in_yaml_1_2(tmp_path: Path, written: str, number: float) -> None:
    space = load(tmp_path, f"{TEXT}forbidden: [{{width: {written}}}]").forbidden
    assert space == [{"width": number}]
    assert type(space[0]["width"]) is type(number)


@pytest.mark.parametrize("written", ["e5", "1e", "1e5x", "'1e5'", "v1e5"])
def test_what_only_looks_like_a_number_stays_text(tmp_path: Path, written: str) -> None:
    (clause,) = load(tmp_path, f"{TEXT}forbidden: [{{width: {written}}}]").forbidden
    assert clause["width"] == written.strip("'")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)is not YAML: .*the key 'task' stands twice"):
        load(tmp_path, TEXT + "task: mnist5k\n")
    twice = TEXT.replace("high: 4", "high: 4, low: 2")
    with pytest.raises(UsageError, match=r"(?s)the key 'low' stands twice.*line 3"):
        load(tmp_path, twice)


def test_merged_mappings_are_read_and_may_be_overridden(tmp_path: Path) -> None:
    text = dedent("""\
        task: digits
        space:
          width: &range {type: int, low: 1, high: 4}
          depth: {<<: *range, high: 2}
        objectives: [accuracy, size]
        budget: {trials: 8}
        """)
    space = load(tmp_path, text).space
    assert space["depth"] == {"type": "int", "low": 1, "high": 2}


@pytest.mark.parametrize(
    "text",
    [
        "task: [",
        "a: b: c",
        "\ttask: digits",
        "task: !!python/object/apply:os.system ['true']",
        "task: 2001-99-99",
        b"task: \xff\xfe",
        b"\x00\x01",
        "&a [*b]",
    ],
)
def test_what_is_not_yaml_is_refused(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"config\.yaml' is not YAML"):
        load(tmp_path, text)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.yaml lacks 'task'"):
        load(tmp_path, TEXT.partition("\n")[2])
    with pytest.raises(UsageError, match=r"config\.yaml must be a mapping.*got None"):
        load(tmp_path, "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(UsageError, match=r"there is no config '.*': check the path"):
            load_config(path)
