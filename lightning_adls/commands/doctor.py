"""Say whether this machine has what is needed, and what it can do.

    adls doctor

Exit status 0 if labs can run here, 1 if something has to be mended first.
"""

import sys
from collections.abc import Iterable, Sequence

import lightning_adls
from lightning_adls.commands.parser import CommandParser
from lightning_adls.labs.checks.finding import Finding

_WIDTH = len("problem")


def main(arguments: Sequence[str]) -> None:
    """Print a line for each finding; end with status 1 if one is a problem."""
    CommandParser(
        "[-h]", "Say whether this machine has what is needed, and what it can do."
    ).parse_args(arguments)
    print(f"lightning_adls {lightning_adls.__version__}, in {lightning_adls.__path__[0]}")
    findings = []
    for finding in found():
        print(f"{finding.kind:<{_WIDTH}}  {finding.text}.", flush=True)
        findings.append(finding)
    print(verdict(findings))
    sys.exit(any(each.kind == "problem" for each in findings))


def found() -> Iterable[Finding]:
    """All findings, those about packages first: without them the others cannot be asked for."""
    from lightning_adls.labs.checks.packages import check_packages

    packages = list(check_packages())
    yield from packages
    if any(each.kind == "problem" for each in packages):
        return
    # Not before, because --help needs no torch.
    from lightning_adls.labs.checks.machine import check_machine
    from lightning_adls.labs.checks.places import check_places

    yield from check_machine()
    yield from check_places()


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: how many findings are no ``ok``."""
    problems, notes = (sum(each.kind == kind for each in findings) for kind in ("problem", "note"))
    noted = f"{notes} note{'' if notes == 1 else 's'}"
    if problems:
        return f"{problems} to mend, {noted}."
    return f"Labs can run here; {noted}."
