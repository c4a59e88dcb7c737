"""The site of the documentation builds without a warning, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import ROOT, name_of

PACKAGES = sorted(path.stem for path in (ROOT / "docs" / "reference").glob("*.md"))


class Links(HTMLParser):
    """What a page asks for, and the places within it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.targets.append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") != "canonical":
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make docs`` builds it; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Links]:
    """All pages."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def test_links_within_the_site_lead_to_pages_files_and_places(
    site: Path, read: dict[Path, Links]
) -> None:
    assert len(read) > 40
    broken = []
    for page, links in read.items():
        if page.name == "404.html":  # is served from any path
            continue
        for target in links.targets + links.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if path.is_dir():
                path /= "index.html"
            anchors = read[path].anchors if path in read else set()
            if not path.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert broken == []


def test_pages_load_nothing_from_elsewhere(read: dict[Path, Links]) -> None:
    for page, links in read.items():
        assert [loaded for loaded in links.loaded if urlsplit(loaded).netloc] == [], page
    # Style sheets could, too.
    for sheet in {path.parent for path in read if path.name == "index.html"}:
        for css in sheet.rglob("*.css"):
            assert not re.search(r"url\(['\"]?https?:", css.read_text(encoding="utf-8")), css


def test_no_page_shows_what_is_meant_for_python(site: Path, read: dict[Path, Links]) -> None:
    for page in read:
        shown = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
        assert re.findall(r":(?:class|func|meth|mod|attr|data):", shown) == [], page
        assert ":::" not in shown, page


def test_the_reference_has_every_name_that_the_packages_offer(
    site: Path, read: dict[Path, Links]
) -> None:
    public = {path.parent.name for path in (ROOT / "lightning_adls").glob("*/__init__.py")}
    # What labs and commands are made of, and the data sets, which the first page has.
    assert public - set(PACKAGES) == {"labs", "commands", "data"}
    for name in PACKAGES:
        links = read[site / "reference" / f"{name}.html"]
        if name == "index":
            text = (ROOT / "docs/reference/index.md").read_text(encoding="utf-8")
            for offered in import_module("lightning_adls").__all__:
                assert f"`{offered}`" in text or f"lightning_adls.{offered}\n" in text, offered
            continue
        module = f"lightning_adls.{name}"
        missing = [n for n in import_module(module).__all__ if f"{module}.{n}" not in links.anchors]
        assert missing == [], name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_of_the_site_lead_to_files_and_headings(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(target)
        if parts.scheme:
            continue
        path = ROOT / unquote(parts.path) if parts.path else ROOT / page
        if not path.exists() or (parts.fragment and parts.fragment not in _headings(path)):
            broken.append(target)
    assert broken == []


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_of_docs_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {name_of(page).removeprefix('docs/')}\n" in navigation
