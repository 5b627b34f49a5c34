"""Data sets for labeling tools: what their own readers read back is what was found."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from clip_as_rnn.errors import InputError
from clip_as_rnn.export.base import DatasetExporter, Sample, place_picture
from clip_as_rnn.export.datasets import DATASET_FORMATS, DatasetFormat, open_datasets, remove_datasets
from clip_as_rnn.export.label_studio import encode_brush
from clip_as_rnn.io.label_maps import read_label_map
from clip_as_rnn.result import Segmentation
from format_readers.write_samples import SIZE_HW, draw_things
from format_readers.write_samples import THINGS as TEXTS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools


def _found(*texts: str, queries: tuple[str, ...] = TEXTS) -> Segmentation:
    masks = np.stack([draw_things()[text] for text in texts]) if texts else np.zeros((0, *SIZE_HW), bool)
    return Segmentation(queries, texts, masks, np.linspace(0.9, 0.5, len(texts), dtype=np.float32))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Make three pictures: all texts but one found, two of them, none."""
    samples = []
    for i, texts in enumerate((TEXTS[:5], ("point", 'a "big" dog')[::-1], ())):
        picture = tmp_path / f"{'x, y' * i}{i}.png"
        Image.fromarray(np.full((*SIZE_HW, 3), 40 * i, np.uint8)).save(picture)
        samples.append(Sample(picture.stem, picture, _found(*texts)))
    return samples


def _write(name: DatasetFormat, folder: Path, samples: list[Sample]) -> Path:
    exporter = open_datasets([name], folder, TEXTS)[name]
    for sample in samples:
        assert exporter.add(sample) == exporter.paths(sample.name, sample.picture)
    exporter.close()
    return folder / name


