"""What the page offers to choose: settings, each with one line of plain explanation, presets that fill them, examples.

What visitors give is bounded here: the texts of one must not keep the others waiting.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clip_as_rnn.config import VISUAL_PROMPTS, SegmenterConfig, flat_settings, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import OTHER_FAMILIES, PRESETS

MODES = (
    ("Semantic: the texts compete for every pixel", "semantic"),
    ("Referring: each text stands alone", "referring"),
)
AS_STARTED = "as started"  # the settings of a segmenter that is no preset's
_ASSETS = Path(__file__).parents[2] / "assets" / "demo"
EXAMPLES: Mapping[Path, tuple[str, ...]] = {  # pictures, each with texts of which some are not in it
    _ASSETS / "park.jpg": ("dog", "car", "tree", "cat", "banana"),
    _ASSETS / "kitchen.jpg": ("apple", "banana", "pizza", "guitar"),
}
MAX_TEXTS = 40
MAX_CHARACTERS = 300  # of a text; CLIP reads 77 tokens
_MODELS = ("model", "classifier")
_LARGE_PX = 1024  # a preset without a limit of its own is given this one: a visitor's photo must not fill the memory


@dataclass(frozen=True, slots=True)
class Control:
    """One setting under "Advanced": its field of the config, its name for people, and what it does."""

    setting: str
    label: str
    explanation: str
    kind: Literal["share", "choices", "texts", "switch", "model"]
    choices: tuple[str, ...] = ()

    def value(self, config: SegmenterConfig) -> Any:
        """Return what the page's control shows for a config: a number, a list or a truth value."""
        value = flat_settings(config)[self.setting]
        if self.kind == "model":
            return value is not None
        return list(value) if isinstance(value, tuple) else value

    def setting_of(self, value: Any, preset: SegmenterConfig) -> Any:
        """Return what the config holds for a value of the page's control; of numbers the config knows the range.

        Raises:
            InputError: something that is no list of texts, or too many or too long ones; no truth value.
        """
        if self.kind == "texts":
            return bounded_texts(value or [], self.label, known=self.value(preset))
        if self.kind == "choices":
            given = bounded_texts(value or [], self.label)
            return tuple(choice for choice in self.choices if choice in given)
        if self.kind == "model":
            if not isinstance(value, bool):
                raise InputError(f"Expected on or off as {self.label!r}.")
            return flat_settings(preset)[self.setting] if value else None  # the one that is loaded
        return value

    def info(self, config: SegmenterConfig) -> str:
        """Explain the setting, and say what the preset has."""
        texts = config.classify.score_threshold_texts
        scaled = (
            f" This is for {texts} texts; fewer must score more." if texts and self.setting == "score_threshold" else ""
        )
        return f"{self.explanation}{scaled} Preset: {self._shown(config)}."

    def _shown(self, config: SegmenterConfig) -> str:
        match self.value(config):
            case bool(value):
                return "on" if value else "off"
            case list(values) if self.kind == "choices":
                return ", ".join(values) or "none"
            case list(values):
                return f"{len(values)} texts" if values else "none"
            case value:
                return f"{value:g}"


CONTROLS = (
    Control(
        "score_threshold", "Least score to stay (theta)", "A text that scores less at any step is rejected.", "share"
    ),
    Control(
        "mask_threshold", "What the judge is shown (eta)", "Only where the proposal is at least this strong.", "share"
    ),
    Control("cam_threshold", "Reach of a proposal (lambda)", "Lower lets a proposal spread to weaker places.", "share"),
    Control(
        "visual_prompts",
        "Marks on the picture",
        "How a proposed place is pointed out to the judge, unless mask tokens do it.",
        "choices",
        VISUAL_PROMPTS,
    ),
    Control("background_texts", "Background texts", "Compete for the pixels, but are never a result.", "texts"),
    Control(
        "contrast_texts", "Contrast texts", "The judge weighs them too, so that even a lone text can fail.", "texts"
    ),
    Control("crf", "Refine the edges (CRF)", "Draws the masks to the edges in the picture.", "switch"),
)
_SAM = Control("sam", "Refine by SAM", "Replaces a mask by SAM's in its place, where the two agree.", "model")


def offered_controls(config: SegmenterConfig) -> tuple[Control, ...]:
    """List the controls: what needs a model that is not loaded is left out."""
    return CONTROLS if config.refine.sam is None else (*CONTROLS, _SAM)


def bounded_texts(texts: Any, label: str, *, known: Collection[str] = ()) -> tuple[str, ...]:
    """Return the texts that a visitor gave, each once; those of a preset, which are `known`, may be many.

    Raises:
        InputError: something that is no list of texts, more than `MAX_TEXTS`, or one longer than `MAX_CHARACTERS`.
    """
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"Expected a list of texts as {label!r}.")
    unique = tuple(dict.fromkeys(texts))
    own = [text for text in unique if text not in known]
    if len(own) > MAX_TEXTS:
        raise InputError(
            f"Expected at most {MAX_TEXTS} texts of your own as {label!r} on this page, but got {len(own)}; "
            "`car segment` takes more."
        )
    for text in own:
        if len(text) > MAX_CHARACTERS:
            raise InputError(f"Expected a text of at most {MAX_CHARACTERS} characters, but {text[:30]!r}... is longer.")
    return unique


def offered_presets(config: SegmenterConfig) -> dict[str, SegmenterConfig]:
    """List the presets on the loaded models; the first is the one that `config` is, or `AS_STARTED`.

    Those that were made for a SAM, whose grid of points takes minutes on a CPU, or for another family of models are
    offered only if `config` is one.
    """
    models = _models(config)
    presets = {name: with_settings(preset, models) for name, preset in PRESETS.items()}
    special = {name for name in presets if PRESETS[name].refine.sam is not None or name in OTHER_FAMILIES}
    presets = {name: one for name, one in presets.items() if one == config or name not in special}
    same = [name for name, preset in presets.items() if preset == config]
    own = {name: PRESETS[name] for name in same if _models(PRESETS[name]) == models}
    first = next(iter([*own, *same, AS_STARTED]))
    return {first: config, **presets}


def _models(config: SegmenterConfig) -> dict[str, str | None]:
    return {"model": config.propose.model, "classifier": config.classify.classifier, "sam": config.refine.sam}


def chosen_settings(preset: SegmenterConfig, mode: str, values: Sequence[Any], long_side_px: int) -> dict[str, Any]:
    """Collect all settings of a run, without the models: the preset, the changes, and a limit for large pictures."""
    settings = {name: value for name, value in flat_settings(preset).items() if name not in _MODELS}
    settings["mode"] = mode
    for control, value in zip(offered_controls(preset), values, strict=True):
        chosen = control.setting_of(value, preset)
        if not isinstance(chosen, tuple) or set(chosen) != set(settings[control.setting]):  # their order says nothing
            settings[control.setting] = chosen
    if preset.max_side_px is None and long_side_px > _LARGE_PX:
        settings["max_side_px"] = _LARGE_PX
    return settings


def base_preset(name: str) -> str:
    """Return the preset that a run is described against."""
    return "default" if name == AS_STARTED else name
