"""What a host can say of itself to the standard library of any Python from 3.8 on: packages and memory."""

import os


def package_version(name):
    """The version of an installed package, or None."""
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7 and older.
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def free_memory_bytes(meminfo="/proc/meminfo", cgroup="/sys/fs/cgroup"):
    """The memory that a process may still take, which a container may limit; None where the system does not say."""
    try:
        with open(meminfo, encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        with open(os.path.join(cgroup, "memory.max"), encoding="ascii") as file:
            limit = int(file.read())
        with open(os.path.join(cgroup, "memory.current"), encoding="ascii") as file:
            return max(0, min(free, limit - int(file.read())))
    except (OSError, ValueError):  # No container, or one with "max".
        return free
