"""The front as a table, in each of its forms."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from paretax.errors import UsageError
from paretax.results import Run, leaderboard, render
from paretax.results.leaderboard import FORMATS, Format, hypervolume
from paretax.results.pareto import relative_hypervolume

Plain = dict[str, Any]
WriteRun = Callable[[list[Plain]], Run]

COLUMNS = [
    "trial",
    "accuracy",
    "accuracy (test)",
    "accuracy gain",
    "latency",
    "faster",
    "size",
    "smaller",
    "width",
    "quantize",
    "weight_bits",
    "optimizer",
]


def test_the_frame_has_a_row_a_trial_of_the_front(run: Run) -> None:
    frame = leaderboard(run)
    assert list(frame) == COLUMNS
    assert frame["trial"].tolist() == [2, 0, 1]
    assert frame["accuracy"].tolist() == [0.95, 0.9, 0.8]
    assert frame["latency"].tolist() == [30.0, 20.0, 25.0]
    assert frame["size"].tolist() == [800.0, 400.0, 100.0]
    assert frame["accuracy gain"].tolist() == pytest.approx([0.05, 0.0, -0.1])
    assert frame["faster"].tolist() == pytest.approx([2 / 3, 1.0, 0.8])
    assert frame["smaller"].tolist() == [0.5, 1.0, 4.0]
    assert frame["width"].tolist() == [16, 8, 8]
    assert frame["quantize"].tolist() == [False, False, True]
    tests, bits = frame["accuracy (test)"], frame["weight_bits"]
    assert tests.tolist()[:2] == [0.91, 0.88]
    assert pd.isna(tests[2])  # it was not tested
    assert bits.isna().tolist() == [True, True, False]
    assert bits[2] == 4


def table_rows(text: str) -> list[list[str]]:
    """The cells of a plain table, without its head."""
    lines = text.split("\n\n")[0].splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line) <= {"-", " "})
    return [line.replace("0 (baseline)", "0(baseline)").split() for line in lines[rule + 1 :]]


def test_a_table_for_the_terminal(run: Run) -> None:
    text = render(run, None, "table")
    assert table_rows(text) == [
        ["2", "0.95", "0.91", "+0.05", "30", "0.6667", "800", "0.5", "16", "false", "-", "sgd"],
        ["0(baseline)", "0.9", "0.88", "0", "20", "1", "400", "1", "8", "false", "-", "sgd"],
        ["1", "0.8", "-", "-0.1", "25", "0.8", "100", "4", "8", "true", "4", "sgd"],
    ]
    head = text.split("---")[0].split()
    assert head.count("measured)") == 1
    for words in ("(measured)", "(us,", "(bytes,", "modelled)"):
        assert words in head


def test_markdown_has_one_line_a_row(run: Run) -> None:
    lines = render(run, "cpu", "markdown").split("\n\n")[0].splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 2 + 3
    assert cells[0] == [
        "trial",
        "accuracy (measured)",
        "accuracy (test)",
        "accuracy gain",
        "latency (us, measured)",
        "faster",
        "size (bytes, modelled)",
        "smaller",
        "width",
        "quantize",
        "weight_bits",
        "optimizer",
    ]
    assert all(set(c) <= {"-", ":"} for c in cells[1])
    expected = ["1", "0.8", "-", "-0.1", "25", "0.8", "100", "4", "8", "true", "4", "sgd"]
    assert cells[4] == expected


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_the_caption_says_where_the_figures_are_from(run: Run, form: Format) -> None:
    caption = " ".join(render(run, None, form).split("\n\n")[1].split())
    assert "breast_cancer on cpu (batch 4, a processor)" in caption
    assert "3 of 7 trials on the front" in caption
    assert "4 trained, 2 rejected by a limit, 1 failed" in caption
    assert f"Hypervolume {hypervolume(run, 'cpu'):.4f} of the first batch's box" in caption


def test_a_device_that_was_not_there_is_not_called_this_machine(
    write_run: WriteRun, events: list[Plain]
) -> None:
    for event in events:
        if event["event"] == "scored":
            latency = event["measurements"][1]
            detail = {**latency.get("detail", {}), "standing": "data sheet only"}
            event["measurements"][1] = {**latency, "provenance": "modelled", "detail": detail}
    events[0] = {**events[0], "profiles": {"cpu": {"description": "a device"}}}
    text = " ".join(render(write_run(events), None, "table").split())
    assert "(batch 4, a device, not measured; data sheet only)" in text
    assert "a processor" not in text


def test_a_device_of_the_cluster_is_named(write_run: WriteRun, events: list[Plain]) -> None:
    targets = [{"name": "cpu", "batch": 4, "accelerator_type": "BOARD"}]
    events[0] = {**events[0], "config": {**events[0]["config"], "targets": targets}}
    text = " ".join(render(write_run(events), None, "table").split())
    assert "(batch 4, BOARD of the cluster)" in text


def test_provenances_in_one_column_are_all_said(write_run: WriteRun, events: list[Plain]) -> None:
    for event in events:
        if event["event"] == "scored" and event["trial"] == 1:
            event["measurements"][1] = {**event["measurements"][1], "provenance": "compiled"}
    text = render(write_run(events), None, "markdown")
    assert "latency (us, compiled/measured)" in text


def test_csv_is_read_back(run: Run) -> None:
    text = render(run, None, "csv")
    found = pd.read_csv(io.StringIO(text))
    pd.testing.assert_frame_equal(found, leaderboard(run))
    assert text.splitlines()[0] == ",".join(COLUMNS)


def test_json_is_stable(run: Run) -> None:
    found = json.loads(render(run, None, "json"))
    assert list(found) == [
        "run",
        "task",
        "target",
        "objectives",
        "hypervolume",
        "agreement",
        "trials",
        "baseline",
        "front",
        "left",
    ]
    assert (found["task"], found["target"], found["trials"]) == ("breast_cancer", "cpu", 7)
    assert found["run"] == str(run.folder)
    assert found["objectives"] == run.header["objectives"]
    assert found["hypervolume"] == hypervolume(run, "cpu")
    assert [t["trial"] for t in found["front"]] == [2, 0, 1]
    assert (
        found["baseline"]
        == found["front"][1]
        == {
            "trial": 0,
            "candidate": {"optimizer": "sgd", "quantize": False, "width": 8},
            "measurements": [
                {
                    "objective": "size",
                    "value": 400.0,
                    "unit": "bytes",
                    "provenance": "modelled",
                    "seconds": 0.0,
                    "detail": {"dense": 800},
                },
                {
                    "objective": "latency",
                    "value": 20.0,
                    "unit": "us",
                    "provenance": "measured",
                    "target": "cpu",
                    "spread": 0.5,
                    "seconds": 0.25,
                    "detail": {"batch": 4, "program": "0123"},
                },
                {
                    "objective": "accuracy",
                    "value": 0.9,
                    "unit": "",
                    "provenance": "measured",
                    "seconds": 1.5,
                    "detail": {"split": "validation"},
                },
            ],
            "final": None,
            "gains": {"accuracy gain": 0.0, "faster": 1.0, "smaller": 1.0},
            "failure": None,
            "test": {
                "objective": "accuracy",
                "value": 0.88,
                "unit": "",
                "provenance": "measured",
                "seconds": 1.5,
                "detail": {"split": "test"},
            },
            "untested": None,
        }
    )
    assert found["front"][2]["test"] is None


def test_the_hypervolume_is_of_the_front_and_the_first_batch(run: Run) -> None:
    losses = [t.losses(run.objectives("cpu")) for t in run.front("cpu")]
    expected = relative_hypervolume(pd.DataFrame(losses).to_numpy(), *run.references["cpu"])
    assert hypervolume(run, "cpu") == pytest.approx(expected)
    assert 0 < expected < 1


@pytest.fixture
def unfinished(write_run: WriteRun, events: list[Plain]) -> Run:
    """Nothing is trained yet."""
    return write_run([e for e in events if e["event"] in ("run", "asked", "scored")])


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_an_empty_front_says_so(unfinished: Run, form: Format) -> None:
    assert render(unfinished, None, form) == (
        f"no trial of {str(unfinished.folder)!r} has finished within the limits yet"
    )


def test_an_empty_front_is_still_csv_and_json(unfinished: Run) -> None:
    frame = pd.read_csv(io.StringIO(render(unfinished, None, "csv")))
    assert list(frame) == ["trial", "accuracy", "latency", "size"]
    assert len(frame) == 0
    found = json.loads(render(unfinished, None, "json"))
    assert found["front"] == []
    assert found["hypervolume"] is None
    assert found["trials"] == 7


def test_a_parameter_named_as_a_figure_does_not_take_its_place(
    write_run: WriteRun, events: list[Plain]
) -> None:
    config = events[0]["config"]
    events[0] = {**events[0], "config": {**config, "space": {**config["space"], "size": {}}}}
    for i, event in enumerate(events):
        if event["event"] == "asked":
            trials = [{**t, "candidate": {**t["candidate"], "size": 3}} for t in event["trials"]]
            events[i] = {**event, "trials": trials}
    frame = leaderboard(write_run(events))
    assert frame["size"].tolist() == [800.0, 400.0, 100.0]
    assert frame["size (parameter)"].tolist() == [3, 3, 3]


@pytest.mark.parametrize("form", FORMATS)
def test_an_unknown_target_is_refused(run: Run, form: Format) -> None:
    with pytest.raises(UsageError, match="unknown target 'gpu'"):
        render(run, "gpu", form)


def test_choices_that_python_takes_for_one_are_told_apart(
    write_run: WriteRun, events: list[Plain]
) -> None:
    values: list[Any] = [1, 1.0, True, "1", "true"]
    figures = next(e for e in events if e["event"] == "scored" and "failure" not in e)
    metric = next(e for e in events if e["event"] == "trained" and "failure" not in e)
    asked = [{"trial": i, "candidate": {"width": v}, "seed": 0} for i, v in enumerate(values)]
    written = [events[0], {"event": "asked", "batch": 0, "trials": asked}]
    for i in range(len(values)):
        found = [
            {**m, "value": m["value"] - (i if m["objective"] == "size" else 0)}
            for m in figures["measurements"]
        ]
        accuracy = [{**m, "value": 0.9 - i / 100} for m in metric["measurements"]]
        written.append({"event": "trained", "trial": i, "measurements": found + accuracy})
    run = write_run(written)
    column = leaderboard(run)["width"].tolist()
    assert [(type(v), v) for v in column] == [(type(v), v) for v in values]
    shown = [row[-1] for row in table_rows(render(run, None, "table"))]
    assert shown == ["1", "1.0", "true", '"1"', '"true"']


@pytest.mark.parametrize("form", FORMATS)
def test_codes_for_a_terminal_are_shown_and_not_obeyed(
    write_run: WriteRun, events: list[Plain], form: Format
) -> None:
    code = "\x1b]0;owned\x07\x1b[2J\u202e"
    plain = json.dumps(events).replace('"size"', json.dumps(f"si{code}"))
    plain = plain.replace('"width"', json.dumps(f"w{code}")).replace('"adamw"', json.dumps(code))
    text = render(write_run(json.loads(plain)), None, form)
    assert "owned" in text
    assert not set(text) & set(code.replace("]0;owned", "").replace("[2J", ""))
    assert text.replace("\n", "").isprintable()
