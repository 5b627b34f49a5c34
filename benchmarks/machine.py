"""What a benchmark ran on, and where its last table is kept."""

import os
import platform
import resource
import subprocess
from pathlib import Path

import torch

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def describe_machine() -> str:
    """Name processor, cores and versions in one line, without any host's name."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores{gpu}; Python {platform.python_version()}, torch {torch.__version__}"


def describe_commit() -> str:
    """Give the short commit, marked if the tree differs from it."""
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def peak_memory_gib() -> float:
    """Measure the most memory that this process has held.

    Linux counts what the parent held as well in `getrusage`, if the process was forked from a large one; its status
    file does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(rows["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def save_section(title: str, table: str, document: Path = DOCUMENT) -> None:
    """Replace one section of a document, or append it."""
    text = document.read_text(encoding="utf-8") if document.exists() else f"# {document.stem.capitalize()}\n"
    section = f"## {title}\n\nCommit {describe_commit()}; {describe_machine()}.\n\n{table.strip()}\n"
    parts = text.split("\n## ")
    others = [part for part in parts[1:] if not part.startswith(f"{title}\n")]
    merged = [parts[0].rstrip("\n"), *(f"## {part.rstrip()}" for part in others), section.rstrip()]
    document.write_text("\n\n".join(merged) + "\n", encoding="utf-8")
