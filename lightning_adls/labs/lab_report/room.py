"""Room to write in a report, and what was written there before."""

import re
from pathlib import Path

from lightning_adls.errors import InputValueError

MADE_BY = (
    "<!-- Made by `make report`. Write between the marks: all else is made anew each time. -->"
)
_ROOM = re.compile(r"<!-- write: (?P<name>[a-z ]+) -->\n(?P<text>.*?)\n<!-- end -->", re.DOTALL)


def written(path: Path) -> dict[str, str]:
    """What somebody wrote into an earlier report, by the name of the room.

    Raises:
        InputValueError: If there is a file that no report was written into.
    """
    if not path.is_file():
        return {}
    content = path.read_text(encoding="utf-8")
    if MADE_BY not in content:
        raise InputValueError(
            f"report: {path} was not made by this command and would be lost; move it away."
        )
    return {found["name"]: found["text"] for found in _ROOM.finditer(content)}


def room(name: str, before: dict[str, str]) -> list[str]:
    """Lines with room to write, and what was written there before."""
    text = before.get(name, f"*Write your {name} here.*")
    return [f"<!-- write: {name} -->", text, "<!-- end -->", ""]
