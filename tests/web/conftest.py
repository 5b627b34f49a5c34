"""The page in a real browser: Debian's chromium, driven by Playwright's Python package.

Where one of them is absent the tests are skipped, with the reason; with CAR_WEB_TESTS=required they fail instead.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from servers import CHROMIUM, FLAGS, Server, serving

from random_sam import save_random_sam

REQUIRED = os.environ.get("CAR_WEB_TESTS") == "required"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests that need the browser."""
    config.addinivalue_line("markers", "web: drives a browser; see tests/web/conftest.py for what it needs")


def _missing() -> str | None:
    for package in ("gradio", "playwright"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install gradio playwright"
    return None if CHROMIUM.exists() else "there is no /usr/bin/chromium: apt-get install chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Start the browser, once for all tests."""
    if reason := _missing():
        (pytest.fail if REQUIRED else pytest.skip)(f"The page is not tested: {reason}.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: object) -> Iterator[Callable[..., object]]:
    """Open the page as somebody new, at a size in pixels."""
    from playwright.sync_api import Browser
    from visitor import PATIENCE_MS, Visitor

    assert isinstance(browser, Browser)
    contexts = []

    def opened(server: Server, *, width: int = 1280, height: int = 900) -> Visitor:
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        return Visitor(context.new_page()).open(server.url)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def bundled(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the page on the bundled CLIP, by the command that users type."""
    arguments = ["-m", "clip_as_rnn.apps.cli.main", "web", "--preset", "tiny", "--port"]
    with serving(arguments, tmp_path_factory.mktemp("bundled")) as server:
        yield server


@pytest.fixture(scope="module")
def with_sam(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the page on the bundled CLIP and a small random SAM."""
    sam = save_random_sam(tmp_path_factory.mktemp("sam"))
    arguments = ["-m", "clip_as_rnn.apps.cli.main", "web", "--preset", "tiny", "--sam", str(sam), "--port"]
    with serving(arguments, tmp_path_factory.mktemp("with_sam")) as server:
        yield server


@pytest.fixture(scope="session")
def made_up(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the page on made-up stages, some of them slow."""
    with serving([str(Path(__file__).parent / "made_up_page.py")], tmp_path_factory.mktemp("made_up")) as server:
        yield server


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where screenshots go: where CAR_SCREENSHOTS says (docs/images to renew those), else a temporary folder."""
    return Path(os.environ.get("CAR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
