"""The page as a Hugging Face Space; on one's own machine, `car web` is simpler.

CAR_PRESET chooses the preset; where the models of "default" are too slow, "tiny" is the bundled CLIP.
"""

import os

from clip_as_rnn import load_segmenter
from clip_as_rnn.apps.web.page import create_demo
from clip_as_rnn.apps.web.server import launch_options

demo = create_demo(load_segmenter(os.environ.get("CAR_PRESET", "default"), text_cache=False))

if __name__ == "__main__":
    demo.launch(
        **launch_options(
            host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
            names=[os.environ[name] for name in ("SPACE_HOST",) if name in os.environ],
            embedders=["https://huggingface.co"],
        )
    )
