"""The wheel holds what is tracked, and works where nothing else is."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("search", "spaces", "evaluators", "hardware_profiles", "results", "tasks")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


def tracked() -> set[str]:
    """The package's files that git tracks, under the names that they have in the wheel."""
    found = set()
    for line in run("git", "ls-files", cwd=ROOT).splitlines():
        top = line.split("/")[0]
        if top in FOLDERS:
            found.add(f"paretax/{line}")
        elif line.startswith("src/paretax/") and not (ROOT / line).is_symlink():
            found.add(line.removeprefix("src/"))
    return found


def test_the_wheel_holds_the_tracked_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if not n.split("/")[0].endswith(".dist-info")}
    assert packed == tracked()
    assert "paretax/hardware_profiles/cpu.yaml" in packed
    assert "paretax/py.typed" in packed


def test_every_folder_is_linked() -> None:
    for folder in FOLDERS:
        link = ROOT / "src" / "paretax" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


@pytest.mark.slow
def test_the_wheel_installs_in_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    paretax = tmp_path / "venv" / "bin" / "paretax"
    shown = run(paretax, "--help", cwd=tmp_path)
    for command in ("search", "leaderboard", "export", "verify", "reproduce", "score", "space"):
        assert command in shown
    scored = run(paretax, "score", "digits", "--target", "cpu", cwd=tmp_path)
    assert "measured" in scored
