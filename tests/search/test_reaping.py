"""What is left of Ray is ended, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from paretax.search.executors.reaping import Reaper

ORPHAN = """
import subprocess, sys
none = subprocess.DEVNULL
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=none, stderr=none)
print(process.pid)
process.returncode = 0  # nobody waits for it
"""

pytestmark = pytest.mark.slow  # one after another: a search that ends beside it kills orphans too


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """A program that is called as one of Ray's agents is."""
    path = tmp_path / "ray" / "dashboard" / "agent.py"
    path.parent.mkdir(parents=True)
    path.write_text("import time; time.sleep(60)")
    yield path
    time.sleep(4)  # a reaper looks for 3 s


def orphan(*words: object) -> psutil.Process:
    """A process whose parent has ended."""
    command = [sys.executable, "-c", ORPHAN, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return psutil.Process(int(done.stdout))


def test_only_what_has_lost_its_raylet_is_killed(agent: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(agent.read_text())
    lost, strange = orphan(agent), orphan(other)
    reaper = Reaper()
    with subprocess.Popen([sys.executable, str(agent)]) as kept:  # of a raylet that lives
        assert lost.is_running()
        reaper.close()
        psutil.wait_procs([lost], timeout=10)
        assert not lost.is_running() or lost.status() == psutil.STATUS_ZOMBIE
        assert kept.poll() is None
        assert strange.is_running()
        kept.kill()
    strange.kill()


def test_nothing_happens_before_the_driver_ends(agent: Path) -> None:
    lost = orphan(agent)
    code = (
        "import time; from paretax.search.executors.reaping import Reaper; r = Reaper(); "
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        with pytest.raises(psutil.TimeoutExpired):
            lost.wait(1)
        driver.kill()
    psutil.wait_procs([lost], timeout=10)
    assert not lost.is_running() or lost.status() == psutil.STATUS_ZOMBIE
