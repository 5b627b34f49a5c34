"""A visitor of the page: what a person does with it, on Playwright's page."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, Request, expect

PATIENCE_MS = 120_000  # on a machine that is busy with other work
expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Visitor:
    """One open page, and everything that its browser complained of."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._note)
        self.page.on("requestfailed", lambda request: self.failures.append(f"{request.url}: {request.failure}"))
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("console", lambda said: self.failures.append(said.text) if said.type == "error" else None)

    def _note(self, request: Request) -> None:
        if (host := urlsplit(request.url).hostname) is not None:
            self.hosts.add(host)

    def open(self, url: str) -> "Visitor":
        self.page.goto(url)
        expect(self.page.locator("#texts input")).to_be_visible(timeout=PATIENCE_MS)
        return self

    def choose(self, picture: Path) -> None:
        self.page.locator("input[type=file]").first.set_input_files(picture)

    def type(self, *texts: str) -> None:
        for text in texts:
            self.page.locator("#texts input").fill(text)
            self.page.locator("#texts input").press("Enter")

    def set_number(self, label: str, value: float) -> None:
        """Type a slider's number, and wait until the slider has taken it; again, if what filled it came later."""
        number, slider = (self.page.get_by_label(f"{part} for {label}") for part in ("number input", "range slider"))
        expect(slider).not_to_have_value("")  # it was just unfolded and is filled a moment later
        for _ in range(5):
            number.fill(str(value))
            number.press("Tab")
            self.page.wait_for_timeout(500)
            if slider.input_value() == str(value):
                break
        expect(slider).to_have_value(str(value))
        expect(number).to_have_value(str(value))

    def find(self) -> None:
        self.page.get_by_role("button", name="Find", exact=True).click()

    def await_status(self, words: str) -> None:
        expect(self.status).to_contain_text(words, timeout=PATIENCE_MS)

    @property
    def status(self) -> Locator:
        return self.page.locator("#status .car-status")

    @property
    def tags(self) -> list[str]:
        return [text.split("\u00d7")[0].strip() for text in self.page.locator("#texts li").all_inner_texts()]

    @property
    def rows(self) -> list[str]:
        """Return the table of texts, a line per text."""
        self.page.wait_for_selector(".car-table")  # drawn once its pictures are decoded
        return [" ".join(row.split()) for row in self.page.locator(".car-table tbody tr").all_inner_texts()]

    def download(self, button: str, folder: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name=button).click()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def canvas(self) -> str:
        return str(self.page.evaluate("document.querySelector('.car-picture canvas').toDataURL()"))
