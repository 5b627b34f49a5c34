"""The table of data sets: where each keeps its files, what its labels mean, and what the paper reports on it.

A new data set is a row here (and a vocabulary). The files are read in `semantic.py` and `referring.py`; this module
loads neither numpy nor torch, for the help of the command line lists the data sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from clip_as_rnn.errors import InputError, suggest

Counting = Literal["with_background", "without_background_released", "without_background_counted"]  # see metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEncoding:
    """How the values of a label image name the classes.

    Attributes:
        offset: added to a value to make a label: 0 is background, i + 1 is class i.
        ignored: the value of pixels that count nowhere.
        beyond: what labels above the last class mean. "ignored": nothing that is known of, so that the report warns of
            them; "background": as documented for the data set.
    """

    offset: int = 0
    ignored: int = 255
    beyond: Literal["ignored", "background"] = "ignored"


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticDataset:
    """A data set of label images.

    Attributes:
        homes: folders under the root that may hold the data; the first one that holds the images does.
        images, labels, split_file: paths within the home, where {split} stands for the split; without a split file,
            every image of the folder belongs to the split.
        vocabulary: the bundled vocabulary; None: `classes.txt` in the home.
        released_classes: how many classes the authors' release counts, where it forgets one; background included.
        headline: the way of counting that is quoted for the data set.
        expected: how many images the published splits hold.
        paper: the paper's mIoU by way of counting.
        source: where such data comes from, a sentence.
        root: where it lies below the project's folder, if it is the project's own.
    """

    name: str
    title: str
    homes: tuple[str, ...] = (".",)
    images: str
    image_suffix: str = ".jpg"
    labels: str
    label_suffix: str = ".png"
    split_file: str | None = None
    split: str
    encoding: LabelEncoding = LabelEncoding()
    vocabulary: str | None = None
    released_classes: int | None = None
    headline: Counting = "with_background"
    expected: Mapping[str, int] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    preset: str
    source: str
    root: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferringDataset:
    """A data set of sentences that refer to objects, in RefCOCO's layout.

    Attributes:
        folders: paths under the root that may hold the references; the first one that does counts.
        references: names of the file of references in it, a pickle or JSON; the first one that is there counts.
        images: folders under the root that may hold the images.
        generalized: sentences may refer to several objects or to none (gRefCOCO).
        cleaned: sentences are lower-cased and lose quotes and slashes, as the authors do.
        expected: how many references (generalized: sentences) the published splits hold.
        paper: the paper's mIoU by split.
        source: where such data comes from, a sentence.
        root: where it lies below the project's folder, if it is the project's own.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    references: tuple[str, ...]
    images: tuple[str, ...] = ("images/mscoco/images/train2014", "images/train2014", "train2014")
    split: str = "val"
    generalized: bool = False
    cleaned: bool = True
    expected: Mapping[str, int] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    preset: str
    source: str
    root: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoDataset:
    """A data set of clips with expressions.

    Attributes:
        layout: "converted": `SPLIT/JPEGImages`, `SPLIT/Annotations`, `meta_expressions/SPLIT/meta_expressions.json`, as
            Ref-YouTube-VOS has it and the field converts Ref-DAVIS17; "mevis": all of it in the folder of the split.
        annotators: expression `object * annotators + annotator`, those of one annotator are asked together; None: each
            expression is asked by itself.
        expected: how many samples (clips by annotators, or expressions) the published splits hold.
        paper: the paper's J, F and J&F.
        source: where such data comes from, a sentence.
        root: where it lies below the project's folder, if it is the project's own.
    """

    name: str
    title: str
    layout: Literal["converted", "mevis"] = "converted"
    annotators: int | None = None
    split: str = "valid"
    expected: Mapping[str, int] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    preset: str
    source: str
    root: str | None = None


Dataset: TypeAlias = SemanticDataset | ReferringDataset | VideoDataset

