"""A headless Chromium, and the page of a service in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from uvicorn import Config, Server

from tests.conftest import NO_BROWSER
from ultraif_ray.serve.app import Service, create_app

NAMES = ("chromium", "chromium-browser", "google-chrome")

WAIT_MS = 30_000
"""Far more than anything takes here: a machine may be busy."""

expect.set_options(timeout=WAIT_MS)


@contextmanager
def started() -> Iterator[BrowserContext]:
    """A window for the pages of many tests: a process and a cache of their own would be most of what a test costs."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(NO_BROWSER)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=found, args=["--process-per-site"]) as browser,
        browser.new_context() as window,
    ):
        window.set_default_timeout(WAIT_MS)
        yield window


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """The address of a service on a port of its own, in a thread."""
    server = Server(Config(create_app(service), port=0, log_level="error", lifespan="off"))
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def page_at(url: str, window: BrowserContext) -> Iterator[Page]:
    """The page. What its scripts do wrong, and what the browser forbids them, fails the test; so does a request to
    elsewhere.
    """
    faults: list[str] = []

    def read(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # a reply of 400 and above
            faults.append(message.text)

    with window.new_page() as page:
        page.on("console", read)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda asked: None if asked.url.startswith(url) else faults.append(asked.url))
        page.goto(url)
        yield page
        assert not faults


@contextmanager
def page_of(service: Service, window: BrowserContext) -> Iterator[Page]:
    with listening(service) as url, page_at(url, window) as page:
        yield page
