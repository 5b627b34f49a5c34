"""RefCOCO's layout, its sentences and its masks in both readings."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.referring import clean_sentence, list_references, once_covered_mask, union_mask
from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.io.images import quiet_pillow
from evaluation_trees import REFERENCE_FILES, box, rectangle, reference, write_referring_tree

SIZE = (8, 10)
FILES = {**REFERENCE_FILES, "grefcoco": "grefcoco/grefs(unc).json"}


@pytest.mark.parametrize("name", FILES)
def test_each_layout_is_found_where_its_publishers_put_it(tmp_path, name):
    references = [reference(1, 9, ["A dog"]), reference(2, 9, ["A cat"], split="train")]
    segmentations = {1: [rectangle(1, 2, 5, 6)], 2: [rectangle(0, 0, 3, 3)]}
    write_referring_tree(tmp_path, FILES[name], references, {9: SIZE}, segmentations)
    (found,) = list_references(find_dataset(name), tmp_path, "val")
    assert found.image == tmp_path / "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg"
    assert found.size_hw == SIZE
    assert np.array_equal(found.mask(), box(SIZE, slice(2, 6), slice(1, 5)))


def test_sentences_of_the_refcoco_family_are_lower_cased_and_lose_quotes_and_slashes():
    assert clean_sentence('Man/boy in "RED"') == "manboy in red"


def test_all_sentences_of_an_object_stay_together_and_blank_ones_go(tmp_path):
    references = [reference(4, 9, ["Left DOG", " ", '"the" dog'])]
    write_referring_tree(tmp_path, FILES["refcoco"], references, {9: SIZE}, {4: [rectangle(0, 0, 2, 2)]})
    (found,) = list_references(find_dataset("refcoco"), tmp_path, "val")
    assert (found.name, found.sentences) == ("4", ("left dog", "the dog"))


def test_references_of_one_name_are_told_apart_by_their_place(tmp_path):
    references = [reference(1, 9, ["dog"], ann=4), reference(2, 9, ["cat"], ann=4), reference(1, 9, ["cow"], ann=5)]
    segmentations = {4: [rectangle(0, 0, 2, 2)], 5: [rectangle(0, 0, 4, 4)]}
    write_referring_tree(tmp_path, FILES["refcoco"], references, {9: SIZE}, segmentations)
    found = list_references(find_dataset("refcoco"), tmp_path, "val")
    assert [(one.name, one.sentences, one.mask().sum()) for one in found] == [
        ("1", ("dog",), 4),
        ("2", ("cat",), 4),
        ("1_2", ("cow",), 16),
    ]


@pytest.mark.parametrize(
    ("asked", "expected"), [("testA", ["1", "3"]), ("testB", ["2", "3"]), ("test", ["1", "2", "3"])]
)
def test_test_splits_match_by_letter(tmp_path, asked, expected):
    splits = {1: "testA", 2: "testB", 3: "testAB", 4: "train"}
    references = [reference(number, 9, ["x"], split=split) for number, split in splits.items()]
    write_referring_tree(
        tmp_path, FILES["refcoco"], references, {9: SIZE}, {key: [rectangle(0, 0, 2, 2)] for key in splits}
    )
    assert [found.name for found in list_references(find_dataset("refcoco"), tmp_path, asked)] == expected


def test_a_generalized_reference_is_sampled_per_sentence_and_may_have_no_target_or_several(tmp_path):
    references = [reference(1, 9, ["Both Dogs", "", "the dogs"], ann=[5, 6]), reference(2, 9, ["a unicorn"], ann=[-1])]
    segmentations = {5: [rectangle(0, 0, 2, 2)], 6: [rectangle(4, 4, 6, 6)]}
    write_referring_tree(tmp_path, FILES["grefcoco"], references, {9: SIZE}, segmentations)
    both, again, none = list_references(find_dataset("grefcoco"), tmp_path, "val")
    assert [found.name for found in (both, again, none)] == ["1-0", "1-1", "2-0"]
    assert both.sentences == ("Both Dogs",)  # left as written
    assert both.mask().sum() == 8
    assert both.released_mask().sum() == 4  # only the first object
    assert not none.mask().any()
    assert not none.released_mask().any()


def test_pixels_of_two_polygons_are_a_hole_only_in_the_released_mask():
    parts = [rectangle(0, 0, 4, 4), rectangle(2, 0, 6, 4)]
    assert np.array_equal(union_mask(parts, SIZE), box(SIZE, slice(0, 4), slice(0, 6)))
    hole = box(SIZE, slice(0, 4), slice(2, 4))
    assert np.array_equal(once_covered_mask(parts, SIZE), union_mask(parts, SIZE) & ~hole)


def test_run_lengths_are_read_compressed_and_plain():
    mask = box(SIZE, slice(1, 3), slice(2, 7))
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    plain = {"size": list(SIZE), "counts": np.diff([0, *changes, flat.size]).tolist()}
    assert np.array_equal(union_mask(compressed, SIZE), mask)
    assert np.array_equal(union_mask(plain, SIZE), mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 coordinates, an odd number"),
        ({"size": [3, 4], "counts": [12]}, "the run lengths are of a 4 x 3 image"),
        ([17], "a field in it is of another kind than expected"),
        ({"size": list(SIZE)}, "there is no 'counts' where one was expected"),
        ([], "there is none"),
    ],
)
def test_malformed_segmentations_are_input_errors(segmentation, reason):
    with pytest.raises(InputError, match=f"polygons or run lengths of a 10 x 8 image, but: {reason}"):
        union_mask(segmentation, SIZE)


def tree(tmp_path):
    write_referring_tree(tmp_path, FILES["refcoco"], [reference(1, 9, ["x"])], {9: SIZE}, {1: [rectangle(0, 0, 2, 2)]})
    return find_dataset("refcoco"), tmp_path / FILES["refcoco"]


def test_missing_files_are_told_with_their_source(tmp_path):
    dataset, path = tree(tmp_path)
    with pytest.raises(InputError, match=r"There is no folder .* expected to hold RefCOCO.*lichengunc/refer"):
        list_references(dataset, tmp_path / "nowhere", "val")
    (path.parent / "instances.json").rename(tmp_path / "kept.json")
    with pytest.raises(
        InputError,
        match=r"COCO's images and annotations in .*instances\.json, but: Cannot read .*: No such file\D*\. \S",
    ):
        list_references(dataset, tmp_path, "val")
    path.unlink()
    with pytest.raises(InputError, match=r"references of RefCOCO .* in .*refs\(unc\)\.p or .*lichengunc/refer"):
        list_references(dataset, tmp_path, "val")


def test_missing_images_are_told_with_their_source(tmp_path):
    dataset, _ = tree(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(InputError, match=r"Expected the images of RefCOCO .*train2014 or .*train2014\.zip"):
        list_references(dataset, tmp_path, "val")


def test_a_missing_split_is_told_which_there_are(tmp_path):
    dataset, _ = tree(tmp_path)
    with pytest.raises(InputError, match=r"no reference of the split 'testA'; it holds val"):
        list_references(dataset, tmp_path, "testA")


def test_a_truncated_pickle_is_told_with_its_source(tmp_path):
    dataset, path = tree(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"refs\(unc\)\.p is truncated.*lichengunc/refer"):
        list_references(dataset, tmp_path, "val")


def test_a_pickle_that_asks_for_os_is_told_with_its_source(tmp_path):
    dataset, path = tree(tmp_path)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"asks for os\.system, .*not loaded.*lichengunc/refer"):
        list_references(dataset, tmp_path, "val")


@pytest.mark.parametrize("content", [{"a": 1}, ["text"], [{"image_id": 1}]])
def test_other_data_than_references_is_an_input_error(tmp_path, content):
    dataset, path = tree(tmp_path)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="Expected a list of references with ann_id, image_id, sentences, split"):
        list_references(dataset, tmp_path, "val")


def test_references_to_unknown_annotations_are_an_input_error(tmp_path):
    dataset, path = tree(tmp_path)
    (path.parent / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(InputError, match=r"Expected RefCOCO's fields in .* but there is no 9 where one was expected"):
        list_references(dataset, tmp_path, "val")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"images": []}, "there is no 'annotations' where one was expected"),
        ({"images": 3, "annotations": []}, "a field in it is of another kind than expected"),
        ([], "a field in it is of another kind than expected"),
    ],
)
def test_other_data_than_instances_is_told_in_words(tmp_path, content, problem):
    dataset, path = tree(tmp_path)
    (path.parent / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"annotations in .*instances\.json, but: {problem}.*lichengunc/refer"):
        list_references(dataset, tmp_path, "val")


def test_masks_and_pictures_take_turns_in_silencing_warnings():
    """The filters of warnings belong to the whole process: two who set them back at once leave them changed."""
    with ThreadPoolExecutor(1) as pool:
        with quiet_pillow():
            mask = pool.submit(union_mask, [rectangle(0, 0, 2, 2)], SIZE)
            with pytest.raises(TimeoutError):
                mask.result(timeout=0.2)
        assert mask.result(timeout=10).sum() == 4
