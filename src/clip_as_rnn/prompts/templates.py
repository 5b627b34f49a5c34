"""How a text is worded for an encoder: templates with one `{}`, following CLIP-ES (Lin et al., CVPR 2023) and CaR."""

from collections.abc import Sequence

ORIGAMI = "a clean origami {}."
PHOTO = "a photo of a {}."

PHOTO_TEMPLATES: tuple[str, ...] = (
    "a clean origami {}.",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)


def fill(template: str, texts: Sequence[str]) -> list[str]:
    """Put every text into a template, as the encoder will read it."""
    return [template.replace("{}", text) for text in texts]
