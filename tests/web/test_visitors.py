"""What happens to visitors: bad files, company, a change of mind, leaving. In a browser, on made-up stages."""

import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from servers import EXAMPLE, serving
from visitor import PATIENCE_MS

pytestmark = pytest.mark.web


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "gray.png"
    Image.fromarray(np.full((60, 80, 3), 120, np.uint8)).save(path)
    return path


def test_the_page_loads_without_a_way_out(visit, made_up):
    """With every name unresolvable but this machine's, nothing fails, and nothing else was asked for."""
    visitor = visit(made_up)
    visitor.page.wait_for_timeout(3000)  # one connection stays open for good, so the network is never idle
    assert visitor.failures == []
    assert visitor.hosts == {"127.0.0.1"}


def test_texts_become_tags_however_they_come(visit, made_up):
    visitor = visit(made_up)
    field = visitor.page.locator("#texts input")
    visitor.type("red dog", "Red  Dog")
    field.press_sequentially("cat,")
    visitor.page.evaluate("""() => {
        const data = new DataTransfer();
        data.setData("text", "tree\\ngrass; sky");
        const paste = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        document.querySelector("#texts input").dispatchEvent(paste);
    }""")
    assert visitor.tags == ["red dog", "cat", "tree", "grass", "sky"]
    visitor.page.get_by_role("button", name="Remove cat").click()
    field.press("Backspace")
    assert visitor.tags == ["red dog", "tree", "grass"]


def test_a_word_still_being_typed_counts(visit, made_up, picture):
    visitor = visit(made_up)
    visitor.choose(picture)
    visitor.page.locator("#texts input").fill("dog")
    visitor.find()
    visitor.await_status("Found the text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a picture at all", "Expected an image, but 'bad.png' is none of"),
        (EXAMPLE.read_bytes()[:3000], "The image 'bad.png' is damaged or cut short"),
        (b"", "Expected an image, but 'bad.png' is empty (0 bytes)"),
    ],
)
def test_a_bad_file_is_explained_and_the_page_lives_on(visit, made_up, tmp_path, content, message):
    (tmp_path / "bad.png").write_bytes(content)
    visitor = visit(made_up)
    visitor.choose(tmp_path / "bad.png")
    expect(visitor.page.get_by_role("alert").filter(has_text=message)).to_be_visible(timeout=PATIENCE_MS)
    expect(visitor.page.locator("input[type=file]").first).to_be_attached()
    visitor.choose(EXAMPLE)
    visitor.type("dog", "ghost")
    visitor.find()
    visitor.await_status("Found 1 of 2 texts in 2 steps.")
    assert visitor.rows[0].startswith("dog 0.90 found, covers ")
    assert visitor.rows[1:] == ["ghost 0.10 rejected at step 1: score below 0.4"]


