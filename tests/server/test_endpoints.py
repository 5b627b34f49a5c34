"""The endpoints, asked over real sockets."""

import base64
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clip_as_rnn import Segmenter, load_segmenter
from clip_as_rnn.apps.server.limits import Limits
from serving import Client, Judge, await_true, made_up, picture, read_mask, read_rle, serving

PARK = Path(__file__).parents[2] / "examples" / "park.jpg"
TEXTS = ("dog", "car", "tree", "cat")


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return load_segmenter("tiny", text_cache=False, crf=False)  # the CRF takes half a minute to compile


@pytest.fixture(scope="module")
def park(tiny: Segmenter) -> Iterator[Client]:
    """A server with the bundled CLIP."""
    with serving(tiny, Limits(seconds=600), texts=TEXTS) as client:
        yield client


@pytest.fixture(scope="module")
def plain() -> Iterator[Client]:
    """A server with made-up stages and the default limits."""
    with serving(made_up()) as client:
        yield client


def test_the_full_answer_equals_that_of_segment(park: Client, tiny: Segmenter):
    body = {"image": base64.b64encode(PARK.read_bytes()).decode(), "texts": list(TEXTS), "trace": True}
    answer = park.post("/v1/segment", body).json
    wanted = tiny.segment(PARK, TEXTS, trace=True)
    assert [one["text"] for one in answer["found"]] == list(wanted.texts)
    assert [one["score"] for one in answer["found"]] == pytest.approx(wanted.scores.tolist(), abs=1e-5)
    masks = [read_rle(one["rle"]) for one in answer["found"]]
    assert np.array_equal(masks, wanted.masks)
    assert [one["area_px"] for one in answer["found"]] == wanted.masks.sum((1, 2)).tolist()
    corners = [(x, y, x + w, y + h) for x, y, w, h in (one["box_xywh"] for one in answer["found"])]
    assert np.array_equal(corners, wanted.boxes)
    assert [(r["text"], r["step"], r["reason"]) for r in answer["rejected"]] == [
        (r.text, r.step, r.reason) for r in wanted.rejections
    ]
    assert [(step["texts"], step["kept"]) for step in answer["steps"]] == [
        (list(step.texts), list(step.kept)) for step in wanted.trace.steps
    ]
    assert answer["models"] == dict(tiny.describe())
    assert answer["settings"]["score_threshold"] == tiny.config.classify.score_threshold
    assert (answer["preset"], answer["size"]) == ("made up", {"width": 384, "height": 288})


def test_settings_of_a_request_are_those_of_segment_and_leave_no_trace(park: Client, tiny: Segmenter):
    settings = {"score_threshold": 0.0, "max_steps": 1}
    asked = {"image": base64.b64encode(PARK.read_bytes()).decode(), "settings": settings, "masks": "png"}
    answer = park.post("/v1/segment", asked).json
    wanted = tiny.replace(**settings).segment(PARK, TEXTS)
    assert [one["text"] for one in answer["found"]] == list(wanted.texts)
    assert np.array_equal([read_mask(one["png"]) for one in answer["found"]], wanted.masks)
    assert answer["settings"]["max_steps"] == 1
    after = park.post("/v1/segment?masks=none", PARK.read_bytes()).json
    assert after["settings"]["max_steps"] is None
    assert all("rle" not in one and "png" not in one for one in after["found"])


def test_concurrent_requests_are_batched_and_answered_as_if_alone(park: Client, tiny: Segmenter):
    wanted = tiny.segment(PARK, TEXTS)
    before = park.metric('car_batch_images_bucket{le="1.0"}'), park.metric("car_batch_images_count")
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: park.post("/v1/segment", PARK.read_bytes()).json, range(6)))
    for answer in answers:
        masks = [read_rle(one["rle"]) for one in answer["found"]]
        assert np.array_equal(masks, wanted.masks)
        assert [one["score"] for one in answer["found"]] == pytest.approx(wanted.scores.tolist(), abs=1e-4)
    alone = park.metric('car_batch_images_bucket{le="1.0"}') - before[0]
    assert park.metric("car_batch_images_count") - before[1] == 6
    assert alone < 6


