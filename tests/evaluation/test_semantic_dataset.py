"""Every semantic data set in its exact layout, label by label, and the sentences where something is not there."""

from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import (
    DATASETS,
    ReferringDataset,
    SemanticDataset,
    VideoDataset,
    find_dataset,
)
from clip_as_rnn.evaluation.datasets.semantic import IGNORED, list_images, read_labels, read_rgb, read_vocabulary
from clip_as_rnn.evaluation.datasets.vocabulary import bundled_vocabulary, read_class_list
from clip_as_rnn.presets import PRESETS
from evaluation_trees import write_image, write_label_image, write_tree

SEMANTIC = [name for name, row in DATASETS.items() if isinstance(row, SemanticDataset)]
LAYOUTS = {  # as the authors' code and mmsegmentation expect them
    "voc": ("VOCdevkit/VOC2012", "JPEGImages/a.jpg", "SegmentationClass/a.png"),
    "coco-object": ("", "images/val2017/a.jpg", "annotations/val2017/a_instanceTrainIds.png"),
    "context": ("VOCdevkit/VOC2010", "JPEGImages/a.jpg", "SegmentationClassContext/a.png"),
    "pc459": ("", "images/validation/a.jpg", "annotations_ctx459/validation/a.tif"),
    "ade150": ("ADEChallengeData2016", "images/validation/a.jpg", "annotations/validation/a.png"),
    "ade847": ("", "images_detectron2/validation/a.jpg", "annotations_detectron2/validation/a.tif"),
    "coco-stuff": ("coco_stuff164k", "images/val2017/a.jpg", "annotations/val2017/a_labelTrainIds.png"),
    "scenes": ("", "JPEGImages/a.jpg", "SegmentationClass/a.png"),
}
SPLIT_FILES = {
    "voc": "ImageSets/Segmentation/val.txt",
    "context": "ImageSets/SegmentationContext/val.txt",
    "scenes": "ImageSets/Segmentation/heldout.txt",
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_each_layout_is_found_where_its_publishers_put_it(tmp_path, name):
    home, image, labels = LAYOUTS[name]
    write_image(tmp_path / home / image, (4, 6))
    write_label_image(tmp_path / home / labels, np.zeros((4, 6), dtype=int))
    if name in SPLIT_FILES:
        path = tmp_path / home / SPLIT_FILES[name]
        path.parent.mkdir(parents=True)
        path.write_text("a\n")
    dataset = find_dataset(name)
    (found,) = list_images(dataset, tmp_path, dataset.split)
    assert (found.name, found.image, found.labels) == ("a", tmp_path / home / image, tmp_path / home / labels)


@pytest.mark.parametrize(
    ("name", "values", "labels"),
    [
        ("voc", [0, 1, 20, 21, 255], [0, 1, 20, IGNORED, IGNORED]),
        ("coco-object", [0, 1, 80, 81, 255], [0, 1, 80, IGNORED, IGNORED]),
        ("context", [0, 1, 59, 60, 255], [0, 1, 59, IGNORED, IGNORED]),
        ("pc459", [0, 458, 459, 65535], [1, 459, IGNORED, IGNORED]),
        ("ade150", [0, 1, 150, 151, 255], [0, 1, 150, IGNORED, IGNORED]),
        ("ade847", [0, 846, 847, 65535], [1, 847, 0, 0]),
        ("coco-stuff", [0, 170, 171, 255], [1, 171, IGNORED, IGNORED]),
        ("scenes", [0, 1, 2, 3, 255], [0, 1, 2, IGNORED, IGNORED]),
    ],
)
def test_each_label_value_means_what_its_publishers_say(tmp_path, name, values, labels):
    dataset = write_tree(name, tmp_path, {"a": np.array([values])})
    (item,) = list_images(dataset, tmp_path, dataset.split)
    count = len(read_vocabulary(dataset, tmp_path, dataset.split).classes)
    assert read_labels(item, dataset, count).labels.tolist() == [labels]


def test_a_split_file_gives_the_order_and_a_folder_gives_the_names_sorted(tmp_path):
    voc = write_tree("voc", tmp_path / "voc", {name: np.zeros((2, 2), dtype=int) for name in ("b", "c", "a")})
    coco = write_tree("coco-object", tmp_path / "coco", {name: np.zeros((2, 2), dtype=int) for name in ("b", "c", "a")})
    assert [item.name for item in list_images(voc, tmp_path / "voc", "val")] == ["b", "c", "a"]
    assert [item.name for item in list_images(coco, tmp_path / "coco", "val2017")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "count", "stuff"),
    [
        ("voc", 20, 0),
        ("coco-object", 80, 0),
        ("context", 59, 21),
        ("pc459", 459, 26),
        ("ade150", 150, 25),
        ("ade847", 847, 29),
        ("coco-stuff", 171, 91),
    ],
)
def test_vocabularies_have_the_published_numbers_of_things_and_stuff(name, count, stuff):
    vocabulary = bundled_vocabulary(name)
    assert len(vocabulary.texts) == len(vocabulary.worded("own").texts) == count
    assert len(vocabulary.of_kind("stuff")) == stuff
    assert len({" ".join(text.split()).casefold() for text in vocabulary.texts}) == count  # CLIP can tell all apart


