"""`paretax profiles calibrate --target`: a device elsewhere, by the user's own measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretax.hardware_profiles import load_profile

SIZES = [(8, 1), (64, 2), (256, 2), (512, 2), (1024, 2)]


def modelled(command: Any, target: str, width: int, depth: int) -> dict[str, Any]:
    chosen = f"width={width},depth={depth}"
    done = command("score", "digits", "--target", target, "--set", chosen, "--format", "json")
    found = {m["objective"]: m for m in json.loads(done.out)["measurements"]}
    latency: dict[str, Any] = found["latency"]
    return latency


def test_measurements_correct_a_device_elsewhere(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that takes 30 us more a call than its profile says, and is twice as slow."""
    sheet = load_profile("edge-tpu").call_overhead
    true = {
        size: 2 * (modelled(command, "edge-tpu", *size)["value"] - 1e6 * sheet) + 1e6 * sheet + 30
        for size in SIZES
    }
    lines = [f"digits,{width},{depth},1,{us:.3f}" for (width, depth), us in true.items()]
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["task,width,depth,batch,latency_us", *lines]))
    monkeypatch.chdir(tmp_path)
    done = command("profiles", "calibrate", "--target", "edge-tpu", "--measurements", file)
    assert done.code == 0, done
    assert "Of measurements that were left out: median error" in done.out
    own = load_profile("edge-tpu-measured.yaml")
    assert own.slowdown == pytest.approx(2, rel=0.15)
    assert own.error is not None
    assert own.error < 0.45
    found = modelled(command, "edge-tpu-measured.yaml", 256, 2)
    assert found["value"] == pytest.approx(true[256, 2], rel=0.05)
    assert found["detail"]["standing"].startswith("checked: 5 measurements of your own, median")
    low, high = found["detail"]["interval"]
    assert low < true[256, 2] < high
    # It is calibrated again from there as from the sheet.
    path = tmp_path / "again.yaml"
    again = command(
        "profiles", "calibrate", "--target", "edge-tpu-measured.yaml",
        "--measurements", file, "-o", path,
    )  # fmt: skip
    assert again.code == 0, again
    assert load_profile(str(path)).slowdown == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task,batch\ndigits,1", "lacks the column 'latency_us'"),
        ("task,latency_us\ndigits,fast", "line 2: `latency_us` must be a number above 0"),
        ("task,latency_us\ndigits,-1", "line 2: `latency_us` must be a number above 0"),
        ("task,latency_us,batch\ndigits,3,1.5", "line 2: `batch` must be a whole number above 0"),
        ("task,latency_us\ndigits,3,4", "line 2 must have 2 cells"),
        ("task,latency_us\ndigits,3\ndigits,4", "must give 3 different latencies or more, got 2"),
        ("task,latency_us\nno,3\nno,4\nno,5", "line 2: unknown task 'no'"),
        ("task,latency_us,wide\ndigits,3,1\ndigits,4,1\ndigits,5,1", "line 2: .*'wide'"),
        ("\0", "lacks the column 'task'|cannot be read"),
    ],
)
def test_measurements_that_cannot_be(command: Any, tmp_path: Path, text: str, said: str) -> None:
    import re

    (tmp_path / "mine.csv").write_text(text)
    done = command(
        "profiles", "calibrate", "--target", "edge-tpu", "--measurements", tmp_path / "mine.csv"
    )
    assert done.code == 2
    assert re.search(said, " ".join(done.err.split())), done.err
    assert done.err.count("\n") == 1


def test_options_that_do_not_fit(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("task,latency_us\ndigits,3\n")
    calibrate = ("profiles", "calibrate")
    assert "belong together" in command(*calibrate, "--target", "t4").err
    both = command(*calibrate, "--target", "t4", "--measurements", file, "--programs", 40)
    assert "leave it out with --target" in both.err
    here = command(*calibrate, "--target", "cpu", "--measurements", file)
    assert "calibrate it there, without --target" in here.err
