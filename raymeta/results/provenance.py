"""Provenance of a run: when, where, by which command and with which versions."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raymeta.results.refusals import without_keys

PACKAGES = ("raymeta", "torch", "ray", "optuna")


def provenance() -> dict[str, Any]:
    """What is recorded of this process, as JSON values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [without_keys(argument) for argument in sys.argv],
        "commit": _commit(),
        "machine": _machine(),
        "versions": _versions(),
    }


def _commit() -> str | None:
    """The git commit of the working directory, `-dirty` with changes; None without."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git, or a huge repository
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _machine() -> dict[str, Any]:
    cpuinfo, processor = Path("/proc/cpuinfo"), platform.processor()
    if cpuinfo.exists():
        models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text())
        processor = models[0] if models else processor
    return {
        "system": platform.platform(),
        "processor": processor,
        "CPUs": os.cpu_count(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from its sources
            versions[package] = "unknown"
    return versions
