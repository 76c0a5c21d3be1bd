"""A run as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.results import Run
from paretax.results.report import write_report

Plain = dict[str, Any]
WriteRun = Callable[[list[Plain]], Run]


def page_of(run: Run, folder: Path) -> str:
    """The page without the library that draws its plots."""
    write_report(run, folder / "report.html")
    text = (folder / "report.html").read_text("utf-8")
    start, end = text.index("<script>"), text.index("</script></head>")
    assert end - start > 1_000_000  # plotly.js is in it: no network is needed
    return text[:start] + text[end:]


def plots(page: str) -> dict[str, list[Plain]]:
    """The traces of each plot, by its name."""
    decoder = json.JSONDecoder()
    return {
        found.group(1): decoder.raw_decode(page[found.end() :].lstrip())[0]
        for found in re.finditer(r'Plotly\.newPlot\(\s*"([^"]+)",', page)
    }


def test_the_front_and_the_dominated_trials_are_drawn(run: Run, tmp_path: Path) -> None:
    found = plots(page_of(run, tmp_path))
    assert list(found) == ["cpu-latency", "cpu-size"]
    dominated, front = found["cpu-latency"]
    assert (front["x"], front["y"]) == ([20.0, 25.0, 30.0], [0.9, 0.8, 0.95])
    assert (dominated["x"], dominated["y"]) == ([28.0], [0.85])
    assert "trial 6" in dominated["text"][0]
    assert "width: 12" in dominated["text"][0]


def test_every_figure_says_how_it_was_obtained(run: Run, tmp_path: Path) -> None:
    page = page_of(run, tmp_path)
    assert "latency (us, measured)" in page
    assert "size (bytes, modelled)" in page
    assert "3 of 7 trials on the front" in page
    assert "jax 1.2.3" in page


def test_how_well_the_model_agreed_is_drawn(
    write_run: WriteRun, events: list[Plain], tmp_path: Path
) -> None:
    for event in events:
        if event["event"] == "scored":
            detail = event["measurements"][1]["detail"]
            detail |= {"program": str(event["trial"]), "modelled": 10.0 + event["trial"]}
    page = page_of(write_run(events), tmp_path)
    equal, programs = plots(page)["cpu-modelled"]
    assert programs["y"] == [10.0 + trial for trial in range(7)]
    assert programs["x"][:2] == [20.0, 25.0]
    assert equal["x"] == equal["y"]
    assert "The model of the latency was off by" in page


def test_a_run_without_a_front_yet(
    write_run: WriteRun, events: list[Plain], tmp_path: Path
) -> None:
    page = page_of(write_run(events[:2]), tmp_path)
    assert "No trial has finished" in page
    assert plots(page) == {}


def test_names_are_text_and_not_markup(
    write_run: WriteRun, events: list[Plain], tmp_path: Path
) -> None:
    events[0] = {**events[0], "machine": {"processor": "<img src=x onerror=alert(1)>"}}
    page = page_of(write_run(events), tmp_path)
    assert "<img" not in page
    assert "&lt;img" in page


def test_names_of_targets_objectives_and_parameters_are_text_wherever_they_stand(
    write_run: WriteRun, events: list[Plain], tmp_path: Path
) -> None:
    live = "</script><script>alert('1')</script><img src=x onerror=alert(2)>\""
    plain = json.dumps(events).replace('"size"', json.dumps(live))
    plain = plain.replace('"cpu"', json.dumps(f"b {live}")).replace('"width"', json.dumps(live))
    page = page_of(write_run(json.loads(plain)), tmp_path)
    assert "alert(2)" in page
    assert "<img" not in page
    assert "<script>alert" not in page
    assert len(plots(page)) == 2  # each in a place of its own
    for name in plots(page):
        assert f'id="{name}"' in page


def test_the_same_run_gives_the_same_page(run: Run, tmp_path: Path) -> None:
    assert page_of(run, tmp_path) == page_of(run, tmp_path)


def test_a_place_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(run, tmp_path / "missing" / "report.html")
