"""Which code and which packages made a checkpoint."""

import platform
import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "numpy", "sentencepiece", "safetensors")


@lru_cache
def versions() -> dict[str, str]:
    """Name -> version of this repository (with its git commit where there is one), Python and the packages."""
    found = {"nanooracle": _own_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # built from source, perhaps
            found[name] = "unknown"
    return found


def _own_version() -> str:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    number = declared.group(1) if declared else "unknown"
    if not (ROOT / ".git").exists():
        return number
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return number
    return f"{number} ({commit})"
