"""The pages of the documentation, and the blocks of code that stand in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda page: page.as_posix(),
)
# A fence with its language, and what it holds.
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"# Not run by the tests: (.+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands, from the top of the repository.
        line: Of its first line in the page, from 1.
        language: After the fence; empty without one.
        code: What it holds.
        output: The block ``text`` that follows at once: what this one prints.
    """

    page: str
    line: int
    language: str
    code: str
    output: str | None

    @property
    def reason(self) -> str | None:
        """Why it is not run, as its first line says; None if it is run."""
        found = _NOT_RUN.match(self.code)
        return found[1] if found else None

    @property
    def is_session(self) -> bool:
        """Whether it shows a prompt, and what is printed after it."""
        return self.code.startswith(">>>")


def name_of(page: Path) -> str:
    """From the top of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    blocks = []
    for here, after in zip_longest(found, found[1:]):
        output = None
        if (
            after is not None
            and after[1] == "text"
            and not text[here.end() : after.start()].strip()
        ):
            output = after[2]
        line = text.count("\n", 0, here.start(2)) + 1
        blocks.append(Block(name_of(page), line, here[1], here[2], output))
    return blocks


def indented_of(text: str) -> list[str]:
    """Blocks that are indented and not fenced, without the indentation; an empty line ends one."""
    found = re.findall(r"(?:^    .*\n)+", _FENCE.sub("", text), re.MULTILINE)
    return [re.sub(r"^    ", "", part, flags=re.MULTILINE) for part in found]


def commands_of(page: Path) -> Iterator[str]:
    """The lines of all blocks without a language or of a shell, lines that go on put together."""
    text = page.read_text(encoding="utf-8")
    fenced = [block.code for block in blocks_of(page) if block.language in ("", "bash", "sh")]
    for block in fenced + indented_of(text):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())
