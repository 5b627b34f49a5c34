"""The page on made-up stages, as a program of its own. Usage: python made_up_page.py PORT.

With CAR_WEB_PASSWORD set, the user `me` must give it.
"""

import os
import sys
import threading

from made_up_stages import made_up_segmenter

from clip_as_rnn.apps.web.page import create_demo
from clip_as_rnn.apps.web.server import Address, listening, own_folder
from clip_as_rnn.presets import find_preset

if __name__ == "__main__":
    password = os.environ.get("CAR_WEB_PASSWORD")
    address = Address(port=int(sys.argv[1]), user="me" if password else None, password=password)
    segmenter = made_up_segmenter(find_preset("default"))
    with own_folder(), listening(create_demo(segmenter), address):
        threading.Event().wait()