def _read(files: supervision.DetectionDataset) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the masks of each picture by text, by the name of the picture."""
    for path, image, found in files:
        assert image.shape == (*SIZE_HW, 3)
        masks = [] if found.mask is None else found.mask
        yield Path(path).stem, dict(zip([files.classes[i] for i in found.class_id], masks, strict=True))


def _assert_same(read: dict[str, dict[str, np.ndarray]], samples: list[Sample]) -> None:
    assert set(read) == {sample.name for sample in samples}
    for sample in samples:
        assert set(read[sample.name]) == set(sample.segmentation.texts)
        for text, mask in read[sample.name].items():
            np.testing.assert_array_equal(mask, draw_things()[text], err_msg=text)


def test_pycocotools_read_back_every_mask(samples: list[Sample], tmp_path: Path):
    folder = _write("coco", tmp_path / "out", samples[::-1])
    coco = COCO(folder / "annotations/instances_default.json")
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(TEXTS)
    for sample, number in zip(samples, coco.getImgIds(), strict=True):
        (image,) = coco.loadImgs(number)
        assert (image["file_name"], image["height"], image["width"]) == (f"{sample.name}.png", *SIZE_HW)
        found = coco.loadAnns(coco.getAnnIds(imgIds=number, iscrowd=False))
        assert [coco.cats[one["category_id"]]["name"] for one in found] == list(sample.segmentation.texts)
        assert [one["score"] for one in found] == sample.segmentation.scores.tolist()
        for one, mask in zip(found, sample.segmentation.masks, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]).astype(bool), mask)
    assert coco.getAnnIds() == list(range(1, 8))


def test_supervision_reads_back_every_mask_of_coco(samples: list[Sample], tmp_path: Path):
    folder = _write("coco", tmp_path / "out", samples)
    read = supervision.DetectionDataset.from_coco(
        str(folder / "images/default"), str(folder / "annotations/instances_default.json"), force_masks=True
    )
    assert read.classes == list(TEXTS)
    _assert_same(dict(_read(read)), samples)


def test_supervision_reads_back_yolo_up_to_the_lines_that_join_parts(samples: list[Sample], tmp_path: Path):
    folder = _write("yolo", tmp_path / "out", samples)
    read = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )
    assert read.classes == list(TEXTS)
    masks = dict(_read(read))
    assert {name: list(found) for name, found in masks.items()} == {
        sample.name: list(sample.segmentation.texts) for sample in samples
    }
    for found in masks.values():
        for text, mask in found.items():
            more = int((mask != draw_things()[text]).sum())
            joined = {'a "big" dog': 5}.get(text, 0)  # as many pixels as lie between its parts, at most
            assert more <= joined, text


def test_a_yolo_file_has_a_row_per_text_found_and_none_where_nothing_was(samples: list[Sample], tmp_path: Path):
    folder = _write("yolo", tmp_path / "out", samples)
    rows = [(folder / f"labels/{sample.name}.txt").read_text().splitlines() for sample in samples]
    assert [[int(row.split()[0]) for row in of_one] for of_one in rows] == [[0, 1, 2, 3, 4], [1, 4], []]
    shares = [float(share) for of_one in rows for row in of_one for share in row.split()[1:]]
    assert 0 < min(shares) < max(shares) < 1
    assert all(len(row.split()) >= 7 for of_one in rows for row in of_one)


def test_a_yolo_polygon_of_one_pixel_or_one_line_has_a_width_and_a_height(samples: list[Sample], tmp_path: Path):
    folder = _write("yolo", tmp_path / "out", samples)
    point = (folder / f"labels/{samples[1].name}.txt").read_text().splitlines()[1].split()
    assert point[0] == "4"
    xy = np.array(point[1:], float).reshape(-1, 2) * SIZE_HW[::-1]
    assert (np.ptp(xy, axis=0) > 0).all()
    np.testing.assert_array_equal(np.floor(xy), [[40, 29]] * 3)  # cut off
    np.testing.assert_array_equal(np.round(xy), [[40, 29]] * 3)


def test_the_label_map_of_voc_says_the_colors_of_its_pictures(samples: list[Sample], tmp_path: Path):
    folder = _write("voc", tmp_path / "out", samples)
    lines = (folder / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == [
        "background:0,0,0::",
        "cat, black:128,0,0::",
        'a "big" dog:0,128,0::',
    ]  # as VOC's palette begins
    assert lines[4] == "it's <&>\N{FULLWIDTH COLON} 红:0,0,128::"  # four fields each
    painted = np.asarray(Image.open(folder / "SegmentationClass/0.png").convert("RGB"))
    named = {tuple(map(int, line.split(":")[1].split(","))): number for number, line in enumerate(lines)}
    read = np.vectorize(lambda *rgb: named[rgb])(*np.moveaxis(painted.astype(int), 2, 0))
    np.testing.assert_array_equal(read, read_label_map(folder / "SegmentationClass/0.png"))


def test_supervision_reads_back_the_boxes_of_voc_and_pillow_its_masks(samples: list[Sample], tmp_path: Path):
    folder = _write("voc", tmp_path / "out", samples)
    read = supervision.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    for sample, (path, _, found) in zip(samples, read, strict=True):
        segmentation = sample.segmentation
        assert Path(path).stem == sample.name
        assert [read.classes[i] for i in found.class_id] == list(segmentation.texts)
        np.testing.assert_array_equal(found.xyxy.reshape(-1, 4), segmentation.boxes)
        classes = read_label_map(folder / f"SegmentationClass/{sample.name}.png")
        objects = read_label_map(folder / f"SegmentationObject/{sample.name}.png")
        np.testing.assert_array_equal(objects, segmentation.label_map())
        for number, text in enumerate(segmentation.texts, 1):
            np.testing.assert_array_equal(classes == TEXTS.index(text) + 1, objects == number)
    assert (folder / "ImageSets/Segmentation/trainval.txt").read_text().split("\n") == [
        *(sample.name for sample in samples),
        "",
    ]


def test_supervision_reads_back_the_polygons_of_labelme(samples: list[Sample], tmp_path: Path):
    whole = [Sample(one.name, one.picture, _found("it's <&>: 红", 'a "big" dog', "point")) for one in samples]
    folder = _write("labelme", tmp_path / "out", whole) / "pictures"
    read = supervision.DetectionDataset.from_labelme(str(folder), str(folder), force_masks=True)
    _assert_same(dict(_read(read)), whole)


def test_a_mask_with_holes_is_cut_out_for_labelme(samples: list[Sample], tmp_path: Path):
    folder = _write("labelme", tmp_path / "out", samples)
    content = json.loads((folder / "pictures/0.json").read_text())
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("0.png", *SIZE_HW)
    kinds = [(shape["label"], shape["shape_type"], shape["group_id"]) for shape in content["shapes"]]
    assert kinds == [
        (TEXTS[0], "mask", 0),
        *([(TEXTS[1], "polygon", 1)] * 2),
        (TEXTS[2], "mask", 2),
        (TEXTS[3], "polygon", 3),
        (TEXTS[4], "polygon", 4),
    ]
    assert content["shapes"][0]["points"] == [[3, 2], [12, 11]]


def _decode_brush(encoded: list[int]) -> np.ndarray:
    """Read thi.ng's rle-pack bit by bit, as its definition says."""
    bits = iter("".join(f"{byte:08b}" for byte in encoded))

    def number(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)), 2)

    total, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, length = number(1), number(sizes[number(2)]) + 1
        values += [number(word)] * length if is_run else [number(word) for _ in range(length)]
    return np.array(values)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 41), (200, 300)])
