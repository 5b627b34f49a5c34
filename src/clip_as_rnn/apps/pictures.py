"""How large the pictures of strangers may be, told from their headers before a pixel is decoded."""

import io
from pathlib import Path

from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import DAMAGE, quiet_pillow

MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000


class TooManyPixelsError(InputError):
    """A picture claims more pixels than strangers may bring."""


def check_claimed_size(file: Path | bytes, limit: int) -> None:
    """Compare the size that a picture's header claims with a limit of pixels.

    What cannot be read is left for `read_picture` to explain.

    Raises:
        TooManyPixelsError: it claims more.
    """
    pixels = _claimed_pixels(file, limit)
    if pixels > limit:
        most, claimed = f"{limit / 1e6:.0f} million", f"{pixels / 1e6:.0f} million"
        raise TooManyPixelsError(f"Expected a picture of at most {most} pixels, but this one has {claimed}.")


def _claimed_pixels(file: Path | bytes, limit: int) -> int:
    try:
        with quiet_pillow(), Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return 2 * (Image.MAX_IMAGE_PIXELS or limit)
    except DAMAGE:
        return 0
