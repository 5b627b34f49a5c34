"""The contract that tools rely on: public names, signatures and fields."""

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest

import clip_as_rnn
from clip_as_rnn.dense_crf import crf
from clip_as_rnn.presets import PRESETS


def names_of(function):
    return {name: parameter.kind.name for name, parameter in inspect.signature(function).parameters.items()}


def test_the_package_offers_these_names_and_no_others():
    assert sorted(dir(clip_as_rnn)) == [
        "CarError",
        "DependencyError",
        "InputError",
        "PRESETS",
        "Rejection",
        "Segmentation",
        "Segmenter",
        "SegmenterConfig",
        "Step",
        "Trace",
        "WeightsError",
        "load_segmenter",
    ]


@pytest.mark.parametrize("name", clip_as_rnn.__all__)
def test_every_public_name_can_be_fetched(name):
    assert getattr(clip_as_rnn, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'clip_as_rnn' has no attribute 'segment'"):
        _ = clip_as_rnn.segment


def test_load_segmenter_takes_one_positional_argument():
    assert names_of(clip_as_rnn.load_segmenter) == {
        "preset": "POSITIONAL_OR_KEYWORD",
        "model": "KEYWORD_ONLY",
        "classifier": "KEYWORD_ONLY",
        "device": "KEYWORD_ONLY",
        "dtype": "KEYWORD_ONLY",
        "cache_dir": "KEYWORD_ONLY",
        "text_cache": "KEYWORD_ONLY",
        "settings": "VAR_KEYWORD",
    }
    defaults = inspect.signature(clip_as_rnn.load_segmenter).parameters
    assert [defaults[name].default for name in ("preset", "model", "device", "dtype")] == [
        "default",
        None,
        "auto",
        "auto",
    ]


def test_a_segmenter_segments_one_image_or_many():
    one, many = names_of(clip_as_rnn.Segmenter.segment), names_of(clip_as_rnn.Segmenter.segment_many)
    assert list(one)[:4] == ["self", "image", "texts", "trace"]
    assert list(many)[:4] == ["self", "images", "texts", "trace"]
    assert one["trace"] == many["trace"] == "KEYWORD_ONLY"


def test_results_have_the_fields_of_the_contract():
    found = {field.name for field in fields(clip_as_rnn.Segmentation)}
    assert {"queries", "texts", "masks", "scores", "trace"} <= found
    step = {field.name for field in fields(clip_as_rnn.Step)} | {"proposals"}
    assert {"texts", "proposals", "scores", "kept"} <= step
    assert [field.name for field in fields(clip_as_rnn.Trace)] == ["steps"]


def test_the_crf_can_be_used_alone():
    parameters = names_of(crf.refine)
    assert list(parameters)[:2] == ["image", "probabilities"]
    assert parameters["kernels"] == parameters["iterations"] == "KEYWORD_ONLY"
    assert [field.name for field in fields(crf.Gaussian)] == ["xy", "weight"]
    assert [field.name for field in fields(crf.Bilateral)] == ["xy", "rgb", "weight"]


def test_errors_form_one_tree():
    assert issubclass(clip_as_rnn.InputError, clip_as_rnn.CarError)
    assert issubclass(clip_as_rnn.InputError, ValueError)
    assert issubclass(clip_as_rnn.WeightsError, clip_as_rnn.CarError)
    assert issubclass(clip_as_rnn.DependencyError, clip_as_rnn.CarError)


def test_importing_the_package_and_its_presets_loads_no_model_library():
    program = (
        "import sys, clip_as_rnn; clip_as_rnn.PRESETS;"
        "print([name for name in ('torch', 'transformers', 'cv2', 'numba') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_public_name_resolves():
    for name in clip_as_rnn.__all__:
        assert getattr(clip_as_rnn, name).__name__ == name if name != "PRESETS" else clip_as_rnn.PRESETS is PRESETS
    assert dir(clip_as_rnn) == sorted(clip_as_rnn.__all__)
    with pytest.raises(AttributeError, match="module 'clip_as_rnn' has no attribute 'segmenters'"):
        _ = clip_as_rnn.segmenters
