"""Words that try what they can: without a letter, without an end, without a character that a file system takes."""

from collections.abc import Iterator

from hostile_cases import Texts

WORDS_FILE = "words.txt"
_COMBINED = "e\u0301\u0327" * 30


def texts() -> list[Texts]:
    """List all texts."""
    return [*_empty(), *_many(), *_scripts(), *_signs(), *_paths(), *_kinds(), *_files()]


def _empty() -> Iterator[Texts]:
    blanks = ("", " ", "\t\n", "\u200b", "\u00a0\u2003", "\ufeff", "\u202e\u202c", "\ue000", "\x07\x1b")
    for blank in blanks:
        yield Texts(kind="no word", name=ascii(blank), texts=[blank], ends="refused")
        yield Texts(kind="no word", name=f"{blank!a} beside one", texts=["dog", blank], ends="refused")
    yield Texts(kind="no word", name="none", texts=[], ends="refused")


def _many() -> Iterator[Texts]:
    yield Texts(kind="many or long", name="10,000 letters", texts=["a" * 10_000], ends="refused")
    yield Texts(kind="many or long", name="10,000 words", texts=["dog " * 10_000], ends="refused")
    yield Texts(kind="many or long", name="100,000 combining marks", texts=["e" + "\u0301" * 10**5], ends="refused")
    yield Texts(kind="many or long", name="250 letters", texts=["dog" * 83], ends="either")
    numbered = [f"thing {i}" for i in range(5000)]
    yield Texts(kind="many or long", name="5,000 texts", texts=numbered, ends="either", strangers="refused")
    yield Texts(kind="many or long", name="one text 5,000 times", texts=["dog"] * 5000, strangers="either")


def _scripts() -> Iterator[Texts]:
    for word in (
        "שלום כלב",
        "كلب",
        "\u202edog",
        "犬",
        "собака",
        "कुत्ता",
        "🐕",
        "👩‍👩‍👧‍👦",
        "🏳️‍🌈",
        "\U0001f3fb",
        "Straße",
        "İ",
        "ǅ",
    ):
        yield Texts(kind="script", name=ascii(word), texts=[word, "dog"])
    yield Texts(kind="script", name="every mark", texts=[_COMBINED], ends="either")
    yield Texts(kind="script", name="beyond Unicode's use", texts=["\uffff dog", "\U0010ffff"], ends="either")


def _signs() -> Iterator[Texts]:
    """Signs that mean something to a terminal, a page, a file or a tokenizer."""
    signs = (
        "a\x1b[31mred",
        "a\x08\x08b",
        "a\nb",
        "a\r\nb",
        "[red]x[/red]",
        "[/]",
        "{}",
        "{0.__class__}",
        "%s%n",
        "$(id)",
    )
    more = (
        "<script>alert(1)</script>",
        "&amp;",
        "<|endoftext|>",
        "<|startoftext|> dog",
        "dog</w>",
        '"; drop',
        "a,b",
        "#",
    )
    for word in (*signs, *more, "-t", "--help", "@file", "=1+1", "null", "nan", "background", "a\x85b", "a\u2028b"):
        yield Texts(kind="sign", name=ascii(word), texts=[word, "dog"])
    yield Texts(kind="sign", name="NUL", texts=["a\0b", "dog"], ends="either", file=b"a\0b\ndog\n")
    for surrogates in ("\ud800", "dog \udcff", "\ud83d dog \ude00"):
        yield Texts(kind="sign", name=ascii(surrogates), texts=[surrogates], ends="refused")


def _paths() -> Iterator[Texts]:
    for word in (
        "../../x",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "~",
        "C:\\x",
        "con",
        "x" * 200,
        "\U0001f98a" * 20,
        "a" * 70 + ".png",
    ):
        yield Texts(
            kind="file name",
            name=ascii(word[:20]),
            texts=[word, "dog"],
            ends="either" if len(word.encode()) > 60 else "right",
        )
    alike = ["a b", "a-b", "a_b", "a/b", "A b", "a  b", "é", "e\u0301", "E\u0301", "a.b", "a:b", "a b "]
    yield Texts(kind="file name", name="alike as names", texts=alike)
    yield Texts(
        kind="file name", name="alike in 255 bytes", texts=[f"{'犬' * 20} {i}" for i in range(9)], ends="either"
    )


def _kinds() -> Iterator[Texts]:
    """What is no list of texts; the command line cannot be given it."""
    for given in (None, 5, "dog", [5], [None], ["dog", b"cat"], {"dog": 1}, [["dog"]]):
        is_mapping = isinstance(given, dict)
        yield Texts(
            kind="no texts",
            name=repr(given),
            texts=given,
            ends="either" if is_mapping else "refused",
            command="either",
            strangers="refused",
        )


def _files() -> Iterator[Texts]:
    files = {
        "UTF-16": "dog\ncat\n".encode("utf-16"),
        "Latin-1": "Hündchen\n".encode("latin-1"),
        "empty": b"",
        "comments": b"# dog\n\n",
        "12 MB": b"dog\n" * 3_000_000,
        "one line of 9 MB": b"d" * 9_000_000,
    }
    for name, content in files.items():
        yield Texts(kind="file", name=name, texts=["dog"], file=content, command="refused")
    sound = {
        "mark": b"\xef\xbb\xbfdog\n",
        "DOS": b"dog\r\ncat\r\n",
        "old Mac": b"dog\rcat\r",
        "control": b"dog\x0ccat\x1e",
    }
    for name, content in sound.items():
        yield Texts(kind="file", name=name, texts=["dog"], file=content)
