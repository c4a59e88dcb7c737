"""Goes through the tutorial as a reader does: block after block, in the folder that one is in.

    cd "$(mktemp -d)"; <environment>/bin/python <checkout>/tests/docs/walk_through.py

Continuous integration does so with a fresh clone and with the wheel alone. It needs what the
package needs, and no more.
"""

import sys
from time import perf_counter

from pages import ROOT, blocks_of, name_of
from running import PageRun

PAGE = ROOT / "docs" / "tutorial.md"


def main() -> None:
    """Run all blocks; what fails is shown, and the status is 1."""
    import lightning_adls

    print(f"lightning_adls of {lightning_adls.__path__[0]}")
    page = PageRun(name_of(PAGE))
    for block in blocks_of(PAGE):
        if block.language not in ("python", "bash"):
            continue
        started = perf_counter()
        try:
            page.run(block)
        except AssertionError as error:
            sys.exit(f"error: {error}")
        print(f"line {block.line}: {perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
