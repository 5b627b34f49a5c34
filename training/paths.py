"""Where training keeps its work, and where its results go."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = Path(__file__).parent / ".work"  # packages, sprites, checkpoints; not in git
ASSETS = ROOT / "src" / "clip_as_rnn" / "assets" / "tiny"
SCENES = ROOT / "data" / "scenes"
CLIPS = ROOT / "data" / "clips"
EXAMPLES = ROOT / "examples"
