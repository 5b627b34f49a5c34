"""Requests that a server must survive, by kind: each a name, the bytes on the wire, and the statuses that are right.

The same at every run but for the address of a listener of the test's own, which no request may reach.
"""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from serving import picture

CLOSED = 0  # the server may hang up without a word, where what came is no HTTP
SEGMENT = "/v1/segment?texts=dog"
LABELS = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="dog"/></BrushLabels></View>'
)
_FORMS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


@dataclass(frozen=True)
class Attack:
    """One request, the statuses that are right for it, and whether the sender stops writing before its end."""

    name: str
    wire: bytes
    statuses: tuple[int, ...]
    stalls: bool = False


def request(path: str, body: bytes = b"", *headers: str, method: str = "POST", length: int | None = None) -> bytes:
    """Write a request as it goes over the wire."""
    said = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {said}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def photo(form: str) -> bytes:
    """Return a small picture with something in it."""
    image = Image.frombytes("RGB", (48, 40), random.Random(1).randbytes(48 * 40 * 3))
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def _cut_pictures(_: str) -> Iterator[Attack]:
    for form in _FORMS:
        whole = photo(form)
        for share in (0.1, 0.9):
            cut = whole[: int(len(whole) * share)]
            yield Attack(f"{form} cut at {share}", request(SEGMENT, cut), (422,))
        for seed in range(3):
            flipped, chance = bytearray(whole), random.Random(seed)
            for _ in range(20):
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            yield Attack(f"{form} with flipped bits {seed}", request(SEGMENT, bytes(flipped)), (200, 413, 422))


