"""Where `car` begins and ends: one line and an exit code for whatever is not a bug, also while it is being loaded."""

import errno
import io
import os
import sys

_MISTAKE, _INTERRUPTED = 2, 130
_UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EBADF)


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0; 1 for images of several that could not be segmented or evaluated, 2 for a user's mistake, 3 for
    weights that cannot be had, 130 for Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # any text can be said on any terminal
    try:
        from clip_as_rnn.apps.cli.commands import run  # takes a moment, in which Ctrl-C must end in a line, too

        code = run(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:  # while that was loaded
        code = _INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise  # not the terminal: a bug shows
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - what is left cannot be said either
        code = _end(f"Error: What is to be said cannot be written: {error.strerror}.", _MISTAKE)
    if code == _INTERRUPTED:
        _end("Interrupted; every file that was written is complete.", code)
    sys.exit(code)


def _end(message: str, code: int) -> int:
    """Say why it ends; return the exit code."""
    if sys.stderr is not None:
        sys.stderr.write(message + "\n")
    return code


if __name__ == "__main__":
    main()