def test_the_stock_client_of_hugging_face_works_unchanged(park: Client, tiny: Segmenter):
    """In a process of its own, for this one is told to be offline, and then the client refuses even 127.0.0.1."""
    program = (
        "import sys, json\n"
        "from huggingface_hub import InferenceClient\n"
        "client = InferenceClient(model=sys.argv[1])\n"
        "plain = client.image_segmentation(sys.argv[2])\n"
        "some = client.image_segmentation(open(sys.argv[2], 'rb').read(), threshold=0.6, subtask='semantic')\n"
        "words = client.zero_shot_image_classification(sys.argv[2], candidate_labels=['dog', 'cat'])\n"
        "print(json.dumps([[(o.label, o.score, o.mask.size, sum(o.mask.tobytes()) // 255) for o in plain],"
        "[(o.label, o.score) for o in some], [o.label for o in words]]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", program, park.url, str(PARK)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    plain, some, chosen = json.loads(done.stdout)
    wanted = tiny.segment(PARK, TEXTS)
    assert [one[0] for one in plain] == list(wanted.texts)
    assert [one[1] for one in plain] == pytest.approx(wanted.scores.tolist(), abs=1e-5)
    assert [one[2:] for one in plain] == [[[384, 288], int(mask.sum())] for mask in wanted.masks]
    assert [one[0] for one in some] == [
        text for text, score in zip(wanted.texts, wanted.scores, strict=True) if score >= 0.6
    ]
    assert chosen == ["dog"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_lines_for_curl_work(park: Client):
    for path, key in (("/v1/segment?texts=dog&texts=cat", "found"), ("/?candidate_labels=dog,cat", None)):
        command = ["curl", "-sS", "--fail", "--noproxy", "*", "--data-binary", f"@{PARK}", park.url + path]
        answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        rows = answer if key is None else answer[key]
        assert [one.get("label") if key is None else one["text"] for one in rows] == ["dog"]


def test_nothing_found_is_an_empty_list(plain: Client):
    assert plain.post("/?candidate_labels=ghost", picture()).json == []
    answer = plain.post("/v1/segment?texts=ghost", picture()).json
    assert answer["found"] == []
    assert answer["rejected"][0]["reason"] == "score below 0.5"


def test_labels_come_as_a_list_or_as_words_with_commas(plain: Client):
    asked = {"inputs": base64.b64encode(picture()).decode()}
    for labels in (["a cat", "ghost"], "a cat, ghost"):
        answer = plain.post("/", {**asked, "parameters": {"candidate_labels": labels}}).json
        assert [one["label"] for one in answer] == ["a cat"]
        assert read_mask(answer[0]["mask"]).shape == (24, 32)


@pytest.mark.parametrize("written", ["data:image/png;base64,{}", "{}\n", "{}"])
def test_pictures_come_as_base64_or_as_a_data_url(plain: Client, written: str):
    image = written.format(base64.encodebytes(picture()).decode())
    assert plain.post("/v1/segment", {"image": image, "texts": ["cat"]}).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/", b"", 422, "Expected an image, but got nothing."),
        ("/v1/segment", picture(), 422, "Expected at least one text to look for, but got none."),
        ("/?candidate_labels=%20", picture(), 422, "Expected every text to hold a word, but got ' '."),
        ("/v1/segment?texts=cat&texts=" + "x" * 301, picture(), 422, "Expected texts of at most 300 characters"),
        ("/v1/segment?" + "texts=cat&" * 101, picture(), 422, "Expected at most 100 texts, but got 101."),
        ("/v1/segment?texts=cat", b"no picture", 422, "Expected an image, but the image is none of "),
        ("/v1/segment?texts=cat", picture()[:50], 422, "The image is damaged or cut short"),
        ("/v1/segment?texts=cat&mask=png", picture(), 422, "This request cannot be read: mask: Extra inputs"),
        ("/v1/segment?texts=cat&masks=png&masks=rle", picture(), 422, "Expected the parameter 'masks' once."),
        ("/v1/segment", {"image": "", "texts": ["cat"]}, 422, "Expected an image, but got nothing."),
        ("/v1/segment", {"image": "%%", "texts": ["cat"]}, 422, "Expected an image in base64, but this is not"),
        ("/v1/segment", {"texts": ["cat"]}, 422, "This request cannot be read: image: Field required"),
        ("/v1/segment", {"image": "", "settings": {"crff": 1}}, 422, "This request cannot be read: settings.crff: "),
        ("/", {"inputs": "", "parameters": {"subtask": "panoptic"}}, 422, "This request cannot be read: parameters."),
        (
            "/v1/segment?texts=cat",
            {"image": ""},
            422,
            "Expected all that is asked in the JSON, but something stands in",
        ),
        (
            "/?threshold=0",
            {"inputs": ""},
            422,
            "Expected all that is asked in the JSON, but something stands in the URL",
        ),
        ("/nowhere", b"", 404, "Not Found"),
        ("/v1/segment/", b"", 404, "Not Found"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(plain: Client, path: str, body: object, status: int, words: str):
    answer = plain.post(path, body)
    assert answer.status == status
    assert answer.error.startswith(words)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    with serving(made_up(), Limits(picture_pixels=1000)) as client:
        answer = client.post("/v1/segment?texts=cat", picture((40, 30)))
        assert (answer.status, answer.error[:30]) == (413, "Expected a picture of at most ")
        assert client.post("/v1/segment?texts=cat", picture((20, 20))).status == 200


def test_bodies_are_limited_with_and_without_a_length():
    with serving(made_up(), Limits(picture_bytes=1000)) as client:
        most = client.service.limits.body_bytes
        assert client.post("/v1/segment?texts=cat", b"x" * (most + 1)).status == 413
        assert client.post("/v1/segment?texts=cat", b"x" * 1001).status == 413
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        chunks = (b"x" * 100_000 for _ in range(most // 100_000 + 2))
        try:
            connection.request("POST", "/v1/segment?texts=cat", chunks, encode_chunked=True)
            assert connection.getresponse().status == 413
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up while the rest was being sent
        finally:
            connection.close()
        assert client.get("/health").status == 200


def test_a_full_queue_is_said_with_when_to_come_again():
    judge = Judge()
    with serving(made_up(judge), Limits(waiting=1, images_at_once=1)) as client, ThreadPoolExecutor(2) as others:
        judge.go.clear()
        first = others.submit(client.post, "/v1/segment?texts=cat", picture())
        await_true(lambda: judge.calls)
        second = others.submit(client.post, "/v1/segment?texts=dog", picture())
        await_true(lambda: client.metric("car_waiting") == 1)
        refused = client.post("/v1/segment?texts=cup", picture())
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/ready").status == 503
        assert client.get("/health").status == 200
        judge.go.set()
        assert (first.result().status, second.result().status) == (200, 200)
        assert client.get("/ready").json == {"status": "READY"}


def test_what_takes_too_long_is_given_up():
    judge = Judge()
    with serving(made_up(judge), Limits(seconds=0.3)) as client:
        judge.go.clear()
        answer = client.post("/v1/segment?texts=cat", picture())
        assert (answer.status, answer.error) == (504, "The answer takes more than 0.3 s; ask for less at once.")
        judge.go.set()
        await_true(lambda: client.post("/v1/segment?texts=dog", picture()).status == 200)


def test_a_client_that_leaves_ends_its_work_and_makes_room():
    judge = Judge()
    with serving(made_up(judge, max_steps=None), Limits(images_at_once=1)) as client:
        judge.go.clear()
        connections = [http.client.HTTPConnection("127.0.0.1", client.port) for _ in range(2)]
        for connection, text in zip(connections, ("ghost&texts=cat", "dog"), strict=True):
            connection.request("POST", f"/v1/segment?texts={text}", picture())
        await_true(lambda: judge.calls and client.metric("car_waiting") == 1)
        for connection in connections:
            connection.close()
        await_true(lambda: client.metric("car_waiting") == 0)
        await_true(lambda: client.metric('car_requests_total{path="/v1/segment",status="499"}') == 2)
        judge.go.set()
        assert client.post("/v1/segment?texts=cup", picture()).status == 200
        assert judge.calls == 3  # the two of step 1, none of step 2, and the last client's


def test_a_damaged_picture_does_not_end_its_neighbors():
    judge = Judge()
    with serving(made_up(judge), Limits(images_at_once=4)) as client, ThreadPoolExecutor(4) as others:
        judge.go.clear()
        first = others.submit(client.post, "/v1/segment?texts=cat", picture())
        await_true(lambda: judge.calls)
        sent = [picture(), picture()[:60], picture(color="red")]
        rest = [others.submit(client.post, "/v1/segment?texts=dog", content) for content in sent]
        await_true(lambda: client.metric("car_waiting") == 3)
        judge.go.set()
        assert first.result().status == 200
        assert [one.result().status for one in rest] == [200, 422, 200]


def test_a_bug_is_a_500_that_tells_nothing(plain: Client):
    answer = plain.post("/v1/segment?texts=bug", picture())
    assert (answer.status, answer.json) == (500, {"error": "This request failed."})
    assert plain.post("/v1/segment?texts=cat", picture()).status == 200


def test_operators_can_watch(plain: Client):
    assert plain.get("/health").json == plain.get("/").json == {"status": "UP", "model_class": "clip-as-rnn"}
    plain.post("/v1/segment?texts=cat&texts=ghost", picture())
    metrics = plain.get("/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert plain.metric('car_texts_total{outcome="rejected"}') >= 1
    assert plain.metric('car_stage_seconds_total{stage="refine"}') > 0
    plain.get("/secret-path")
    assert b"secret-path" not in plain.get("/metrics").body


def test_the_docs_name_every_endpoint_and_load_nothing(plain: Client):
    paths = plain.get("/openapi.json").json["paths"]
    page = plain.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert {"/", "/v1/segment", "/health", "/ready", "/metrics"} <= set(paths)
    assert all(path in page.body.decode() for path in paths)
    assert b"<script" not in page.body
    assert b"src=" not in page.body
