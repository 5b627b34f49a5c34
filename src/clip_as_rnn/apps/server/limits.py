"""How much the clients of a server may ask of it."""

from dataclasses import dataclass

from clip_as_rnn.apps.pictures import MAX_BYTES, MAX_PIXELS
from clip_as_rnn.errors import InputError

_FRAMING_BYTES = 1_000_000  # around a picture in base64: texts and settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        picture_bytes, picture_pixels: of a picture, as its file and as its header says.
        texts, text_characters: of a request; CLIP itself reads 77 tokens of a text.
        seconds: from the last byte of a request to its answer.
        body_seconds: for the bytes of a request to arrive, and how long a connection may stay without one.
        waiting: how many pictures wait for the segmenter; more are refused.
        images_at_once: how many pictures with the same texts and settings share the encoders' passes.

    Raises:
        InputError: a limit that is not above zero.
    """

    picture_bytes: int = MAX_BYTES
    picture_pixels: int = MAX_PIXELS
    texts: int = 100
    text_characters: int = 300
    seconds: float = 60.0
    body_seconds: float = 20.0
    waiting: int = 32
    images_at_once: int = 4

    def __post_init__(self) -> None:
        """Check that something is allowed."""
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise InputError(f"Expected the limit `{name}` to be above zero, but got {getattr(self, name)!r}.")

    @property
    def body_bytes(self) -> int:
        """How large the body of a request may be: a picture in base64, and what comes with it."""
        return 4 * (self.picture_bytes // 3 + 1) + _FRAMING_BYTES

    @property
    def bodies(self) -> int:
        """How many bodies may arrive at a time; each is held in memory."""
        return self.waiting + self.images_at_once
