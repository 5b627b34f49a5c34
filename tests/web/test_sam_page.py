"""The page with a SAM: its switch, and its step behind those of the recurrence."""

import re

import pytest
from playwright.sync_api import expect
from servers import EXAMPLE

pytestmark = pytest.mark.web
SWITCH = "Refine by SAM"


def test_sams_step_is_shown_behind_the_others_until_it_is_switched_off(visit, with_sam, screenshots):
    visitor = visit(with_sam)
    page = visitor.page
    visitor.choose(EXAMPLE)
    visitor.type("dog", "car", "tree")
    visitor.find()
    visitor.await_status("Found")
    found = [row for row in visitor.rows if " found, " in row]
    forward = page.get_by_role("button", name="Next", exact=True)
    while forward.is_enabled():
        forward.click()
    expect(page.get_by_text("Then SAM", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile(rf"^(no|\d) of {len(found)} masks replaced$"))).to_be_visible()
    shown = page.locator(".car-cells figure.refined")
    assert shown.count() == len(found) > 0
    for i, row in enumerate(found):
        said = " ".join(shown.nth(i).inner_text().split())
        assert re.match(rf"Before SAM What SAM saw After SAM {row.split()[0]} (kept|replaced): IoU 0\.\d\d ", said)
    page.locator("#steps").screenshot(path=screenshots / "page_sam.png")

    page.get_by_role("button", name="Advanced").click()
    page.get_by_label(SWITCH).uncheck()
    visitor.find()
    expect(page.get_by_text("Then SAM", exact=True)).to_have_count(0)  # the new result begins with its first step
    while forward.is_enabled():
        forward.click()
    expect(page.get_by_text("Then SAM", exact=True)).to_have_count(0)
    assert visitor.hosts == {"127.0.0.1"}
