"""The command `car evaluate`: a preset on a data set, a table of its parts, or two runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from clip_as_rnn.apps.inputs import parse_settings
from clip_as_rnn.apps.options import Assignments, Device, DtypeName, Judge, Model, Output
from clip_as_rnn.evaluation.datasets import DATASETS, find_dataset

# `clip_as_rnn.apps.scoring` is imported inside the command: it loads torch, which takes seconds that --help must not.

_FAILED = 1  # some image could not be evaluated


def evaluate(  # noqa: PLR0913 - one parameter per option
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=f"One of: {', '.join(DATASETS)}.")],
    *,
    root: Annotated[Path | None, typer.Option(help="The folder of the data; `scenes` has its own.")] = None,
    output: Output = Path("out/evaluation"),
    split: Annotated[str | None, typer.Option(help="The part of the data; default: the one the paper reports.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="Default: the paper's for the data set.")] = None,
    model: Model = None,
    classifier: Judge = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    set_: Assignments = None,
    passes: Annotated[
        str | None, typer.Option(help="Things and stuff: official, paper (mutual background) or single.")
    ] = None,
    ask: Annotated[str, typer.Option(help="On each image: all texts, only those present, or each by itself.")] = "all",
    texts: Annotated[str, typer.Option(help="Ask with the words of the paper, or the data set's own names.")] = "paper",
    limit: Annotated[int | None, typer.Option(help="Only so many images; with --compare, how many to list.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the images.")] = None,
    save_predictions: Annotated[bool, typer.Option("--save-predictions", help="Keep the label maps.")] = False,
    ablate: Annotated[
        str | None, typer.Option(metavar="PARTS", help="Change one part at a time: recurrence,background,prompts,...")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="List where two runs differ most, with pictures.")
    ] = None,
) -> None:
    """Score a preset on a data set; the same command goes on where an interrupted one was left."""
    chosen = find_dataset(dataset)
    settings = parse_settings(set_ or ())
    from clip_as_rnn.apps.scoring import Job, run

    job = Job(
        dataset=chosen,
        root=root,
        folder=output,
        split=split,
        preset=preset or chosen.preset,
        models={name: value for name, value in (("model", model), ("classifier", classifier)) if value is not None},
        device=device,
        dtype=dtype,
        settings=settings,
        passes=passes,
        asking=ask,
        texts=texts,
        limit=limit,
        shard=shard,
        save_predictions=save_predictions,
        parts=tuple(part.strip() for part in ablate.split(",")) if ablate else (),
        compare=compare,
    )
    if not run(job):
        raise typer.Exit(_FAILED)