def test_vocabularies_keep_the_papers_words_beside_the_own_names():
    voc, ade = bundled_vocabulary("voc"), bundled_vocabulary("ade150")
    assert (voc.classes[14].name, voc.classes[14].text) == ("person", "person with clothes,people,human")
    assert ade.classes[14].text == "door, double, door"  # the authors put a comma after every word
    assert ade.worded("own").texts[14] == "door"
    assert bundled_vocabulary("coco-object").classes[31].text == "sknowboard"


def test_a_class_list_of_its_own_is_read_and_checked(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("dog\nstuff | grass | green grass\n\n# a remark\n")
    vocabulary = read_class_list(path)
    assert vocabulary.texts == ("dog", "green grass")
    assert vocabulary.of_kind("stuff") == ("green grass",)
    path.write_text("dog\nthing | |\n")
    with pytest.raises(InputError, match="in line 2 of"):
        read_class_list(path)
    for repeated in ("dog", "Dog", "thing | hound | DOG"):
        path.write_text(f"dog\ncat\n{repeated}\n")
        with pytest.raises(InputError, match=r"a text of its own, but got '(dog|Dog|DOG)' twice"):
            read_class_list(path)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="at least one text to look for, but got none"):
        read_class_list(path)
    with pytest.raises(
        InputError, match=r"Expected the class names, one a line, in .*, but: No such file or directory\.$"
    ):
        read_class_list(tmp_path / "none.txt")
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"one a line, in .*, but: a text in it is not in UTF-8\.$"):
        read_class_list(path)


def test_every_row_names_a_preset_and_a_source():
    for row in DATASETS.values():
        assert row.preset in PRESETS
        assert row.source.endswith(".")
        unpublished = isinstance(row, VideoDataset) and not row.expected  # the truth of its split is kept by a server
        assert isinstance(row, ReferringDataset) or unpublished or row.split in row.expected


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(InputError, match=r"No data set named 'ade15'\. Did you mean 'ade150'\? Known: voc,"):
        find_dataset("ade15")


