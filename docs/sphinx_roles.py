"""For the site: what docstrings write for Python, as Markdown and Griffe read it."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")  # :class:`Search`
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)  # Griffe knows the plural alone


class SphinxRoles(griffe.Extension):
    """Shows names as code and examples as sessions."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change a docstring before it is read."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", text)
