"""Processes that are forked when something in them was used."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

_PROGRAM = """
import os
{before}
child = os.fork()
if child == 0:
    {in_fork}
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def fork_ends(before: str, in_fork: str) -> bool:
    """Run lines of Python in a process of its own, and a statement in a fork of it; tell whether the fork ended."""
    program = _PROGRAM.format(before=before, in_fork=in_fork)
    done = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        return done.communicate(timeout=60)[0].strip() == "7"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGKILL)  # a child that waits for ever
