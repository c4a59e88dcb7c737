"""A browser without a screen, and what stands on a page that it shows.

Needs Debian's packages `chromium` and `chromium-driver`, or any Chrome with its chromedriver, and
the package `selenium`.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

# innerText does not look into the shadow trees that TensorBoard's pages are made of.
_TEXT = """
function text(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent.trim() + ' ';
  if (node.nodeType === Node.ELEMENT_NODE) {
    if (['STYLE', 'SCRIPT', 'TEMPLATE', 'NOSCRIPT'].includes(node.tagName)) return '';
    const style = getComputedStyle(node);
    if (style.display === 'none' || style.visibility === 'hidden') return '';
  }
  const inner = node.shadowRoot || node;
  return [...inner.childNodes].map(text).join('') +
    (node.tagName === 'SLOT' ? node.assignedNodes().map(text).join('') : '');
}
return text(document.body).replace(/\\s+/g, ' ');
"""


def reason_to_skip() -> str | None:
    """Why there is no browser here; None if there is one."""
    if find_spec("selenium") is None:
        return "selenium is not installed: pip install selenium"
    if shutil.which("chromedriver") is None or _chromium() is None:
        return "there is no Chromium: apt-get install chromium chromium-driver"
    return None


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Page:
    """What a browser shows."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def text_with(self, *parts: str, seconds: float = 60) -> str:
        """The page's text as soon as it has all these parts.

        Raises:
            AssertionError: If it does not come to have them.
        """
        deadline = time.monotonic() + seconds
        while True:
            text = str(self.driver.execute_script(_TEXT))
            if all(part in text for part in parts):
                return text
            missing = [part for part in parts if part not in text]
            assert time.monotonic() < deadline, f"{missing} are not in: {text[:3000]}"
            time.sleep(0.2)

    def wait(self, seconds: float) -> None:
        """Let the page draw."""
        time.sleep(seconds)

    def open(self, url: str) -> None:
        """Show another page, also if only the part after the # is another."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def screenshot(self, path: Path) -> None:
        """A PNG file of what is seen."""
        assert self.driver.save_screenshot(str(path))


@contextmanager
def browser(width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A browser, closed at the end."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(_chromium())
    # Sandboxes need rights that a container mostly lacks; the pages are our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Page(driver)
    finally:
        driver.quit()


@contextmanager
def served(command: Callable[[int], list[str]], seconds: float = 60) -> Iterator[str]:
    """The address of a server of pages, which is started and ended.

    Args:
        command: Gives the command that serves at a port of this machine.
        seconds: How long it may take to answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with subprocess.Popen(
        command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    urlopen(url).close()
                    break
                except URLError:
                    assert process.poll() is None, "the server has ended"
                    assert time.monotonic() < deadline, "the server does not answer"
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def tensorboard(logdir: Path) -> Callable[[int], list[str]]:
    """Serves TensorBoard; for :func:`served`."""
    module = [sys.executable, "-m", "tensorboard.main"]
    return lambda port: [*module, f"--logdir={logdir}", f"--port={port}", "--host=127.0.0.1"]
