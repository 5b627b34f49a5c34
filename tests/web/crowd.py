"""Many clients at once on a page, as a program of its own. Prints one line per answer: client, texts found.

Usage: python crowd.py URL PICTURE CLIENTS REQUESTS
"""

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gradio_client import Client, handle_file

from clip_as_rnn.apps.web.controls import CONTROLS
from clip_as_rnn.presets import PRESETS

_OWN = threading.local()


def _ask(url: str, picture: str, texts: Sequence[str]) -> str:
    """Ask once, with the client of this thread; return what the page says of the outcome."""
    if not hasattr(_OWN, "client"):
        _OWN.client = Client(url, verbose=False, download_files=False, analytics_enabled=False)
    preset = PRESETS["tiny"]
    controls = [control.value(preset) for control in CONTROLS]
    answer = _OWN.client.predict(handle_file(picture), list(texts), "tiny", "semantic", *controls, api_name="/find")
    rows = [*answer[1]["found"], *answer[1]["rejected"]]
    return ",".join(sorted(row["text"] for row in rows))


if __name__ == "__main__":
    url, picture, clients, requests = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with ThreadPoolExecutor(clients) as pool:
        asked = [("dog", f"thing {number}") for number in range(requests)]
        for texts, said in zip(asked, pool.map(lambda texts: _ask(url, picture, texts), asked), strict=True):
            sys.stdout.write("answered\n" if said == ",".join(sorted(texts)) else f"wrong: {said}\n")
