"""What the server refuses: foreign names and origins, bodies that are too large, and requests that no page sends."""

import html
import http.client
import json
import socket
import urllib.request
from urllib.parse import urlsplit

import pytest
from made_up_page import REACHED

from clip_as_rnn.apps.web.controls import CONTROLS, EXAMPLES
from clip_as_rnn.apps.web.guard import Guard
from clip_as_rnn.presets import find_preset

API = "/gradio_api"
ELSEWHERE = "https://example.org/x.png"
MARK = {"meta": {"_type": "gradio.FileData"}}  # of what Gradio takes for a file


def _settings(preset):
    """Return what the page's controls hold when nobody has touched them."""
    config = find_preset(preset)
    return [preset, config.mode, *(control.value(config) for control in CONTROLS)]


def _ask(server, method, path, body=b"", **headers):
    """Send one request as it is; return its status, its headers and its body, of a stream the beginning."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, sent or None, {"Content-Type": "application/json", **names})
        answer = connection.getresponse()
        said = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, said, answer.read1() if "stream" in said["content-type"] else answer.read()
    finally:
        connection.close()


def _function(server, name):
    """Return the number by which the page calls one of its functions."""
    config = json.loads(_ask(server, "GET", "/config")[2])
    return next(one["id"] for one in config["dependencies"] if one["api_name"] == name)


def _find(server, picture, texts, session, preset="default"):
    """Ask as the page does, and return all that it is told."""
    asked = {
        "data": [picture, texts, *_settings(preset)],
        "fn_index": _function(server, "find"),
        "session_hash": session,
    }
    assert _ask(server, "POST", f"{API}/queue/join", asked)[0] == 200
    told = b""
    with urllib.request.urlopen(f"{server.url}{API}/queue/data?session_hash={session}", timeout=120) as answer:
        while b"process_completed" not in told:
            told += answer.readline()
    return told.decode()


def _status(asked, *, host="127.0.0.1", names=(), body=(), path="/", **headers):
    """Send a request through a guard to an application that reads it and answers 200; return what comes back."""

    async def page(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    chunks = [*body, b""]
    messages = iter([{"type": "http.request", "body": one, "more_body": one != b""} for one in chunks])

    async def receive():
        return next(messages)

    sent = []

    async def send(message):
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", asked.encode()), *given]}
    guard = Guard(page, host=host, names=names, embedders=(), upload_bytes=1_000_000)
    with pytest.raises(StopIteration):  # nothing waits, so no loop is needed; the browser's driver has its own here
        guard(scope, receive, send).send(None)
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("host", "known", "foreign"),
    [
        ("127.0.0.1", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"], ["evil.example", "10.0.0.1", ""]),
        ("box.lan", ["box.lan:80", "localhost"], ["evil.example", "10.0.0.1", "lan", "box.lan.evil.example"]),
        (
            "0.0.0.0",
            ["10.0.0.1:7860", "[fe80::1]", "localhost", socket.gethostname()],
            ["evil.example", "10.0.0.1.evil.example", "[::", "x:y:z"],
        ),
    ],
)
def test_only_names_that_the_server_is_known_by_are_answered(host, known, foreign):
    """A name can be made to point anywhere (DNS rebinding), a number cannot."""
    assert [_status(asked, host=host) for asked in known] == [200] * len(known)
    assert [_status(asked, host=host) for asked in foreign] == [421] * len(foreign)


def test_a_proxy_may_have_another_name():
    assert _status("page.example", names=["page.example"]) == 200
    assert _status("page.example") == 421
    assert _status("127.0.0.1:7860", origin="https://page.example", names=["Page.Example"]) == 200
    assert _status("127.0.0.1:7860", origin="https://page.example") == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9", "https://localhost:7860", "null", ""])
def test_other_pages_may_not_use_this_one(origin):
    assert _status("127.0.0.1:7860", origin=origin) == 403
    assert _status("127.0.0.1:7860", origin="http://127.0.0.1:7860") == 200


def test_bodies_are_bounded_whether_or_not_they_say_their_length():
    megabyte = [bytes(100_000)] * 10
    for path, body, status in (("/gradio_api/queue/join", megabyte, 413), ("/gradio_api/upload", megabyte, 200)):
        assert _status("localhost", path=path, body=body) == status
        assert _status("localhost", path=path, body=body, content_length="1000000") == status
    assert _status("localhost", path="/gradio_api/upload", body=[*megabyte, bytes(100_000)]) == 413
    assert _status("localhost", content_length="-1") == 413


def test_an_evil_origin_gets_nothing(made_up):
    for method, path in (("GET", "/config"), ("OPTIONS", f"{API}/queue/join"), ("POST", f"{API}/queue/join")):
        for headers in ({"Host": "evil.example"}, {}):
            asked = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST", **headers}
            status, answered, body = _ask(made_up, method, path, **asked)
            assert status in (403, 421)
            assert not any(name.startswith("access-control") for name in answered)
            assert b"CLIP" not in body


def test_every_answer_carries_a_strict_policy(made_up):
    for path in ("/", "/config", "/nowhere", f"{API}/file=/etc/passwd"):
        answered = _ask(made_up, "GET", path)[1]
        assert "default-src 'self'" in answered["content-security-policy"]
        assert "frame-ancestors 'none'" in answered["content-security-policy"]
        assert answered["x-content-type-options"] == "nosniff"


def test_megabytes_of_json_are_refused_unread(made_up):
    before_kb = made_up.rss_kb()
    for path in ("queue/join", "run/find", "call/find", "component_server", "cancel"):
        assert _ask(made_up, "POST", f"{API}/{path}", b"[" * 5_000_000)[0] == 413
    assert made_up.rss_kb() - before_kb < 20_000


def test_the_page_tells_no_paths_of_the_server(made_up):
    for path in ("/config", "/", f"{API}/info"):
        body = _ask(made_up, "GET", path)[2].decode()
        assert not [one for one in EXAMPLES if str(one) in body or str(one.parent) in body]
        assert str(made_up.folder) not in body


def test_there_is_no_way_around_the_queue(made_up):
    picture = {"path": "park.jpg"}
    status, _, body = _ask(made_up, "POST", f"{API}/run/find", {"data": [picture, ["dog"], *_settings("default")]})
    assert status == 404
    assert b"join the queue" in body


def test_a_file_of_the_server_is_no_upload(made_up):
    """Gradio lets a path pass that lacks its mark."""
    secret = str(next(iter(EXAMPLES)).resolve())
    told = _find(made_up, {"path": secret}, ["dog"], "thief")
    assert "Expected an uploaded picture." in told
    assert "Found" not in told


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        *(
            f"{API}/file=https://example.org/x.png",
            f"{API}/file=http://example.org",
            f"{API}/file/https://example.org/x",
        ),
        *(f"{API}/file=https:%2F%2Fexample.org%2Fx", f"{API}/proxy=https://x.hf.space/x", f"{API}/proxy=example.org"),
        *("/proxy=https://x.hf.space/x", "/file=https://example.org/x", f"{API}/file=ftp://example.org/x"),
    ],
)
def test_the_page_fetches_no_address_for_a_visitor(made_up, method, path):
    """Gradio serves the files of other hosts, to whoever names them."""
    before = len(made_up.log.read_text())
    status, _, body = _ask(made_up, method, path)
    assert status == 403
    assert body == (b"" if method == "HEAD" else b"This page fetches nothing from other addresses.")
    assert REACHED not in made_up.log.read_text()[before:]


@pytest.mark.parametrize(
    "value",
    [
        {"path": ELSEWHERE},
        {"path": ELSEWHERE, **MARK},
        {"path": " HTTP://example.org/", **MARK},
        [[{"path": ELSEWHERE, **MARK}]],
        {"x": {"video": {"path": ELSEWHERE, **MARK}}},
        ["dog", {"path": ELSEWHERE, "url": "park.jpg", **MARK}],
    ],
)
def test_a_request_that_names_a_file_by_url_is_refused_wherever_it_stands(made_up, value):
    """Gradio fetches what carries its mark, of every component."""
    before = len(made_up.log.read_text())
    number = _function(made_up, "find")
    for data in ([value, ["dog"], *_settings("default")], [{"path": "park.jpg"}, value, *_settings("default")]):
        asked = {"data": data, "fn_index": number, "session_hash": "far"}
        for path in ("queue/join", "run/find", "api/find", "call/find", "call/v2/find", "component_server"):
            assert _ask(made_up, "POST", f"{API}/{path}", asked)[0] == 403
        escaped = json.dumps(asked).replace("path", "\\u0070ath").encode()
        assert _ask(made_up, "POST", f"{API}/queue/join", escaped)[0] == 403
    assert REACHED not in made_up.log.read_text()[before:]


@pytest.mark.parametrize(
    "picture",
    [
        {"path": None, "url": ELSEWHERE, **MARK},
        {"path": f"file={ELSEWHERE}", **MARK},
        {"path": "/etc/passwd", "url": "file:///etc/passwd", **MARK},
        {"path": "../../../../etc/passwd"},
        ELSEWHERE,
        "/etc/passwd",
    ],
)
def test_a_picture_elsewhere_is_neither_fetched_nor_read(made_up, picture):
    before = len(made_up.log.read_text())
    assert "Found" not in _find(made_up, picture, ["dog"], "far")
    assert REACHED not in made_up.log.read_text()[before:]


@pytest.mark.parametrize(
    "path",
    [
        *(f"{API}/file=/etc/passwd", f"{API}/file=../../../../etc/passwd", f"{API}/file=pyproject.toml"),
        *(f"{API}/file=%2Fetc%2Fpasswd", f"{API}/file/etc/passwd", "/static/../../../../../../etc/passwd"),
        *("/static/%2e%2e/%2e%2e/%2e%2e/routes.py", "/assets/..%2f..%2f..%2froutes.py", "/svelte/../../routes.py"),
        *(f"{API}/custom_component/1/client/component/..%2f..%2fx", "/pwa_icon/../x", f"{API}/file=app.py"),
        *(f"{API}/file=/proc/self/environ", f"{API}/stream/a/b/1/../../x.ts", "/theme.css/../app.py"),
    ],
)
def test_no_path_leads_to_a_file_of_the_server(made_up, path):
    status, _, body = _ask(made_up, "GET", path)
    assert status in (400, 403, 404, 422)
    assert not any(word in body for word in (b"root:", b"import ", b"[project]", b"PATH="))


def test_too_many_texts_are_refused_whatever_they_are_for(made_up):
    told = _find(made_up, {"path": "park.jpg"}, [f"thing {i}" for i in range(41)], "many")
    assert "Expected at most 40 texts of your own as 'What to look for' on this page, but got 41" in html.unescape(told)
    assert "Found" not in told


def test_the_words_of_visitors_stay_off_the_disk(bundled):
    assert "in 1 step" in _find(bundled, {"path": "park.jpg"}, ["wordofavisitor"], "me", preset="tiny")
    assert not bundled.cache.exists()  # not even digests of them, by which a guess could be checked


def test_hostile_requests_leave_one_line_each_in_the_log(made_up):
    find, admit = _function(made_up, "find"), _function(made_up, "admit")
    passwd = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    hostile = [
        ("POST", "queue/join", {"data": [], "fn_index": find, "session_hash": "evil"}),
        ("POST", "queue/join", {"data": [passwd, [], *_settings("default")], "fn_index": find, "session_hash": "evil"}),
        ("POST", "queue/join", {"data": [1] * 11, "fn_index": find, "session_hash": "evil"}),
        (
            "POST",
            "queue/join",
            {"data": [{"path": "park.jpg"}, 5, 5, 5, *"1234567"], "fn_index": find, "session_hash": "e"},
        ),
        ("POST", "queue/join", {"data": [], "fn_index": 999, "session_hash": "evil"}),
        ("POST", "run/predict", {"data": [passwd], "fn_index": admit}),
        ("POST", "run/predict", {"data": ["x"], "fn_index": admit}),
        *(
            ("POST", "run/predict", {"data": [value], "fn_index": index})
            for value in (99, "nope", [], None)
            for index in (0, 1)
        ),
        ("POST", "run/nope", {"data": []}),
        ("POST", "call/nope", {"data": []}),
        ("POST", "call/v2/nope", {"a\nTraceback": 1}),
        ("POST", "component_server", {"data": 1, "component_id": 10**9, "session_hash": "e", "fn_name": "x"}),
        ("GET", "queue/data?session_hash=nobody%0aTraceback", b""),
        ("GET", "call/find/nothing", b""),
        ("POST", "upload", b"nothing"),
    ]
    before = made_up.log.read_text().splitlines()
    for method, path, body in hostile:
        _ask(made_up, method, f"{API}/{path}", body)
    _ask(made_up, "GET", "/config", X_Forwarded_Host="evil:x:y")
    _ask(made_up, "GET", "/config")  # all of the above was answered
    said = made_up.log.read_text().splitlines()[len(before) :]
    assert not [line for line in said if line.startswith(("Traceback", " "))]
    assert len(said) <= len(hostile) + 1
