"""Reads what a config.json says of two towers, as plain data: what the computation depends on and nothing else.

Code of a repository's own, quantizers and attention kernels, which a config can name, are never looked up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError

from clip_as_rnn.encoders.json_files import read_json
from clip_as_rnn.errors import DependencyError

_MAX_SIZE = 2**20  # of anything that a config counts
_COLORS = 3
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True, slots=True)
class StoredPart:
    """Where the numbers of a weight are kept: a stored tensor, or one of its equal pieces, or its transpose."""

    name: str
    piece: int | None = None
    pieces: int = 3
    transposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFormat:
    """A format in which models are published, and what of its files a computation depends on.

    Attributes:
        model_type: what config.json calls it.
        prefix: how its classes in transformers begin: `CLIP` of CLIPModel and CLIPConfig.
        text_sizes, vision_sizes: fields of each tower's section that count something.
        fields: further fields of both sections.
        shared: fields outside of the sections.
        text_values: fields of the text tower's section that hold one value, whatever the file says.
        layers: for each tower how the names of its layers' weights begin, as a pattern with the number in a group.
        prefixes: how the names of weights begin that the model must have a place for.
        optional: weights that published files may lack.
        may_name_code: whether a config may name code of its own, beside the class of transformers, which is taken.
        find: where a weight of the model is kept.
        config_file: which file describes a model.
    """

    model_type: str
    prefix: str
    text_sizes: tuple[str, ...] = (*_SIZES, "vocab_size", "max_position_embeddings")
    vision_sizes: tuple[str, ...] = (*_SIZES, "image_size", "patch_size", "num_channels")
    fields: tuple[str, ...] = ("hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id")
    shared: tuple[str, ...] = ()
    text_values: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, str] = field(
        default_factory=lambda: {name: rf"{name}_model\.encoder\.layers\.(\d+)\." for name in ("text", "vision")}
    )
    prefixes: tuple[str, ...] = ("text_model.", "vision_model.", "text_projection.", "visual_projection.")
    optional: tuple[str, ...] = ()
    may_name_code: bool = False
    find: Callable[[str], StoredPart] = StoredPart
    config_file: str = "config.json"

    @property
    def model_class(self) -> Any:
        """The model's class in transformers.

        Raises:
            DependencyError: this transformers has no such class.
        """
        return _find_class(f"{self.prefix}Model")

    def make_config(self, **sections: Any) -> Any:
        """Make a config of transformers.

        Raises:
            DependencyError: this transformers has no such class.
            ValueError: a field that cannot be.
        """
        try:
            return _find_class(f"{self.prefix}Config")(**sections)
        except StrictDataclassError as error:
            raise ValueError(f"config.json describes no {self.prefix}Model ({' '.join(str(error).split())})") from error


def read_config(form: ModelFormat, folder: Path) -> Any:
    """Read what config.json says of the two towers; everything else in it is left alone.

    Raises:
        ValueError: it describes no model of the format, or one that cannot be.
        DependencyError: this transformers does not know the format.
        OSError: it cannot be read.
    """
    content = read_json(folder / "config.json")
    for name, what in (
        ("auto_map", "code of its own, which is never run"),
        ("quantization_config", "quantized weights"),
    ):
        if content.get(name) and not (name == "auto_map" and form.may_name_code):
            raise ValueError(f"config.json asks for {what} ({name}); only a plain {form.prefix}Model is supported")
    towers = {name: _read_tower(form, content, name) for name in _tower_sections(content)}
    if form.text_values:
        towers["text_config"] = {**towers.get("text_config", {}), **form.text_values}
    config = form.make_config(**towers, **{name: content[name] for name in form.shared if name in content})
    check_images(config.vision_config, f"config.json describes patches of {{}}, which is no {form.prefix}")
    return config


def check_images(vision: Any, message: str) -> None:
    """Refuse patches larger than the image, and images that are not of three colors.

    Raises:
        ValueError: `message`, with what was described in place of its braces.
    """
    if vision.patch_size > vision.image_size or vision.num_channels != _COLORS:
        sizes = f"{vision.patch_size} pixels in images of {vision.image_size} pixels and {vision.num_channels} channels"
        raise ValueError(message.format(sizes))


def check_sizes(section: Mapping[str, Any], sizes: Sequence[str], place: tuple[str, str]) -> None:
    """Refuse fields that count nothing; those that are missing count as they do by default.

    `place` is the file and the part of it.

    Raises:
        ValueError: a field holds no whole number from 1 on, or one far too large.
    """
    for size in sizes:
        value = section.get(size, 1)
        if type(value) is not int or not 0 < value <= _MAX_SIZE:
            raise ValueError(
                f"{place[0]} has the {size} {value!r} in {place[1]}, but it must be a whole number above 0"
            )


def _find_class(name: str) -> Any:
    if not hasattr(transformers, name):
        raise DependencyError(
            f"This model needs {name}, which transformers {transformers.__version__} lacks; install a newer one with "
            "`pip install --upgrade transformers`."
        )
    return getattr(transformers, name)


def _tower_sections(content: Mapping[str, Any]) -> list[str]:
    """Name the sections of a config that describe towers; files of the first conversions have two for each."""
    names = [f"{tower}_config{suffix}" for tower in ("text", "vision") for suffix in ("", "_dict")]
    return [name for name in names if content.get(name) is not None]


def _read_tower(form: ModelFormat, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Take of a tower's section what the computation depends on."""
    section = content[name]
    sizes = form.text_sizes if name.startswith("text") else form.vision_sizes
    if not isinstance(section, dict):
        raise ValueError(f"config.json holds no JSON object as {name}")
    check_sizes(section, sizes, ("config.json", name))
    width, heads = section.get("hidden_size", 1), section.get("num_attention_heads", 1)
    if width % heads:
        raise ValueError(f"config.json gives {name} {heads} heads, which do not divide its width of {width}")
    return {known: section[known] for known in (*sizes, *form.fields) if known in section}
