"""Fifty requests by eight clients on the bundled CLIP: all are answered, each with its own texts, and memory stays."""

import subprocess
import sys
from pathlib import Path

import pytest
from servers import EXAMPLE

pytestmark = pytest.mark.web

CLIENTS, REQUESTS = 8, 50


def _crowd(url, requests):
    command = [sys.executable, str(Path(__file__).parent / "crowd.py"), url, str(EXAMPLE), str(CLIENTS), str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_a_crowd_is_answered_and_memory_stays_flat(bundled):
    """The first rounds of all clients fill what is filled once: threads, kernels, caches of allocators."""
    _crowd(bundled.url, 3 * CLIENTS)
    before_kb = bundled.rss_kb()
    answers = _crowd(bundled.url, REQUESTS)
    growth = bundled.rss_kb() / before_kb - 1
    assert answers.count("answered") == REQUESTS
    assert growth < 0.05, f"the resident memory grew by {growth:.1%}"
