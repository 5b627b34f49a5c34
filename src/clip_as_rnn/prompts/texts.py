"""The words that CLIP reads and the names of the marks it is shown: templates, background texts, visual prompts.

Wording follows CLIP-ES (Lin et al., CVPR 2023) and CaR's release; the groups of background texts are CaR's appendix D.
Knows nothing of models; the marks themselves are drawn in `marks.py`.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

VisualPrompt = Literal["blur", "gray", "black", "circle", "rectangle", "contour"]
VISUAL_PROMPTS: tuple[VisualPrompt, ...] = get_args(VisualPrompt)  # in the order in which they are drawn

ORIGAMI = "a clean origami {}."

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

# The 23 background texts of the authors' code, for every data set.
BACKGROUND_RELEASE: tuple[str, ...] = (
    "ground",
    "land",
    "grass",
    "tree",
    "building",
    "wall",
    "sky",
    "lake",
    "water",
    "river",
    "sea",
    "railway",
    "railroad",
    "helmet",
    "cloud",
    "house",
    "mountain",
    "ocean",
    "road",
    "rock",
    "street",
    "valley",
    "bridge",
)

# Things of many kinds, for contrast: a text asked alone then has something of its own kind to lose against (ours).
COMMON_THINGS: tuple[str, ...] = (
    *("lion", "monkey", "mouse", "chicken", "frog", "whale", "dolphin"),
    *("crab", "bee", "spider", "camel", "helicopter", "tractor", "couch"),
    *("clock", "bottle", "cup", "hamburger", "cake", "donut", "bread"),
    *("watermelon", "pineapple", "orange", "tomato", "mushroom", "sunflower", "palm tree"),
    *("key", "scissors", "camera", "light bulb", "balloon", "basketball", "drum"),
    *("hat", "shoe", "shirt", "glasses", "crown", "traffic light", "teddy bear"),
    "potted plant",
)

# The 112 background texts of the paper, in its three groups.
BACKGROUND_GROUPS: Mapping[str, tuple[str, ...]] = {
    "terrestrial": (
        "ground",
        "land",
        "grass",
        "tree",
        "mountain",
        "rock",
        "valley",
        "earth",
        "terrain",
        "forest",
        "bush",
        "hill",
        "field",
        "pasture",
        "meadow",
        "plateau",
        "cliff",
        "canyon",
        "ridge",
        "peak",
        "plain",
        "prairie",
        "tundra",
        "savanna",
        "steppe",
        "crag",
        "knoll",
        "dune",
        "glen",
        "dale",
        "copse",
        "thicket",
    ),
    "aquatic_atmospheric": (
        "sea",
        "ocean",
        "lake",
        "water",
        "river",
        "sky",
        "cloud",
        "pond",
        "stream",
        "lagoon",
        "bay",
        "gulf",
        "fjord",
        "estuary",
        "creek",
        "brook",
        "reservoir",
        "pool",
        "spring",
        "marsh",
        "swamp",
        "wetland",
        "glacier",
        "iceberg",
        "atmosphere",
        "stratosphere",
        "mist",
        "fog",
        "rain",
        "drizzle",
        "hail",
        "sleet",
        "snow",
        "thunderstorm",
        "breeze",
        "wind",
        "gust",
        "hurricane",
        "tornado",
        "monsoon",
        "cumulus",
        "cirrus",
        "stratus",
        "nimbus",
    ),
    "man_made": (
        "building",
        "house",
        "wall",
        "road",
        "street",
        "railway",
        "railroad",
        "bridge",
        "edifice",
        "structure",
        "apartment",
        "condominium",
        "skyscraper",
        "highway",
        "boulevard",
        "lane",
        "alley",
        "byway",
        "avenue",
        "expressway",
        "freeway",
        "path",
        "overpass",
        "underpass",
        "viaduct",
        "tunnel",
        "footbridge",
        "crosswalk",
        "culvert",
        "dam",
        "archway",
        "causeway",
        "plaza",
        "square",
        "station",
        "terminal",
    ),
}


def word(template: str, texts: Sequence[str]) -> list[str]:
    """Put every text into a template, as CLIP will read it."""
    return [template.replace("{}", text) for text in texts]


def reading(text: str) -> str:
    """Bring a text to what CLIP reads of it, in which alone texts differ to it: composed, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())
