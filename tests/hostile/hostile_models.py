"""Model folders that try what they can: code to run, pickles, weights and tokenizers that are not what they say."""

import json
import math
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hostile_cases import Model
from safetensors.torch import load_file, save_file
from transformers import logging as transformers_logging

from random_sam import random_model

SOUND = Path(__file__).parents[1] / "golden" / "generator"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MARK = "OWNED"  # what code of a folder would leave where it runs


class Evil:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        """Ask for a program to run."""
        return os.system, (f"touch {_MARK}",)


def models() -> list[Model]:
    """List all folders."""
    return [*_sound(), *_code(), *_missing(), *_weights(), *_shapes(), *_configs(), *_tokenizers(), *_sams()]


def sound_folder(model: Model, place: Path) -> Path:
    """Make the folder that a case spoils."""
    if model.role == "model":
        return Path(shutil.copytree(SOUND, place / "model"))
    folder = place / "sam"
    transformers_logging.disable_progress_bar()
    random_model("sam" if model.role == "sam" else "sam2_video").save_pretrained(folder)
    return folder


def _edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return what changes a JSON file."""

    def edit(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(change(content)))

    return edit


def _put(name: str, content: bytes) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return put


def _all(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for step in steps:
            step(folder)

    return spoil


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Return what changes the weights."""

    def edit(folder: Path) -> None:
        state = load_file(folder / _WEIGHTS)
        change(state)
        save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})

    return edit


def _first(state: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(state) if state[name].ndim > 1)


def _sound() -> Iterator[Model]:
    evil = _put("evil.py", f"open({_MARK!r}, 'w')".encode())
    yield Model(kind="sound", name="as it is", spoil=lambda _: None, ends="right")
    yield Model(kind="sound", name="files beside it", spoil=_all(evil, _pickled("pytorch_model.bin")), ends="right")
    yield Model(
        kind="sound", name="unknown fields", spoil=_edit("config.json", lambda c: {**c, "x": [1]}), ends="right"
    )


def _pickled(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps(Evil()))

    return put


def _code() -> Iterator[Model]:
    """Bring code, by every way that loaders of models know."""
    evil = _put("evil.py", f"open({_MARK!r}, 'w'); Cfg = Tok = object".encode())
    maps = {"AutoConfig": "evil.Cfg", "AutoModel": "evil.Cfg", "AutoTokenizer": ["evil.Tok", None]}
    for kind in ("evil", "clip"):
        asks = _edit("config.json", lambda c, kind=kind: {**c, "model_type": kind, "auto_map": maps})
        yield Model(kind="code", name=f"auto_map of {kind}", spoil=_all(evil, asks))
    token = _edit("tokenizer_config.json", lambda c: {**c, "tokenizer_class": "Tok", "auto_map": maps})
    yield Model(kind="code", name="tokenizer of its own", spoil=_all(evil, token))
    kernel = _edit(
        "config.json", lambda c: {**c, "vision_config": {**c["vision_config"], "_attn_implementation": "a/b"}}
    )
    yield Model(kind="code", name="attention kernel", spoil=kernel, ends="right")  # what is not read cannot harm
    for name in ("pytorch_model.bin", "model.bin", "model.pt"):
        only = _all(lambda folder: (folder / _WEIGHTS).unlink(), _pickled(name))
        yield Model(kind="code", name=f"only {name}", spoil=only)
    decoy = _all(
        lambda folder: (folder / _WEIGHTS).rename(folder / "decoy.safetensors"),
        _pickled("pytorch_model.bin"),
        _put(_INDEX, json.dumps({"weight_map": {"logit_scale": "pytorch_model.bin"}}).encode()),
    )
    yield Model(kind="code", name="index of pickles", spoil=decoy)
    yield Model(kind="code", name="pickle as safetensors", spoil=_pickled(_WEIGHTS))


def _missing() -> Iterator[Model]:
    for name in ("config.json", _WEIGHTS, "vocab.json", "merges.txt"):
        yield Model(kind="part missing", name=name, spoil=lambda folder, name=name: (folder / name).unlink())
    yield Model(kind="part missing", name="all", spoil=lambda folder: [one.unlink() for one in folder.iterdir()])
    outside = json.dumps({"weight_map": {"logit_scale": "../elsewhere.safetensors"}}).encode()
    moved = lambda folder: (folder / _WEIGHTS).rename(folder.parent / "elsewhere.safetensors")  # noqa: E731
    yield Model(kind="part missing", name="weights outside", spoil=_all(moved, _put(_INDEX, outside)))
    loop = lambda folder: ((folder / _WEIGHTS).unlink(), (folder / _WEIGHTS).symlink_to(_WEIGHTS))  # noqa: E731
    yield Model(kind="part missing", name="link in a circle", spoil=loop)
    pipe = lambda folder: ((folder / _WEIGHTS).unlink(), os.mkfifo(folder / _WEIGHTS))  # noqa: E731
    yield Model(kind="part missing", name="a pipe as weights", spoil=pipe)
    pipe = lambda folder: ((folder / "vocab.json").unlink(), os.mkfifo(folder / "vocab.json"))  # noqa: E731
    yield Model(kind="part missing", name="a pipe as vocabulary", spoil=pipe)