_VOC_SOURCE = "Pascal VOC 2012 comes from host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)."
_CONTEXT_SOURCE = (
    "Pascal Context is made from VOC 2010 (host.robots.ox.ac.uk/pascal/VOC/voc2010) and trainval_merged.json with "
    "mmsegmentation's tools/dataset_converters/pascal_context.py."
)
_PC459_SOURCE = "Pascal Context with 459 classes is made from VOC 2010 as FC-CLIP's datasets/README.md describes."
_COCO_SOURCE = (
    "COCO comes from cocodataset.org (val2017.zip), its labels from github.com/nightrome/cocostuff "
    "(stuffthingmaps_trainval2017.zip), converted with"
)
_ADE_SOURCE = "ADE20K comes from data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip."
_ADE_FULL_SOURCE = (
    "ADE20K with all classes comes from groups.csail.mit.edu/vision/datasets/ADE20K (ADE20K_2021_17_01), prepared as "
    "FC-CLIP's datasets/README.md describes."
)
_REFER_SOURCE = "The references come from github.com/lichengunc/refer, the images from cocodataset.org (train2014.zip)."
_GREFER_SOURCE = (
    "The references come from github.com/henghuiding/gRefCOCO, the images from cocodataset.org (train2014.zip)."
)
_SCENES_SOURCE = "The scenes lie in data/scenes of the repository clip-as-rnn and are made by its training/."
_CLIPS_SOURCE = "The clips lie in data/clips of the repository clip-as-rnn and are made by its training/."
_DAVIS_SOURCE = (
    "Ref-DAVIS17 is DAVIS 2017 (davischallenge.org, unsupervised, 480p) with davis_text_annotations.zip of MPI-INF, as "
    "it is or converted by ReferFormer's tools/data/convert_davis_to_ytvos.py."
)
_YTVOS_SOURCE = "Ref-YouTube-VOS comes from youtube-vos.org; results on its split valid are scored on its server alone."
_MEVIS_SOURCE = (
    "MeViS comes from github.com/henghuiding/MeViS; results on its split valid are scored on its server alone."
)

