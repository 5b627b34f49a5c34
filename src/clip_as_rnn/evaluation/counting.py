"""The ways to count pixels, by name. In a module of its own, for the table of data sets must not load torch."""

from typing import Literal

Counting = Literal["with_background", "without_background_released", "without_background_counted"]
COUNTINGS: tuple[Counting, ...] = (
    "with_background",
    "without_background_released",
    "without_background_counted",
)
