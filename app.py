"""The page as a Hugging Face Space; on one's own machine, `car web` is simpler.

CAR_PRESET chooses the preset; where the models of "default" are too slow, "tiny" is the bundled CLIP.
"""

import os

from clip_as_rnn import load_segmenter
from clip_as_rnn.apps.web.examples import find_examples
from clip_as_rnn.apps.web.page import create_demo
from clip_as_rnn.apps.web.serve import launch_options

demo = create_demo(load_segmenter(os.environ.get("CAR_PRESET", "default")), examples=find_examples())

if __name__ == "__main__":
    demo.launch(**launch_options())
