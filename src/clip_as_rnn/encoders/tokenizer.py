"""CLIP's tokenizer, built from the data of a model folder alone: no class or code that a folder names is looked up.

A tokenizer that lost its vocabulary or its merges still turns every text into tokens, only not into the right ones. So
the two are held against each other: CLIP's vocabulary is the bytes, one token for each merge, and two special tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from clip_as_rnn.encoders.json_files import read_json

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", None)
_LEGACY_END_ID = 2  # what configs of the first conversions say, whatever the vocabulary

Merges = Sequence[tuple[str, str]]


def has_tokenizer(folder: Path) -> bool:
    """Say whether a folder holds the files that a CLIP tokenizer is made of."""
    return (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )


def load_tokenizer(folder: Path, vocab_size: int, end_id: object = None) -> CLIPTokenizer:
    """Build the tokenizer of a folder for a text tower with `vocab_size` token embeddings.

    `end_id` is what the text tower's config says of its end-of-text token, if it does. The special tokens are added
    around a text and never read out of it: "<|endoftext|>" within a text is twelve letters and signs.

    Raises:
        ValueError: the files are malformed, contradict each other or ask for another tokenizer than CLIP's.
        OSError: they cannot be read.
    """
    _check_class(folder)
    whole = folder / "tokenizer.json"
    vocab, merges = _read_whole(whole) if whole.is_file() else _read_parts(folder)
    _check_vocab(vocab, merges, vocab_size)
    _check_added_tokens(folder, vocab)
    if end_id not in (None, _LEGACY_END_ID, vocab[END]):
        raise ValueError(
            f"the text tower ends texts with the token {end_id!r} (eos_token_id in config.json), "
            f"but the vocabulary gives {END} the id {vocab[END]}"
        )
    tokenizer: CLIPTokenizer = CLIPTokenizer(
        vocab=dict(vocab),
        merges=list(merges),
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        padding_side="right",  # the text tower reads causally: padding must come last
        split_special_tokens=True,
    )
    return tokenizer


def _check_class(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    named = read_json(path).get("tokenizer_class") if path.is_file() else None
    if named not in _CLASSES:
        raise ValueError(f"tokenizer_config.json asks for the tokenizer {named!r}, but only CLIPTokenizer is supported")


def _read_whole(path: Path) -> tuple[dict[str, int], Merges]:
    """Read vocabulary and merges from a tokenizer.json, which holds both."""
    model = read_json(path).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ValueError("tokenizer.json holds no BPE model, which CLIP's tokenizer is")
    lines = model.get("merges")
    if not isinstance(lines, list):
        raise ValueError("tokenizer.json holds no list of merges")
    pairs = [line.split(" ") if isinstance(line, str) else line for line in lines]
    return _as_vocab(model.get("vocab"), "tokenizer.json"), _as_merges(pairs, "tokenizer.json")


def _read_parts(folder: Path) -> tuple[dict[str, int], Merges]:
    """Read vocab.json and merges.txt, in which one line is one merge, the first to be applied first."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    start = 1 if lines[0].startswith("#version") else 0
    pairs = [line.rstrip("\r").split(" ") for line in lines[start:] if line.strip()]
    return _as_vocab(read_json(folder / "vocab.json"), "vocab.json"), _as_merges(pairs, "merges.txt")


def _as_vocab(content: object, name: str) -> dict[str, int]:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{name} holds no vocabulary")
    for token, number in content.items():
        if type(number) is not int:
            raise ValueError(f"{name} gives the token {token!r} the id {number!r}, which is no whole number")
    if len(set(content.values())) < len(content):
        raise ValueError(f"{name} gives two tokens the same id")
    return content


def _as_merges(pairs: Sequence[object], name: str) -> Merges:
    merges = []
    for place, pair in enumerate(pairs, start=1):
        match pair:
            case [str(left), str(right)] if left and right:
                merges.append((left, right))
            case _:
                raise ValueError(f"{name} has a malformed merge, number {place}; each is two tokens, a space between")
    return merges


def _check_vocab(vocab: Mapping[str, int], merges: Merges, vocab_size: int) -> None:
    """Hold vocabulary, merges and the text tower's embeddings against each other."""
    for token, number in vocab.items():
        if not 0 <= number < vocab_size:
            raise ValueError(
                f"the token {token!r} has the id {number}, but the text tower knows {vocab_size} from 0 on"
            )
    letters = ByteLevel.alphabet()
    made = {left + right for left, right in merges}
    known = {*letters, *(letter + WORD_END for letter in letters), *made, START, END}
    if lacking := sorted({*known, *(part for pair in merges for part in pair)} - set(vocab)):
        raise ValueError(f"the vocabulary lacks {lacking[0]!r}{_and_more(lacking)}, which CLIP's tokenizer needs")
    if unmade := sorted(set(vocab) - known):
        raise ValueError(f"no merge makes the token {unmade[0]!r}{_and_more(unmade)}; the list of merges is incomplete")


def _check_added_tokens(folder: Path, vocab: Mapping[str, int]) -> None:
    """Refuse tokens beside the vocabulary: they would be read as other tokens than the text tower learned."""
    read = {name: read_json(folder / name) for name in TOKENIZER_FILES if _is_json(folder / name)}
    decoder = read.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}
    listed = read.get("tokenizer.json", {}).get("added_tokens") or []
    entries = [*decoder.values(), *listed]
    for token in [*read.get("added_tokens.json", {}), *(entry.get("content") for entry in entries)]:
        if token not in vocab:
            raise ValueError(f"the tokenizer adds the token {token!r} to its vocabulary, which is not supported")


def _is_json(path: Path) -> bool:
    return path.suffix == ".json" and path.is_file()


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