def test_too_many_pixels_are_refused(visit, made_up, tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    visitor = visit(made_up)
    visitor.choose(tmp_path / "huge.png")
    visitor.await_status("Expected a picture of at most 40 million pixels, but this one has 81 million.")


def test_too_many_bytes_are_refused(visit, made_up, tmp_path):
    (tmp_path / "fat.png").write_bytes(EXAMPLE.read_bytes() + bytes(21_000_000))
    visitor = visit(made_up)
    visitor.choose(tmp_path / "fat.png")
    expect(visitor.page.get_by_text("maximum allowed size").first).to_be_visible(timeout=PATIENCE_MS)


def test_nothing_asked_is_explained(visit, made_up, picture):
    visitor = visit(made_up)
    visitor.find()
    visitor.await_status("Please choose a picture first.")
    visitor.choose(picture)
    visitor.find()
    visitor.await_status("Expected at least one text to look for, but got none.")


def test_two_visitors_get_their_own_results(visit, made_up, picture, tmp_path):
    """Both ask while the other's run is on; one also changes a setting, which the other never sees."""
    first, second = visit(made_up), visit(made_up)
    first.choose(picture)
    first.type("slow", "ghost")
    second.choose(EXAMPLE)
    second.type("cat", "dog", "cow")
    second.page.get_by_text("Referring").click()
    first.find()
    second.find()
    first.await_status("Found 1 of 2 texts in 2 steps.")
    second.await_status("Found 3 of 3 texts in 1 step.")
    assert [row.split()[0] for row in first.rows] == ["slow", "ghost"]
    assert [row.split()[0] for row in second.rows] == ["cat", "dog", "cow"]
    assert first.download("COCO JSON", tmp_path).read_text() != second.download("COCO JSON", tmp_path).read_text()
    expect(second.page.locator(".cm-content").first).to_contain_text("mode=referring")
    expect(first.page.locator(".cm-content").first).to_contain_text("car segment gray.png")
    expect(first.page.locator(".cm-content").first).not_to_contain_text("mode=referring")


def test_a_run_can_be_canceled_and_the_next_one_works(visit, made_up, picture):
    visitor = visit(made_up)
    visitor.choose(picture)
    visitor.type("slow", "cancelled")
    visitor.find()
    visitor.await_status("Judging 2 masks")
    expect(visitor.page.get_by_role("button", name="Find", exact=True)).to_be_disabled()
    visitor.page.get_by_role("button", name="Cancel", exact=True).click()
    visitor.await_status("Canceled.")
    stages_before = made_up.log.read_text().count("refine")
    visitor.page.get_by_role("button", name="Remove slow").click()
    visitor.find()
    visitor.await_status("Found the text in 1 step.")
    assert made_up.log.read_text().count("refine") == stages_before + 1  # the canceled run never came so far


def test_a_run_that_waits_can_be_canceled(visit, made_up, picture):
    first, second = visit(made_up), visit(made_up)
    for visitor, text in ((first, "slow"), (second, "never asked")):
        visitor.choose(picture)
        visitor.type(text)
    first.find()
    first.await_status("Judging 1 mask")
    second.find()
    second.page.wait_for_timeout(500)
    second.page.get_by_role("button", name="Cancel", exact=True).click()
    second.await_status("Canceled.")
    first.await_status("Found the text in 1 step.")
    second.page.wait_for_timeout(500)
    assert "never asked" not in made_up.log.read_text()


def test_files_go_when_their_visitor_leaves(visit, made_up, tmp_path):
    path = tmp_path / "of-a-leaving-visitor.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    visitor = visit(made_up)
    visitor.choose(path)
    visitor.type("dog")
    visitor.find()
    visitor.await_status("Found the text")
    mine = [file for file in made_up.visitors_files() if "of-a-leaving-visitor" in file.name]
    assert len(mine) >= 5  # the upload and the downloads
    visitor.page.close()
    deadline = time.monotonic() + 20
    while any(file.exists() for file in mine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(file.exists() for file in mine)


def test_a_preset_fills_the_settings_and_says_its_values(visit, made_up):
    visitor = visit(made_up)
    visitor.page.get_by_role("button", name="Advanced").click()
    expect(visitor.page.get_by_text("A text that scores less at any step is rejected. Preset: 0.4.")).to_be_visible()
    visitor.page.get_by_label("Preset").click()
    visitor.page.get_by_role("option", name="paper-pc459").click()
    expect(visitor.page.get_by_text("is rejected. Preset: 0.25.")).to_be_visible()
    expect(visitor.page.get_by_label("number input for Least score to stay (theta)")).to_have_value("0.25")
    expect(visitor.page.get_by_text("even a lone text can fail. Preset: none.")).to_be_visible()


def test_a_password_keeps_others_out(browser, tmp_path):
    page = str(Path(__file__).parent / "made_up_page.py")
    with serving([page], tmp_path, CAR_WEB_PASSWORD="open sesame") as server:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{server.url}/config", timeout=30)
        guest = browser.new_page()
        guest.goto(server.url)
        guest.get_by_label("username").fill("me")
        guest.get_by_label("password").fill("open sesame")
        guest.get_by_role("button", name="Login").click()
        expect(guest.locator("#texts input")).to_be_visible(timeout=PATIENCE_MS)
        guest.close()