_ROWS: tuple[Dataset, ...] = (
    SemanticDataset(
        name="voc",
        title="Pascal VOC 2012",
        homes=("VOCdevkit/VOC2012", "VOC2012", "."),
        images="JPEGImages",
        labels="SegmentationClass",
        split_file="ImageSets/Segmentation/{split}.txt",
        split="val",
        vocabulary="voc",
        expected={"val": 1449, "train": 1464, "trainval": 2913},
        paper={"with_background": 0.676, "without_background_released": 0.914},
        preset="paper-voc",
        source=_VOC_SOURCE,
    ),
    SemanticDataset(
        name="coco-object",
        title="COCO Object",
        homes=(".", "coco_stuff164k", "coco"),
        images="images/{split}",
        labels="annotations/{split}",
        label_suffix="_instanceTrainIds.png",
        split="val2017",
        vocabulary="coco-object",
        expected={"val2017": 5000},
        paper={"with_background": 0.366},
        preset="paper-coco-object",
        source=f"{_COCO_SOURCE} GroupViT's convert_dataset/convert_coco_object.py.",
    ),
    SemanticDataset(
        name="context",
        title="Pascal Context (59 classes)",
        homes=("VOCdevkit/VOC2010", "VOC2010", "."),
        images="JPEGImages",
        labels="SegmentationClassContext",
        split_file="ImageSets/SegmentationContext/{split}.txt",
        split="val",
        vocabulary="context",
        expected={"val": 5104, "train": 4996},
        paper={"with_background": 0.305, "without_background_released": 0.395},
        preset="paper-context",
        source=_CONTEXT_SOURCE,
    ),
    SemanticDataset(
        name="pc459",
        title="Pascal Context (459 classes)",
        homes=(".", "pascal_ctx_d2", "VOCdevkit/VOC2010"),
        images="images/{split}",
        labels="annotations_ctx459/{split}",
        label_suffix=".tif",
        split="validation",
        encoding=LabelEncoding(offset=1, ignored=65535),
        vocabulary="pc459",
        expected={"validation": 5105},
        headline="without_background_released",
        paper={"without_background_released": 0.139},
        preset="paper-pc459",
        source=_PC459_SOURCE,
    ),
    SemanticDataset(
        name="ade150",
        title="ADE20K (150 classes)",
        homes=(".", "ADEChallengeData2016", "ade/ADEChallengeData2016"),
        images="images/{split}",
        labels="annotations/{split}",
        split="validation",
        vocabulary="ade150",
        expected={"validation": 2000},
        headline="without_background_released",
        paper={"without_background_released": 0.177},
        preset="paper-ade150",
        source=_ADE_SOURCE,
    ),
    SemanticDataset(
        name="ade847",
        title="ADE20K (847 classes)",
        homes=(".", "ADE20K_2021_17_01"),
        images="images_detectron2/{split}",
        labels="annotations_detectron2/{split}",
        label_suffix=".tif",
        split="validation",
        encoding=LabelEncoding(offset=1, beyond="background"),
        vocabulary="ade847",
        released_classes=847,
        expected={"validation": 2000},
        headline="without_background_released",
        paper={"without_background_released": 0.081},
        preset="paper-ade847",
        source=_ADE_FULL_SOURCE,
    ),
    SemanticDataset(
        name="coco-stuff",
        title="COCO-Stuff 164k (171 classes)",
        homes=(".", "coco_stuff164k", "coco"),
        images="images/{split}",
        labels="annotations/{split}",
        label_suffix="_labelTrainIds.png",
        split="val2017",
        encoding=LabelEncoding(offset=1),
        vocabulary="coco-stuff",
        expected={"val2017": 5000},
        preset="default",
        source=f"{_COCO_SOURCE} mmsegmentation's tools/dataset_converters/coco_stuff164k.py.",
    ),
    SemanticDataset(
        name="scenes",
        title="Scenes of pictographs (bundled)",
        images="JPEGImages",
        labels="SegmentationClass",
        split_file="ImageSets/Segmentation/{split}.txt",
        split="heldout",
        expected={"heldout": 300, "trained": 100},
        preset="tiny",
        source=_SCENES_SOURCE,
        root="data/scenes",
    ),
    ReferringDataset(
        name="scenes-referring",
        title="Sentences about scenes of pictographs (bundled)",
        folders=("referring",),
        references=("refs(scenes).json",),
        images=("JPEGImages",),
        split="heldout",
        expected={"heldout": 100},
        preset="tiny",
        source=_SCENES_SOURCE,
        root="data/scenes",
    ),
    ReferringDataset(
        name="refcoco",
        title="RefCOCO (UNC)",
        folders=("refcoco", "."),
        references=("refs(unc).p", "refs(unc).json"),
        expected={"val": 3811, "testA": 1975, "testB": 1810},
        paper={"val": 0.3357, "testA": 0.3536, "testB": 0.3051},
        preset="paper-refcoco",
        source=_REFER_SOURCE,
    ),
    ReferringDataset(
        name="refcoco+",
        title="RefCOCO+ (UNC)",
        folders=("refcoco+", "."),
        references=("refs(unc).p", "refs(unc).json"),
        expected={"val": 3805, "testA": 1975, "testB": 1798},
        paper={"val": 0.3422, "testA": 0.3603, "testB": 0.3102},
        preset="paper-refcoco+",
        source=_REFER_SOURCE,
    ),
    ReferringDataset(
        name="refcocog",
        title="RefCOCOg (UMD)",
        folders=("refcocog", "."),
        references=("refs(umd).p", "refs(umd).json"),
        expected={"val": 2573, "test": 5023},
        paper={"val": 0.3667, "test": 0.3657},
        preset="paper-refcocog",
        source=_REFER_SOURCE,
    ),
    ReferringDataset(
        name="refcocog-google",
        title="RefCOCOg (Google)",
        folders=("refcocog", "."),
        references=("refs(google).p", "refs(google).json"),
        expected={"val": 4650},
        paper={"val": 0.3663},
        preset="paper-refcocog",
        source=_REFER_SOURCE,
    ),
    ReferringDataset(
        name="grefcoco",
        title="gRefCOCO (GRES)",
        folders=("grefcoco", "."),
        references=("grefs(unc).p", "grefs(unc).json"),
        generalized=True,
        cleaned=False,
        paper={"val": 0.168},
        preset="paper-gres",
        source=_GREFER_SOURCE,
    ),
    VideoDataset(
        name="clips",
        title="Clips of pictographs (bundled)",
        annotators=2,
        expected={"valid": 48},
        preset="tiny",
        source=_CLIPS_SOURCE,
        root="data/clips",
    ),
    VideoDataset(
        name="ref-davis17",
        title="Ref-DAVIS17",
        annotators=4,
        expected={"valid": 120},
        paper={"j": 0.2815, "f": 0.3253, "jf": 0.3034},
        preset="paper-ref-davis17",
        source=_DAVIS_SOURCE,
    ),
    VideoDataset(name="ref-youtube-vos", title="Ref-YouTube-VOS", preset="paper-ref-davis17", source=_YTVOS_SOURCE),
    VideoDataset(
        name="mevis",
        title="MeViS",
        layout="mevis",
        split="valid_u",
        expected={"valid_u": 907},
        preset="paper-ref-davis17",
        source=_MEVIS_SOURCE,
    ),
)

DATASETS: Mapping[str, Dataset] = {row.name: row for row in _ROWS}


def find_dataset(name: str) -> Dataset:
    """Look a data set up by name.

    Raises:
        InputError: there is none; the message holds the nearest name and all known ones.
    """
    if name not in DATASETS:
        raise InputError(f"No data set named {name!r}.{suggest(name, list(DATASETS))}")
    return DATASETS[name]