def test_a_missing_root_is_named_with_the_source(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder .*nowhere, expected to hold Pascal VOC.*host\.robots"):
        list_images(find_dataset("voc"), tmp_path / "nowhere", "val")


def test_a_root_without_images_is_told_every_place_that_would_do(tmp_path):
    with pytest.raises(InputError, match=r"VOCdevkit/VOC2012/JPEGImages or .*VOC2012/JPEGImages or .*host\.robots"):
        list_images(find_dataset("voc"), tmp_path, "val")


def test_a_root_without_labels_is_told_where_they_belong(tmp_path):
    write_image(tmp_path / "images/val2017/a.jpg", (2, 2))
    with pytest.raises(InputError, match=r"label images of COCO Object in .*annotations/val2017.*convert_coco_object"):
        list_images(find_dataset("coco-object"), tmp_path, "val2017")


def test_a_missing_split_file_is_told_which_splits_there_are(tmp_path):
    dataset = write_tree("voc", tmp_path, {"a": np.zeros((2, 2), dtype=int)})
    with pytest.raises(InputError, match=r"image names, one a line, in .*test\.txt \(splits found: val\)"):
        list_images(dataset, tmp_path, "test")


def test_an_empty_split_is_an_error_not_a_perfect_score(tmp_path):
    dataset = write_tree("voc", tmp_path, {"a": np.zeros((2, 2), dtype=int)})
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no image"):
        list_images(dataset, tmp_path, "val")


def test_an_image_without_annotation_is_told_where_it_should_be(tmp_path):
    dataset = write_tree("voc", tmp_path, {"a": np.zeros((2, 2), dtype=int)})
    (item,) = list_images(dataset, tmp_path, "val")
    item.labels.unlink()
    with pytest.raises(
        InputError, match=r"No annotation for the image a: expected .*SegmentationClass/a\.png\. Pascal"
    ):
        read_labels(item, dataset, 20)


def test_a_colored_label_image_is_refused(tmp_path):
    dataset = write_tree("voc", tmp_path, {"a": np.zeros((2, 2), dtype=int)})
    (item,) = list_images(dataset, tmp_path, "val")
    Image.new("RGB", (2, 2)).save(item.labels)
    with pytest.raises(InputError, match=r"one integer per pixel .* is it a colored picture"):
        read_labels(item, dataset, 20)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"plain text"])
def test_broken_files_are_input_errors(tmp_path, content):
    dataset = write_tree("voc", tmp_path, {"a": np.zeros((2, 2), dtype=int)})
    (item,) = list_images(dataset, tmp_path, "val")
    item.labels.write_bytes(content)
    item.image.write_bytes(content)
    with pytest.raises(InputError, match="Cannot read the label image"):
        read_labels(item, dataset, 20)
    with pytest.raises(InputError, match="Cannot read the image"):
        read_rgb(item.image)


@pytest.mark.parametrize(("name", "suffix"), [("pc459", ".tif"), ("voc", ".png"), ("voc", ".bmp"), ("voc", ".gif")])
def test_no_damage_of_a_file_is_more_than_an_input_error(tmp_path, name, suffix):
    """Bits flipped and ends cut off, as bad disks and broken downloads do it."""
    dataset = write_tree(name, tmp_path, {"a": np.arange(12 * 11).reshape(12, 11) % 7})
    (item,) = list_images(dataset, tmp_path, dataset.split)
    with Image.open(item.labels) as image:
        image.save(tmp_path / f"sound{suffix}")
    sound, dice = (tmp_path / f"sound{suffix}").read_bytes(), np.random.default_rng(0)
    for _ in range(250):
        damaged = bytearray(sound)
        for position in dice.integers(len(sound), size=int(dice.integers(1, 4))):
            damaged[position] = dice.integers(256)
        item.labels.write_bytes(damaged[: int(dice.integers(1, len(sound)))] if dice.random() < 0.3 else damaged)
        with suppress(InputError):
            read_labels(item, dataset, 20)
        with suppress(InputError):
            read_rgb(item.labels)


def test_a_label_image_of_far_too_many_pixels_is_an_input_error(tmp_path):
    dataset = write_tree("voc", tmp_path, {"a": np.zeros((2, 2), dtype=int)})
    (item,) = list_images(dataset, tmp_path, "val")
    Image.new("1", (20000, 10000)).save(item.labels)
    with pytest.raises(
        InputError, match=r"Cannot read the label image .*a\.png: it has more than 178,956,970 pixels\."
    ):
        read_labels(item, dataset, 20)


def test_images_are_not_turned_by_their_exif_orientation(tmp_path):
    """Label images follow the stored pixels; ADE20K has pictures with an orientation."""
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert read_rgb(path).shape == (4, 6, 3)
