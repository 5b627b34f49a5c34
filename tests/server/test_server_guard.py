"""Who may come in: names, tokens, other pages' scripts, and how large a request may be."""

import base64

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from clip_as_rnn.apps.server.guard import Guard
from clip_as_rnn.apps.server.metrics import Metrics

TOKEN = "a long secret"
PAGE = "https://labels.example"


def visit(token=None, origins=(), base_url="http://localhost:8000"):
    guard = Guard(PlainTextResponse("inside"), token=token, origins=origins, body_bytes=100, metrics=Metrics())
    return TestClient(guard, base_url=base_url)


def basic(password):
    return "Basic " + base64.b64encode(f"user:{password}".encode()).decode()


def test_without_a_token_only_loopback_names_are_answered():
    assert visit().get("/").text == "inside"
    answer = visit(base_url="http://evil.example:8000").get("/")
    assert answer.status_code == 421
    assert answer.json()["error"].startswith("This server is not known by that name")


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(TOKEN)])
def test_with_the_token_anybody_comes_in_under_any_name(authorization):
    client = visit(TOKEN, base_url="http://server.example")
    assert client.get("/", headers={"Authorization": authorization}).text == "inside"


@pytest.mark.parametrize(
    "authorization", ["", "Bearer ", "Bearer wrong", f"Token {TOKEN}", TOKEN, basic("wrong"), "Basic ####", "Bearer é"]
)
def test_without_the_right_token_nobody_does(authorization):
    headers = {"Authorization": authorization.encode("latin-1")} if authorization else {}
    answer = visit(TOKEN).get("/", headers=headers)
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_those_who_watch_over_the_process_need_no_token(path):
    assert visit(TOKEN).get(path).status_code == 200


def test_other_pages_are_refused_unless_they_are_allowed():
    assert visit().post("/", headers={"Origin": PAGE}).status_code == 403
    assert visit(origins=(PAGE,)).post("/", headers={"Origin": PAGE}).status_code == 200
    assert visit().post("/", headers={"Origin": "http://localhost:8000"}).status_code == 200


def test_a_preflight_of_an_allowed_page_needs_no_token_and_any_other_one_does():
    assert visit(TOKEN, (PAGE,)).options("/", headers={"Origin": PAGE}).status_code == 200
    assert visit(TOKEN, (PAGE,)).options("/", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_body_that_is_too_large_is_refused_unread():
    assert visit().post("/", content=b"x" * 101).status_code == 413


def test_every_answer_forbids_scripts_and_guessing_types():
    for answer in (visit().get("/"), visit(TOKEN).get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
