"""The machine, the versions and the commit that a figure was measured with."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def describe_machine(cores, packages):
    """What a figure depends on, as a dictionary.

    Args:
        cores: How many cores the benchmark uses.
        packages: The names of the packages whose versions matter.
    """
    cpu_info = Path("/proc/cpuinfo")
    names = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.exists() else []

    def git(*command):
        result = subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True, check=False)
        return result.stdout.strip()

    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": names[0].split(":")[1].strip() if names else platform.processor() or platform.machine(),
        "cores": cores,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else ""),
    }


def print_machine(facts, packages):
    """Prints what `describe_machine` gave, over a table."""
    versions = ", ".join(f"{package} {facts[package]}" for package in packages)
    print(
        f"\n{facts['machine']}, {facts['cores']} cores, load average {facts['load_average']:.1f}; "
        f"Python {facts['python']}, {versions}\ncommit {facts['commit']}, {facts['date']}"
    )
