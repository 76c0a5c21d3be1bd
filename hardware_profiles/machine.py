"""The machine that paretax runs on, and where this user's own profiles are kept."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

from paretax.private import check_owner


def processor() -> str:
    """The name of this machine's processor."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def processor_fingerprint() -> str:
    """Of this processor, as programs for another may not run on it."""
    about = "\n".join([platform.machine(), processor(), cpuinfo("flags"), platform.system()])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def cpuinfo(key: str) -> str:
    """What Linux says of the first processor; "" where it says nothing."""
    file = Path("/proc/cpuinfo")
    if sys.platform == "linux" and file.exists():
        for line in file.read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def cache_sizes() -> list[int]:
    """Bytes of the first core's data caches, from the nearest on; empty where nobody says."""
    found: dict[int, int] = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            size = (folder / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and size.endswith("K"):
            found[level] = int(size[:-1]) * 1024
    return [found[level] for level in sorted(found)]


def memory_size() -> int | None:
    """Bytes of the machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def user_profiles() -> Path:
    """The folder of this user's own profiles, such as calibrated ones.

    Raises:
        UsageError: it belongs to somebody else.
    """
    chosen, data = os.environ.get("PARETAX_PROFILES"), os.environ.get("XDG_DATA_HOME")
    shared = Path(data) if data else Path.home() / ".local" / "share"
    folder = Path(chosen) if chosen else shared / "paretax" / "profiles"
    check_owner(folder, "PARETAX_PROFILES")
    return folder