def _bombs(_: str) -> Iterator[Attack]:
    for width, height in ((30_000, 30_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (0, 0)):
        yield Attack(f"PNG of {width} x {height}", request(SEGMENT, _png(width, height)), (413, 422))
    yield Attack("BMP bomb", request(SEGMENT, _patched("BMP", 18, "<ii", 60_000, 60_000)), (413,))
    yield Attack("GIF bomb", request(SEGMENT, _patched("GIF", 6, "<HH", 65_535, 65_535)), (413, 422))
    yield Attack("a PNG of one text that unpacks to 100 MB", request(SEGMENT, _png(8, 8, _text_bomb())), (200, 422))
    for size in ((1, 20_000), (20_000, 1)):
        yield Attack(f"a picture of {size}", request(SEGMENT, picture(size)), (200, 422))
    yield Attack("a body of 40 MB", request(SEGMENT, b"", length=40_000_000), (413,), stalls=True)
    yield Attack("a body of 10^30 bytes", request(SEGMENT, b"", length=10**30), (400, 413), stalls=True)


def _no_pictures(listener: str) -> Iterator[Attack]:
    other = {
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://{listener}/svg"/></svg>'.encode(),
        "PDF": b"%PDF-1.7\n1 0 obj\n",
        "zip": b"PK\x03\x04" + bytes(26),
        "pickle": b"cos\nsystem\n(S'false'\ntR.",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "NULs": bytes(1000),
        "video": b"\x00\x00\x00\x18ftypmp42" + bytes(100),
        "HTML": f"<!doctype html><img src='http://{listener}/html'>".encode(),
        "multipart": b'--x\r\nContent-Disposition: form-data; name="f"; filename="../x"\r\n\r\n1\r\n--x--\r\n',
    }
    for name, content in other.items():
        yield Attack(f"{name} for a picture", request(SEGMENT, content, "Content-Type: image/png"), (422,))


def _json(_: str) -> Iterator[Attack]:
    good: dict[str, Any] = {"image": base64.b64encode(picture()).decode(), "texts": ["dog"]}
    wrong = {
        "image": (None, 3, [], {}, True),
        "texts": ("dog", 7, [1], [None], [["dog"]], {}, [], [""]),
        "masks": ("svg", 1, None),
        "trace": ("perhaps", [], 7),
        "settings": (
            *([], "x", {"crff": 1}, {"mode": "x"}, {"score_threshold": 2}, {"score_threshold": "NaN"}),
            *({"max_steps": -1}, {"max_steps": 10**40}, {"visual_prompts": []}, {"contrast_texts": [""]}),
            *({"model": "../../x"}, {"sam": "x"}),
        ),
        "surplus": (1,),
    }
    for name, values in wrong.items():
        for value in values:
            yield Attack(f"{name} {value!r}", _post({**good, name: value}), (422,))
    deep = 100_000
    raw = {
        "deep arrays": b'{"image":' + b"[" * deep + b"]" * deep + b"}",
        "deep objects": b'{"a":' * deep + b"1" + b"}" * deep,
        "an open end": b'{"image": "',
        "NaN": b'{"image": NaN}',
        "a long number": b'{"image": ' + b"9" * 500_000 + b"}",
        "no UTF-8": b'{"image": "\xff\xfe", "texts": ["dog"]}',
        "UTF-16": json.dumps(good).encode("utf-16"),
        "a lone surrogate": b'{"image": "", "texts": ["\\ud800"]}',
        "no object": b'["image"]',
        "nothing": b"",
        "many names": json.dumps({f"x{i}": i for i in range(50_000)}).encode(),
    }
    for path in ("/v1/segment", "/"):
        for name, body in raw.items():
            yield Attack(f"{path}: {name}", request(path, body, "Content-Type: application/json"), (422,))
    for path in ("/setup", "/predict"):
        for name in ("deep arrays", "deep objects", "an open end", "no UTF-8", "nothing"):
            yield Attack(f"{path}: {name}", request(path, raw[name], "Content-Type: application/json"), (422,))


def _texts(_: str) -> Iterator[Attack]:
    encoded = base64.b64encode(picture()).decode()
    usable = ["\u05db\u05dc\u05d1", "\U0001f415" * 9, "../../x", "{}", "%s%n", "{0.__class__}", "a\nb", "dog'; --"]
    for text in usable:
        yield Attack(f"text {text[:20]!r}", _post({"image": encoded, "texts": [text]}), (200,))
    for text in (
        "\U0001f415" * 300,
        "a\u0301" * 150,
        "",
        " ",
        "\x00",
        "\u200b",
        "\x1b[2J\x07",
        "x" * 301,
        "x" * 1_000_000,
    ):
        yield Attack(f"text {text[:20]!r} of {len(text)}", _post({"image": encoded, "texts": [text]}), (200, 422))
    for count in (101, 5_000):
        yield Attack(f"{count} texts", _post({"image": encoded, "texts": [f"t{i}" for i in range(count)]}), (422,))
    yield Attack("5,000 labels", request("/?candidate_labels=" + "a," * 5_000, picture()), (422,))
    contrast = {"contrast_texts": ["x" * 10_000]}
    yield Attack("a long contrast text", _post({"image": encoded, "texts": ["a"], "settings": contrast}), (422,))


def _addresses(listener: str) -> Iterator[Attack]:
    port = listener.partition(":")[2]
    tricks = (
        *("http://LISTENER/x", "HTTP://LISTENER/x", "https://LISTENER/x", " http://LISTENER/x", "http:\\\\LISTENER/x"),
        *("http:LISTENER/x", "http://LISTENER#@example.org/", "http://example.org@LISTENER/", "//LISTENER/x"),
        *(
            "http://LISTENER/\r\nX: y",
            "ftp://LISTENER/x",
            "file:///etc/passwd",
            "file://LISTENER/x",
            "gopher://LISTENER/",
        ),
        *(
            "/etc/passwd",
            "../../etc/passwd",
            "data:text/html,http://LISTENER",
            "url:http://LISTENER/x",
            "http://LISTENER",
        ),
        *(
            "http://127.1:PORT/",
            "http://0x7f000001:PORT/",
            "http://[::ffff:127.0.0.1]:PORT/",
            "http://localhost.:PORT/",
        ),
    )
    for written in tricks:
        trick = written.replace("LISTENER", listener).replace("PORT", port)
        yield Attack(f"image {trick!r}", _post({"image": trick, "texts": ["dog"]}), (422,))
        task = {"tasks": [{"id": 1, "data": {"image": trick}}], "label_config": LABELS}
        yield Attack(f"task {trick!r}", _post(task, "/predict"), (422,))
    yield Attack("inputs of an address", _post({"inputs": f"http://{listener}/x"}, "/"), (422,))
    outside = f'<!DOCTYPE a [<!ENTITY b SYSTEM "http://{listener}/x">]>{LABELS}'
    included = f'<View xmlns:i="http://www.w3.org/2001/XInclude"><i:include href="http://{listener}/x"/></View>'
    for config in (outside, included, LABELS * 2, "<a/>"):
        yield Attack(f"labels {config[:30]}", _post({"tasks": [], "label_config": config}, "/predict"), (422,))
    setup = {"project": "1", "schema": LABELS, "hostname": f"http://{listener}", "access_token": "x"}
    yield Attack("a host to call back", _post(setup, "/setup"), (200,))
    yield Attack("a hook with addresses", _post({"action": "x", "url": f"http://{listener}/x"}, "/webhook"), (201,))


def _paths(listener: str) -> Iterator[Attack]:
    paths = (
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/docs/../../app.py", "/static/docs.html"),
        *(
            "/..%5c..%5cx",
            "/v1/segment%00",
            "/v1/segment/",
            "/v1//segment",
            "/.git/config",
            "/health/x",
            "/file=/etc/passwd",
        ),
    )
    for path in paths:
        yield Attack(f"GET {path}", request(path, method="GET"), (404,))
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "HEAD", "FOO"):
        yield Attack(f"{method} /v1/segment", request("/v1/segment", method=method), (405,))
    yield Attack("a proxy's request", request(f"http://{listener}/x", method="GET"), (400, 404))
    yield Attack("a tunnel", request(listener, method="CONNECT"), (400, 404, 405, CLOSED))
    yield Attack("a path of 20 kB", request("/" + "x" * 20_000, method="GET"), (404,))
    yield Attack("3,000 fields of a query", request("/v1/segment?" + "a=b&" * 3_000, picture()), (422,))