def test_a_brush_mask_is_decoded_to_four_equal_channels_of_it(shape: tuple[int, int]):
    drawn = np.random.default_rng(0).random(shape) > 0.5
    drawn[shape[0] // 2 :] = False  # a run longer than the longest that can be written in one piece
    for mask in (drawn, ~drawn, np.zeros(shape, bool), np.ones(shape, bool)):
        channels = _decode_brush(encode_brush(mask)).reshape(*shape, 4)
        for channel in range(4):
            np.testing.assert_array_equal(channels[..., channel], mask * 255)


def test_label_studio_gets_a_task_per_picture_and_an_interface_with_every_text(samples: list[Sample], tmp_path: Path):
    folder = _write("label-studio", tmp_path / "out", samples)
    labels = ElementTree.fromstring((folder / "config.xml").read_text(encoding="utf-8")).iter("Label")
    assert [label.get("value") for label in labels] == list(TEXTS)
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=label-studio/images/0.png",
        "/data/local-files/?d=label-studio/images/x%2C%20y1.png",
        "/data/local-files/?d=label-studio/images/x%2C%20yx%2C%20y2.png",
    ]
    for task, sample in zip(tasks, samples, strict=True):
        (prediction,) = task["predictions"]
        assert [one["value"]["brushlabels"] for one in prediction["result"]] == [
            [text] for text in sample.segmentation.texts
        ]
        for one, mask in zip(prediction["result"], sample.segmentation.masks, strict=True):
            assert (one["original_height"], one["original_width"]) == SIZE_HW
            np.testing.assert_array_equal(_decode_brush(one["value"]["rle"])[::4].reshape(SIZE_HW) > 0, mask)


@pytest.mark.parametrize("name", DATASET_FORMATS)
def test_pictures_come_from_several_threads_and_in_any_order(
    name: DatasetFormat, samples: list[Sample], tmp_path: Path
):
    one_by_one = _write(name, tmp_path / "a", samples)
    exporter: DatasetExporter = open_datasets([name], tmp_path / "b", TEXTS)[name]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(exporter.add, samples[::-1]))
    exporter.close()
    assert _contents(tmp_path / "b" / name) == _contents(one_by_one)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", DATASET_FORMATS)
def test_a_data_set_that_was_interrupted_is_gone_on_with(name: DatasetFormat, samples: list[Sample], tmp_path: Path):
    whole = _write(name, tmp_path / "a", samples)
    exporter: DatasetExporter = open_datasets([name], tmp_path / "b", TEXTS)[name]
    exporter.add(samples[1])  # and killed: not closed
    assert _contents(_write(name, tmp_path / "b", [samples[2], samples[0]])) == _contents(whole)


def test_other_classes_are_refused_until_it_is_removed(samples: list[Sample], tmp_path: Path):
    _write("coco", tmp_path, samples)
    with pytest.raises(InputError) as error:
        open_datasets(["coco"], tmp_path, ("cat",))
    assert str(error.value) == (
        f"The data set in {str(tmp_path / 'coco')!r} has the classes 'cat, black', 'a \"big\" dog', 'train/bus', "
        "\"it's <&>: 红\", 'point', ... 6 in all, but now 'cat' are asked; choose another folder with -o, or start "
        "anew with --overwrite."
    )
    (tmp_path / "yolo").mkdir()  # of somebody else
    remove_datasets(tmp_path)
    assert (not (tmp_path / "coco").exists(), (tmp_path / "yolo").exists()) == (True, True)
    assert samples[0].picture.exists()
    open_datasets(["coco"], tmp_path, ("cat",))


@pytest.mark.parametrize("name", DATASET_FORMATS)
def test_300_texts_have_a_class_each(name: DatasetFormat, samples: list[Sample], tmp_path: Path):
    queries = (*(f"thing {i}" for i in range(299)), "point")
    exporter = open_datasets([name], tmp_path / "out", queries)[name]
    exporter.add(Sample("a", samples[0].picture, _found("point", queries=queries)))
    exporter.close()
    told = {
        "coco": ("annotations/instances_default.json", '"category_id": 300'),
        "yolo": ("labels/a.txt", "299 "),
        "voc": ("Annotations/a.xml", "<name>point</name>"),
        "labelme": ("pictures/a.json", '"label": "point"'),
        "label-studio": ("tasks.json", '["point"]'),
    }[name]
    assert told[1] in (tmp_path / "out" / name / told[0]).read_text()
    if name == "voc":
        assert read_label_map(tmp_path / "out/voc/SegmentationClass/a.png").max() == 300


def test_a_picture_is_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(b"picture")
    place_picture(tmp_path / "a.png", tmp_path / "linked/b.png")

    def deny(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", deny)
    place_picture(tmp_path / "a.png", tmp_path / "copied/b.png")
    same = [(tmp_path / name / "b.png").samefile(tmp_path / "a.png") for name in ("linked", "copied")]
    assert same == [True, False]
    assert (tmp_path / "linked/b.png").read_bytes() == (tmp_path / "copied/b.png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", DATASET_FORMATS)
def test_what_cannot_be_written_is_said_in_one_sentence(name: DatasetFormat, samples: list[Sample], tmp_path: Path):
    exporter = open_datasets([name], tmp_path, TEXTS)[name]
    first, *_ = exporter.paths(samples[0].name, samples[0].picture)
    first.parent.parent.mkdir(exist_ok=True)
    first.parent.write_text("a file in the way of the folder")
    with pytest.raises(InputError, match=f"The data set cannot be written to '.*{name}': "):
        exporter.add(samples[0])
