"""The command `car evaluate`: a preset on a data set, a table of its parts, or two runs side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from clip_as_rnn.apps.cli.options import Assignments, Device, DtypeName, Judge, Model, Output, SamModel
from clip_as_rnn.apps.cli.parsing import choose, parse_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import DATASETS, find_dataset

# `scoring` is imported inside the command: it loads torch, which takes seconds that --help must not.

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help=f"One of: {', '.join(DATASETS)}.")]
Root = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the data lies; scenes need none.")]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="A part of the data; default: what the paper reports.")]
PresetOrPapers = Annotated[
    str | None, typer.Option("--preset", "-p", metavar="NAME", help="Default: the paper's for the data set.")
]
Passes = Annotated[
    str | None, typer.Option(metavar="ORDER", help="Things and stuff: official, paper (mutual background) or single.")
]
Asked = Annotated[str, typer.Option(metavar="WHICH", help="Texts per image: all, present, or each by itself.")]
Wording = Annotated[str, typer.Option(metavar="WORDS", help="The texts of the paper, or the data set's own names.")]
Limit = Annotated[int | None, typer.Option(metavar="COUNT", help="Only so many images; --compare: list so many.")]
ShardName = Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the images.")]
Saving = Annotated[bool, typer.Option("--save-predictions", help="Keep the label maps.")]
Parts = Annotated[
    str | None, typer.Option(metavar="PARTS", help="Change one part at a time: recurrence,background,prompts,crf,...")
]
Runs = Annotated[tuple[Path, Path] | None, typer.Option(metavar="A B", help="Show where two runs differ most.")]

_FAILED = 1  # some image could not be evaluated


def evaluate(  # noqa: PLR0913 - one parameter per option
    dataset: DatasetName,
    *,
    root: Root = None,
    output: Output = Path("out/evaluation"),
    split: Split = None,
    preset: PresetOrPapers = None,
    model: Model = None,
    classifier: Judge = None,
    sam: SamModel = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    set_: Assignments = None,
    passes: Passes = None,
    ask: Asked = "all",
    texts: Wording = "paper",
    limit: Limit = None,
    shard: ShardName = None,
    save_predictions: Saving = False,
    ablate: Parts = None,
    compare: Runs = None,
) -> None:
    """Score a preset on a data set; the same command goes on where an interrupted one was left."""
    row = find_dataset(dataset)
    if compare is not None:
        _refuse_beside_comparing({"--ablate": ablate, "--shard": shard, "--save-predictions": save_predictions})
    models = {
        name: value for name, value in (("model", model), ("classifier", classifier), ("sam", sam)) if value is not None
    }
    settings = {**parse_settings(set_ or ()), **models}
    from clip_as_rnn.apps.cli import evaluate_run
    from clip_as_rnn.evaluation.datasets.vocabulary import Wording
    from clip_as_rnn.evaluation.protocol import EvaluationProtocol, PassOrder, TextSelection
    from clip_as_rnn.evaluation.runner import RunOptions, Shard, parse_shard

    loading = evaluate_run.Loading(preset or row.preset, device, dtype, settings)
    order = passes or ("official" if loading.preset.startswith("official-") else "paper")
    options = RunOptions(limit, parse_shard(shard) if shard else Shard(), save_predictions)
    protocol = EvaluationProtocol(
        dataset=row,
        root=root or evaluate_run.default_root(row),
        preset=loading.preset,
        split=split,
        passes=choose("--passes", order, PassOrder),
        selection=choose("--ask", ask, TextSelection),
        wording=choose("--texts", texts, Wording),
    )
    if compare is not None:
        evaluate_run.show_comparison(protocol, compare, output, limit=limit)
        return
    parts = [part.strip() for part in ablate.split(",")] if ablate else []
    if parts:
        all_evaluated = evaluate_run.run_ablation(protocol, loading, options, output, parts)
    else:
        all_evaluated = evaluate_run.run(protocol, loading, options, output)
    if not all_evaluated:
        raise typer.Exit(_FAILED)


def _refuse_beside_comparing(options: Mapping[str, object]) -> None:
    """Raise InputError if an option is given that --compare would not heed."""
    for name, value in options.items():
        if value:
            raise InputError(
                f"--compare shows two runs that are there already and evaluates nothing; leave out {name}."
            )