def _http(_: str) -> Iterator[Attack]:
    line = b"POST /v1/segment?texts=dog HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    raw = {
        "noise": random.Random(0).randbytes(500) + b"\r\n\r\n",
        "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(160),
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "no host": b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
        "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "two lengths": line + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "a negative length": line + b"Content-Length: -1\r\n\r\n",
        "a length in words": line + b"Content-Length: ten\r\n\r\n",
        "a bad chunk": line + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "another encoding": line + b"Transfer-Encoding: gzip\r\n\r\n",
        "no colon": line + b"Nonsense\r\n\r\n",
        "a header of 100 kB": line + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        "10,000 headers": line + b"".join(b"X%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
        "a NUL in a header": line + b"X: \x00\r\n\r\n",
        "a bare line feed": b"GET /health HTTP/1.1\nHost: evil.example\n\n",
    }
    for name, wire in raw.items():
        yield Attack(name, wire, (400, 421, 422, CLOSED))
    socket = "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13"
    yield Attack("a web socket", request("/", b"", *socket, method="GET").replace(b"close", b"Upgrade"), (200, 400))
    both = line + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    yield Attack("a length and chunks", both, (400, 422))
    yield Attack("another's page", request(SEGMENT, picture(), "Origin: https://evil.example"), (403,))
    yield Attack("a page of no origin", request(SEGMENT, picture(), "Origin: null"), (403,))
    yield Attack("another name", request(SEGMENT, picture()).replace(b"localhost", b"evil.example"), (421,))


def _slow(_: str) -> Iterator[Attack]:
    whole = request(SEGMENT, picture(), "Expect: 100-continue")
    yield Attack("a body that stops", request(SEGMENT, picture()[:20], length=1000), (408,), stalls=True)
    yield Attack("a body that never begins", whole[: whole.index(b"\r\n\r\n") + 4], (408,), stalls=True)
    chunked = request("/v1/segment?texts=dog", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    yield Attack("a chunk that never ends", chunked + b"FFFF\r\nabc", (408,), stalls=True)


def _post(body: Any, path: str = "/v1/segment") -> bytes:
    return request(path, json.dumps(body).encode(), "Content-Type: application/json")


def _patched(form: str, offset: int, layout: str, *values: int) -> bytes:
    content = bytearray(photo(form))
    struct.pack_into(layout, content, offset, *values)
    return bytes(content)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *extra: bytes) -> bytes:
    """Write a PNG that claims a size, with the pixels of 8 x 8."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 8 * 3) * 8))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + b"".join(extra)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _text_bomb() -> bytes:
    return _chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(100_000_000), 9))


KINDS = {
    "cut pictures": _cut_pictures,
    "bombs": _bombs,
    "no pictures": _no_pictures,
    "JSON": _json,
    "texts": _texts,
    "addresses": _addresses,
    "paths": _paths,
    "HTTP": _http,
    "slow bodies": _slow,
}