def _weights() -> Iterator[Model]:
    """Damage the file of weights."""
    whole = (SOUND / _WEIGHTS).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    beyond = {**header, "logit_scale": {**header["logit_scale"], "data_offsets": [0, 2**62]}}
    huge = {"logit_scale": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 4]}}

    def with_header(content: Any) -> bytes:
        words = json.dumps(content).encode()
        return struct.pack("<Q", len(words)) + words + whole[8 + length :]

    contents = {
        "empty": b"",
        "header's length": struct.pack("<Q", 2**63) + whole[8:],
        "header of 200 MB": struct.pack("<Q", 200_000_000) + whole[8:],
        "half": whole[: len(whole) // 2],
        "one byte short": whole[:-1],
        "offsets beyond": with_header(beyond),
        "huge shape": with_header(huge),
        "header of brackets": struct.pack("<Q", 5000) + b"[" * 5000,
    }
    for name, content in contents.items():
        yield Model(kind="damaged weights", name=name, spoil=_put(_WEIGHTS, content))


def _shapes() -> Iterator[Model]:
    changes: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
        "one turned": lambda state: state.update({_first(state): state[_first(state)].T.contiguous()}),
        "one missing": lambda state: state.pop(_first(state)),
        "one too many": lambda state: state.update({"vision_model.encoder.layers.99.x": torch.zeros(2)}),
        "not a number": lambda state: state[_first(state)].view(-1)[:1].fill_(torch.nan),
        "infinite scale": lambda state: state.update({"logit_scale": torch.tensor(1e30)}),
        "whole numbers": lambda state: state.update({_first(state): state[_first(state)].to(torch.int8)}),
        "empty": lambda state: state.update({_first(state): torch.zeros(0, 4)}),
    }
    for name, change in changes.items():
        yield Model(kind="other weights", name=name, spoil=_tensors(change))


def _configs() -> Iterator[Model]:
    def vision(**fields: Any) -> Callable[[Path], None]:
        return _edit("config.json", lambda c: {**c, "vision_config": {**c["vision_config"], **fields}})

    edits = {
        "no JSON": _put("config.json", b"{"),
        "5,000 brackets": _put("config.json", b"[" * 5000),
        "another kind": _edit("config.json", lambda c: {**c, "model_type": "bert"}),
        "quantized": _edit("config.json", lambda c: {**c, "quantization_config": {"bits": 4}}),
        "100,000 layers": vision(num_hidden_layers=100_000),
        "one layer": vision(num_hidden_layers=1),
        "wide": vision(hidden_size=2**40),
        "heads": vision(num_attention_heads=7),
        "patch of 0": vision(patch_size=0),
        "patch below 0": vision(patch_size=-16),
        "size as text": vision(image_size="big"),
        "unknown activation": vision(hidden_act="__import__('os').system('touch OWNED')"),
        "deviation of 0": _edit("preprocessor_config.json", lambda c: {**c, "image_std": [0, 1, 1]}),
        "mean of no number": _put("preprocessor_config.json", b'{"image_mean": [NaN, 0, 0]}'),
    }
    for name, edit in edits.items():
        yield Model(kind="odd config", name=name, spoil=edit)


def _tokenizers() -> Iterator[Model]:
    def renumbered(content: dict[str, int]) -> dict[str, int]:
        return {token: number + 10**9 for token, number in content.items()}

    edits = {
        "no words": _put("vocab.json", b"{}"),
        "a list": _put("vocab.json", b"[]"),
        "numbers beyond": _edit("vocab.json", renumbered),
        "numbers below 0": _edit("vocab.json", lambda c: {**c, "a": -1}),
        "no merges": _put("merges.txt", b"#version: 0.2\n"),
        "malformed merges": _put("merges.txt", b"#version: 0.2\na b c d\n"),
        "merges in no Unicode": _put("merges.txt", b"\xff\xfe\xff"),
        "whole of another kind": _put("tokenizer.json", b'{"model": {"type": "Unigram", "vocab": []}}'),
        "added token": _put("added_tokens.json", b'{"<evil>": 3}'),
    }
    for name, edit in edits.items():
        ends: Any = "either" if name == "no merges" else "refused"  # the sound one has a single merge
        yield Model(kind="odd tokenizer", name=name, spoil=edit, ends=ends)


def _sams() -> Iterator[Model]:
    pickled = _all(lambda folder: (folder / _WEIGHTS).unlink(), _pickled("pytorch_model.bin"))
    edits = {
        "another kind": _edit("config.json", lambda c: {**c, "model_type": "evil", "auto_map": {"AutoModel": "e.M"}}),
        "pickle": pickled,
        "weights cut short": lambda folder: os.truncate(folder / _WEIGHTS, 5000),
        "weights missing": _tensors(lambda state: state.pop(_first(state))),
        "weights turned": _tensors(lambda state: state.update({_first(state): torch.zeros(3, 5)})),
        "no numbers": _tensors(lambda state: state[_first(state)].view(-1)[:1].fill_(torch.nan)),
        "wide": _edit("config.json", lambda c: {**c, "vision_config": {**c["vision_config"], "hidden_size": 2**40}}),
        "one layer": _edit(
            "config.json", lambda c: {**c, "vision_config": {**c["vision_config"], "num_hidden_layers": 1}}
        ),
    }
    for name, edit in edits.items():
        yield Model(kind="odd SAM", name=name, spoil=edit, role="sam")
    for name, edit in _memories().items():
        yield Model(kind="odd SAM for clips", name=name, spoil=edit, role="sam for clips")


def _memories() -> dict[str, Callable[[Path], None]]:
    """Spoil what only clips ask for, so that it would show in the middle of one."""
    return {
        "no number": _edit("config.json", lambda c: {**c, "sigmoid_scale_for_mem_enc": math.nan}),
        "one layer": _edit("config.json", lambda c: {**c, "memory_attention_num_layers": 1}),
    }
