"""The commands of the documents that no test runs, each with the reason, and who holds it instead.

A key is the beginning of a command. Every row must still stand in a document; every command that has no row is run.
"""

from documents import Command

SERVER_DOCS = "tests/server/test_server_docs.py runs it against a server"
NETWORK = "needs a network"
HOURS = "takes minutes to hours; its options are parsed"

EXCUSED = {
    "make": "makes environments, or takes minutes; `make --dry-run` says whether the target is there",
    "pip install": f"{NETWORK}; the extras that it names are looked up",
    "python -m training": f"{HOURS}, and needs drawings that are fetched",
    "python -m benchmarks": HOURS,
    "python -m pytest": "runs by itself; the files that it names must be there",
    "curl": SERVER_DOCS,
    "cvat-cli --server-host": SERVER_DOCS,
    "cvat-cli function": "needs a CVAT server; the function itself is held in tests/integrations",
    "docker": "needs a Docker daemon; tests/test_docker.py holds its files",
    "export": "sets a variable for the line below it",
    "ray": "needs Ray, which is an extra, and a second machine",
    "split": "not ours",
    "hf download": f"{NETWORK}; not ours",
    "python -c": "the beginning of a command that a message holds; tests/encoders/test_hub.py runs it",
    "car segment s3://bucket/photos": "needs a bucket and s3fs",
    "car segment photos/ -t cat -o out/ --device cuda": "needs a GPU",
    "car segment photos/ -t cat -o out/ray --engine ray": "needs Ray, which is an extra; tests/batch holds the engine",
}


def excuse(command: Command) -> str | None:
    """Return the row under which a command is not run, if there is one."""
    return next((beginning for beginning in EXCUSED if command.bare.startswith(beginning)), None)
