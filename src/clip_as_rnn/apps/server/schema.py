"""What requests may hold and what responses hold: the source of `/openapi.json`, and the check of every request."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clip_as_rnn.config import Mode, VisualPrompt

Share = Annotated[float, Field(ge=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)
_EXAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAAC0lEQVR42mNgQAUAABAAAaoZ+IIAAAAASUVORK5CYII="  # a PNG of 8 x 8
)
Base64 = Annotated[
    str,
    Field(description="The file in base64, a data URL, or a URL if the server allows its host.", examples=[_EXAMPLE]),
]
_SHOWN_CHARACTERS = 300
_MOST_TEXTS = 1000  # whatever the server's own limit; keeps the check itself cheap
_MOST_VALUES = 1_000_000  # of a JSON body; an empty list of two letters takes 56 bytes once it is read


class _Strict(BaseModel):
    """Refuses names it does not know, so that a slip of the pen is not taken for consent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_one_slip(cls, given: Any) -> Any:
        """Drop all unknown names but the first: each is given an error of its own, and thousands of them take long."""
        if not isinstance(given, dict):
            return given
        slip = next((name for name in given if name not in cls.model_fields), None)
        return {name: value for name, value in given.items() if name == slip or name in cls.model_fields}


class Settings(_Strict):
    """Settings of one request; what is absent is as the server has it. `car presets` explains them."""

    mode: Mode | None = None
    score_threshold: Share | None = None
    mask_threshold: Share | None = None
    cam_threshold: Share | None = None
    visual_prompts: Annotated[tuple[VisualPrompt, ...], Field(min_length=1, max_length=6)] | None = None
    contrast_texts: Annotated[tuple[str, ...], Field(max_length=_MOST_TEXTS)] | None = None
    max_steps: Annotated[int, Field(ge=0, le=1000)] | None = None
    crf: bool | None = None


class SegmentOptions(_Strict):
    """What `/v1/segment` is asked besides the picture; the query string of a request whose body is the picture."""

    texts: Annotated[list[str], Field(max_length=_MOST_TEXTS)] | None = Field(
        default=None, description="What to look for; absent: what the server was started with."
    )
    masks: Literal["rle", "png", "none"] = Field(default="rle", description="COCO run lengths, PNG in base64, or none.")
    trace: bool = Field(default=False, description="Also every step of the recurrence.")


class SegmentRequest(SegmentOptions):
    """A picture and what to look for in it."""

    image: Base64
    settings: Settings = Settings()


class Parameters(_Strict):
    """The parameters of Hugging Face's task, and `candidate_labels` as the zero-shot tasks have it."""

    candidate_labels: Annotated[list[str], Field(max_length=_MOST_TEXTS)] | str | None = Field(
        default=None,
        description="What to look for, a list or words with commas; absent: as the server was started.",
    )
    threshold: Share | None = Field(default=None, description="Leave out what scores less.")
    mask_threshold: Share | None = Field(default=None, description="The setting of that name; see `car presets`.")
    overlap_mask_area_threshold: Share | None = Field(default=None, description="No effect: masks do not overlap.")
    subtask: Literal["semantic"] | None = None


class HuggingFaceRequest(_Strict):
    """The body that Hugging Face's clients send when there are parameters; without, they send the file itself."""

    inputs: Base64
    parameters: Parameters | None = None


class HuggingFaceSegment(BaseModel):
    """One text that was found."""

    label: str
    score: float
    mask: str = Field(description="A PNG in base64, white where the text is.")


class Found(BaseModel):
    """One text that was found; `label` is its number in a label map, the box is x, y, width, height in pixels."""

    text: str
    label: int
    score: float
    area_px: int
    box_xywh: tuple[int, int, int, int]
    rle: dict[str, Any] | None = None
    png: str | None = None


class Rejected(BaseModel):
    """One text that was not found, and why."""

    text: str
    step: int
    score: float
    reason: str


class StepTrace(BaseModel):
    """One step of the recurrence; `proposals` are PNGs in base64, one pixel per patch, 255 for 1."""

    texts: list[str]
    scores: list[float]
    kept: list[int]
    proposals: list[str]


class SegmentResponse(BaseModel):
    """Everything that is known of the result."""

    size: dict[str, int]
    queries: list[str]
    found: list[Found]
    rejected: list[Rejected]
    notes: list[str]
    steps: list[StepTrace] | None
    seconds: dict[str, float]
    preset: str
    settings: dict[str, Any]
    models: dict[str, str]
    version: str


class Failure(BaseModel):
    """Why a request was refused, in a sentence."""

    error: str


def parse_json(model: type[Model], body: bytes) -> Model:
    """Check a JSON body.

    Raises:
        HTTPException: 422 with one sentence.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise HTTPException(422, f"Expected JSON of at most {_MOST_VALUES} values.")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error


def parse_query(model: type[Model], items: Sequence[tuple[str, str]]) -> Model:
    """Check a query string; a name that may have a list of values collects them.

    Raises:
        HTTPException: 422 with one sentence.
    """
    given: dict[str, Any] = {}
    for name, value in items:
        if name in ("texts", "candidate_labels"):
            given.setdefault(name, []).append(value)
        elif name in given:
            raise HTTPException(422, f"Expected the parameter {name[:_SHOWN_CHARACTERS]!r} once.")
        else:
            given[name] = value
    if len(labels := given.get("candidate_labels", ())) == 1:
        given["candidate_labels"] = labels[0]  # one text, or several with commas
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> HTTPException:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    words = f"{place}: {first['msg']}" if place else str(first["msg"])
    return HTTPException(422, f"This request cannot be read: {words[:_SHOWN_CHARACTERS]}")
