"""What a reader has at hand who types the documents' commands: pictures, clips, data sets, fetched models; all small.

The models of the Hub are stand-ins under their own names: the bundled CLIP for all encoders, random SAMs for the SAMs.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clip_as_rnn.config import METACLIP2_B16, METACLIP2_L14, SAM_HQ_HUGE, SIGLIP2_B16, TIPSV2_L14, VIT_B16, VIT_L14
from clip_as_rnn.encoders.hub import BUNDLED_FOLDER
from documents import ROOT
from evaluation_trees import box, write_tree
from random_sam import save_random_sam

SCENES, CLIPS = ROOT / "data" / "scenes", ROOT / "data" / "clips"
SCENE = "heldout_117"  # a dog, a cat, an elephant
CLIP, FRAMES = "clip_00", 6
REVISION = "0" * 40

SAMS: dict[str, Callable[[Path], object]] = {
    SAM_HQ_HUGE: lambda folder: save_random_sam(folder, "sam_hq"),
    "Zigeng/SlimSAM-uniform-77": lambda folder: save_random_sam(folder, "sam"),
    "facebook/sam2.1-hiera-tiny": lambda folder: save_random_sam(folder, "sam2_video"),
}
ENCODERS = (VIT_B16, VIT_L14, METACLIP2_B16, METACLIP2_L14, SIGLIP2_B16, TIPSV2_L14)
STAND_INS = SAMS | {model_id: lambda folder: folder.symlink_to(BUNDLED_FOLDER) for model_id in ENCODERS}


def fill_cache(cache: Path) -> None:
    """Lay out the Hub's cache as if every model that the documents name had been fetched."""
    for model_id, save in STAND_INS.items():
        repository = cache / f"models--{model_id.replace('/', '--')}"
        for folder in ("refs", "snapshots"):
            (repository / folder).mkdir(parents=True)
        (repository / "refs" / "main").write_text(REVISION)
        save(repository / "snapshots" / REVISION)


def fill_folder(folder: Path) -> None:
    """Put everything that the commands name where they look for it."""
    photo = SCENES / "JPEGImages" / f"{SCENE}.jpg"
    for name in ("photo.jpg", "photos/a.jpg", "photos/deeper/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder / name)
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "more.png")
    (folder / "words.txt").write_text("cat\ncoffee cup\n")
    for name in ("more.txt", "list.txt"):
        (folder / name).write_text("photos/a.jpg\n")
    _write_clip(folder)
    for home in ("data/scenes", "training/.work/clip_art"):
        _write_scenes(folder / home)
    _write_clips(folder / "data" / "clips", annotators=2)
    _write_clips(folder / "DIR", annotators=4)
    labels = box((48, 64), slice(8, 32)).astype(np.uint8)
    for name, root, home in (
        ("voc", "DIR", "VOC2012"),
        ("voc", "VOCdevkit/VOC2012", ""),
        ("coco-object", "coco", ""),
        ("context", "context", ""),
    ):
        write_tree(name, folder / root, {"one": labels}, home=home)


def _write_clip(folder: Path) -> None:
    """Write the first frames of a clip, as files and as a film."""
    frames = sorted((CLIPS / "valid" / "JPEGImages" / CLIP).iterdir())[:FRAMES]
    (folder / "frames").mkdir()
    film = None
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg asks once, and later tests want it silent
    for path in frames:
        shutil.copy(path, folder / "frames")
        pixels = cv2.imread(str(path))
        size_wh = (pixels.shape[1], pixels.shape[0])
        film = film or cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12, size_wh)
        film.write(pixels)
    film.release()


def _write_scenes(folder: Path) -> None:
    """Cut the benchmark of scenes down to one, and to one sentence about another."""
    for name in (f"JPEGImages/{SCENE}.jpg", f"SegmentationClass/{SCENE}.png", "classes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SCENES / name, folder / name)
    split = folder / "ImageSets" / "Segmentation" / "heldout.txt"
    split.parent.mkdir(parents=True)
    split.write_text(f"{SCENE}\n")
    shutil.copytree(SCENES / "referring", folder / "referring")
    sentences = folder / "referring" / "refs(scenes).json"
    first = json.loads(sentences.read_text())[0]
    sentences.write_text(json.dumps([first]))
    shutil.copy(SCENES / "JPEGImages" / first["file_name"], folder / "JPEGImages")


def _write_clips(folder: Path, *, annotators: int) -> None:
    """Cut the benchmark of clips down to the first frames of one, in which so many annotators say the same."""
    meta = json.loads((CLIPS / "meta_expressions" / "valid" / "meta_expressions.json").read_text())["videos"][CLIP]
    first = [meta["expressions"][number] for number in sorted(meta["expressions"], key=int)][::2]
    said = [expression for expression in first for _ in range(annotators)]
    meta = {"frames": meta["frames"][:FRAMES], "expressions": {str(i): one for i, one in enumerate(said)}}
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        target = folder / "valid" / kind / CLIP
        target.mkdir(parents=True)
        for frame in meta["frames"]:
            shutil.copy(CLIPS / "valid" / kind / CLIP / f"{frame}.{suffix}", target)
    path = folder / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": {CLIP: meta}}))
