"""The commands `car segment` and `car demo`: pictures and texts in, files out."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clip_as_rnn.apps.cli.options import (
    Assignments,
    CacheDir,
    Device,
    DtypeName,
    Judge,
    Model,
    Preset,
    SamModel,
)
from clip_as_rnn.apps.cli.parsing import gather_texts, parse_settings
from clip_as_rnn.config import with_settings
from clip_as_rnn.presets import find_preset

# `segment_run` is imported inside the command: it loads torch, which takes seconds that --help must not.

DEMO_IMAGE = Path(__file__).parents[2] / "assets" / "demo" / "park.jpg"  # also in examples/
DEMO_TEXTS = ("dog", "car", "tree", "cat", "banana")  # the last two are not in the picture

_FORMATS = ("overlay", "labels", "masks", "json")
_FAILED_CLIP = 2

Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Pictures, folders of them, globs, URLs, @FILE (a list), clips.")
]
Texts = Annotated[
    list[str] | None, typer.Option("--text", "-t", metavar="TEXT", help="What to look for; may be repeated.")
]
TextsFile = Annotated[
    Path | None, typer.Option("--texts-file", metavar="FILE", help="Texts, one per line; # begins a comment.")
]
FormatNames = Annotated[
    list[str] | None,
    typer.Option(
        *("--format", "-f"),
        metavar="NAME",
        help="Per picture: overlay, figure, labels, masks, json, npz. A data set of all: coco, yolo, voc, labelme, "
        "label-studio. May be repeated, or joined by commas.",
        show_default="overlay,labels,masks,json",
    ),
]


def segment(  # noqa: PLR0913, PLR0917 - one parameter per option
    images: Images,
    text: Texts = None,
    texts_file: TextsFile = None,
    preset: Preset = "default",
    model: Model = None,
    classifier: Judge = None,
    sam: SamModel = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    cache_dir: CacheDir = None,
    set_: Assignments = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Where the results go: a folder or a URL.")
    ] = "out",
    format_: FormatNames = None,
    figure: Annotated[bool, typer.Option("--figure", help="Also draw the figure of the recurrence.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images done with these texts and settings.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew what an earlier run began.")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=64, help="Pictures at once.", show_default="1 a core, up to 4")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            max=1024,
            metavar="N",
            help="Pictures that share the encoders' passes.",
            show_default="4; 8 on a GPU",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="local, or ray for several machines (extra `batch`).")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="ADDRESS", envvar="RAY_ADDRESS", help="Of a cluster that is up."),
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Take each folder as the frames of one clip.")] = False,
    container: Annotated[
        str, typer.Option("--video", metavar="KIND", help="Overlays of clips: webm, or mp4 (extra `video`).")
    ] = "webm",
) -> None:
    """Segment pictures, or clips, by texts: an overlay, a label map, masks and JSON for each."""
    texts = gather_texts(text or (), texts_file)
    chosen = {
        name: value for name, value in (("model", model), ("classifier", classifier), ("sam", sam)) if value is not None
    }
    config = with_settings(find_preset(preset), {**parse_settings(set_ or ()), **chosen})
    from clip_as_rnn.apps.cli.segment_run import Request, run
    from clip_as_rnn.batch.storage import plain_path

    images = [plain_path(word) for word in images]
    request = Request(
        images=images,
        texts=texts,
        preset=preset,
        config=config,
        device=device,
        dtype=dtype,
        output=plain_path(output),
        formats=[*(format_ or _FORMATS), *(["figure"] if figure else [])],
        cache_dir=cache_dir,
        skip_existing=skip_existing,
        overwrite=overwrite,
        workers=workers,
        batch=batch,
        engine=engine,
        ray_address=ray_address,
    )
    from clip_as_rnn.apps.cli.segment_clips import is_clip, run_clips

    clips = [word for word in images if is_clip(word, frames=frames)]
    pictures = [word for word in images if word not in clips]
    code = _FAILED_CLIP if clips and not run_clips(request, clips, container=container) else 0
    if pictures:
        code = run(replace(request, images=pictures)) or code
    if code:
        raise typer.Exit(code)


def demo(
    preset: Preset = "tiny",
    model: Model = None,
    classifier: Judge = None,
    sam: SamModel = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")] = Path(
        "out/demo"
    ),
) -> None:
    """Segment a bundled picture with the bundled CLIP, offline: the overlay, the recurrence, a label map and JSON."""
    segment(
        images=[str(DEMO_IMAGE)],
        text=list(DEMO_TEXTS),
        preset=preset,
        model=model,
        classifier=classifier,
        sam=sam,
        output=str(output),
        format_=["overlay", "figure", "labels", "json"],
    )
