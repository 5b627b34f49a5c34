"""Options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[
    str, typer.Option("--preset", "-p", metavar="NAME", help="A set of settings; `car presets` lists them.")
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="CLIP", help="What proposes masks: a Hugging Face id, a folder, tiny.")
]
Judge = Annotated[str | None, typer.Option("--classifier", metavar="CLIP", help="What judges masks: likewise.")]
SamModel = Annotated[
    str | None, typer.Option("--sam", metavar="SAM", help="Refine the masks by SAM: a Hugging Face id or a folder.")
]
CacheDir = Annotated[
    Path | None, typer.Option("--cache-dir", metavar="DIR", help="Where models of the Hub are kept and looked for.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ...")]
DtypeName = Annotated[str, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of the preset; may be repeated.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")]
