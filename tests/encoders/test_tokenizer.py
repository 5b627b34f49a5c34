"""Reading a tokenizer: which texts become which numbers, and which files are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from clip_as_rnn.encoders.hub import BUNDLED_FOLDER, load_encoder
from clip_as_rnn.encoders.tokenizer import load_tokenizer
from clip_as_rnn.errors import WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = {BUNDLED_FOLDER: 1196, GOLDEN / "generator": 514}
TEXTS = [
    "dog",
    "a photo of a  cat\t !",
    "Über naïve 中文 🙂",
    "it's 1234",
    "",
    " ",
    "İ x\u00a0y",
    "can't won't",
    "a" * 99,
]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(BUNDLED_FOLDER, tmp_path / "model"))


def load(folder):
    return load_encoder(folder, device=torch.device("cpu"), dtype=torch.float32)


def read(folder, name="vocab.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def write(folder, content, name="vocab.json"):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def merges_of(folder):
    return (folder / "merges.txt").read_text(encoding="utf-8").strip().split("\n")[1:]


@pytest.mark.parametrize("source", SIZES, ids=["tiny", "generator"])
def test_texts_become_the_tokens_that_transformers_gives(source):
    ours, theirs = load_tokenizer(source, SIZES[source]), AutoTokenizer.from_pretrained(source, local_files_only=True)
    assert ours(TEXTS, padding=True)["input_ids"] == theirs(TEXTS, padding=True)["input_ids"]
    assert ours(TEXTS, padding=True)["attention_mask"] == theirs(TEXTS, padding=True)["attention_mask"]


@pytest.mark.parametrize("pairs", [False, True], ids=["as lines", "as pairs"])
def test_a_tokenizer_json_is_read_like_the_two_files_it_replaces(folder, pairs):
    expected = load_tokenizer(folder, 1196)(TEXTS)["input_ids"]
    merges = [line.split(" ") if pairs else line for line in merges_of(folder)]
    write(folder, {"model": {"type": "BPE", "vocab": read(folder), "merges": merges}}, "tokenizer.json")
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    assert load_tokenizer(folder, 1196)(TEXTS)["input_ids"] == expected


@pytest.mark.parametrize("text", ["<|endoftext|>", "a <|endoftext|> cat", "<|startoftext|>"])
def test_special_tokens_within_a_text_are_letters_and_signs(text):
    clip = load(BUNDLED_FOLDER)
    (ids,) = clip.tokenizer([text])["input_ids"]
    special = (clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id)
    assert (ids[0], ids[-1]) == special
    assert not set(special) & set(ids[1:-1])
    assert not torch.equal(*clip.encode_text([text, ""]))


# What is refused


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "vocab.json is no JSON file"),
        ("{}", "vocab.json holds no vocabulary"),
        ("[]", "vocab.json holds no JSON object"),
        ('["cat"]', "vocab.json holds no JSON object"),
        ('{"cat": "dog"}', "vocab.json gives the token 'cat' the id 'dog', which is no whole number"),
        ('{"cat": 1.5}', "vocab.json gives the token 'cat' the id 1.5, which is no whole number"),
        ('{"cat": 1, "dog": 1}', "vocab.json gives two tokens the same id"),
        ('{"cat": 1, "dog": 2}', "the vocabulary lacks '!' and .* more, which CLIP's tokenizer needs"),
    ],
)
def test_a_damaged_vocabulary_is_told_in_one_sentence(folder, content, told):
    write(folder, content)
    with pytest.raises(WeightsError, match=rf"^The model in '.*' cannot be read: {told}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [1196, 10**6, 2**40, -1, -(2**70)])
def test_ids_that_the_text_tower_does_not_know_are_refused(folder, number):
    write(folder, {**read(folder), "cat</w>": number})
    with pytest.raises(WeightsError, match=rf"'cat</w>' has the id {number}, but the text tower knows 1196 from 0 on"):
        load(folder)


def test_merges_that_are_missing_are_noticed(folder):
    """Every text would still become tokens, and one word would look like another."""
    for left in ("#version: 0.2\n", "", "#version: 0.2\n" + "\n".join(merges_of(folder)[:-1])):
        write(folder, left, "merges.txt")
        with pytest.raises(WeightsError, match=r"no merge makes the token '.*; the list of merges is incomplete"):
            load(folder)


def test_a_token_that_is_missing_is_noticed(folder):
    vocab = read(folder)
    del vocab["cat</w>"]
    write(folder, vocab)
    with pytest.raises(WeightsError, match="the vocabulary lacks 'cat</w>', which CLIP's tokenizer needs"):
        load(folder)


@pytest.mark.parametrize("line", ["a", "a b c", "a  b", " b"])
def test_a_malformed_merge_is_told_with_its_place(folder, line):
    lines = merges_of(folder)
    lines[7] = line
    write(folder, "\n".join(["#version: 0.2", *lines]), "merges.txt")
    with pytest.raises(WeightsError, match=r"merges.txt has a malformed merge, number 8; each is two tokens"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "tokenizer.json holds no BPE model"),
        ({"model": {"type": "Unigram", "vocab": {}}}, "tokenizer.json holds no BPE model"),
        ({"model": {"type": "BPE", "vocab": {}}}, "tokenizer.json holds no list of merges"),
        ({"model": {"vocab": {"a": 1}, "merges": [["a"]]}}, "tokenizer.json has a malformed merge, number 1"),
        ({"model": {"vocab": {"a": 1}, "merges": [7]}}, "tokenizer.json has a malformed merge, number 1"),
        ({"model": {"vocab": None, "merges": []}}, "tokenizer.json holds no vocabulary"),
    ],
)
def test_a_damaged_tokenizer_json_is_told_in_one_sentence(folder, content, told):
    write(folder, content, "tokenizer.json")
    with pytest.raises(WeightsError, match=rf"^The model in '.*' cannot be read: {told}"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<cat-toy>": 1196}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1196": {"content": "<cat-toy>"}}}),
    ],
)
def test_tokens_beside_the_vocabulary_are_refused(folder, name, content):
    write(folder, content, name)
    with pytest.raises(WeightsError, match="adds the token '<cat-toy>' to its vocabulary, which is not supported"):
        load(folder)


def test_the_end_of_a_text_is_where_the_text_tower_expects_it(folder):
    config = read(folder, "config.json")
    for number, accepted in ((2, True), (1195, True), (1194, False)):
        config["text_config"]["eos_token_id"] = number
        write(folder, config, "config.json")
        if accepted:
            assert load(folder).tokenizer.eos_token_id == 1195
        else:
            with pytest.raises(
                WeightsError, match=r"ends texts with the token 1194 .* gives <\|endoftext\|> the id 1195"
            ):
                load(folder)
