"""Whether the packages are there that this one asks for."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement

from lightning_adls.labs.checks.finding import Finding

DISTRIBUTION = "lightning_adls"
_OF_A_CHECKOUT = ("bench", "dev", "docs", "notebooks")  # for work on the package itself
VersionOf = Callable[[str], str | None]


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_packages() -> Iterator[Finding]:
    """What the installed distribution of this package requires, and its extras."""
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        yield Finding(
            "note", f"{DISTRIBUTION} runs from its source and is not installed; pip install ."
        )
        return
    requirements = [Requirement(text) for text in found.requires or []]
    extras = found.metadata.get_all("Provides-Extra") or []
    yield from check_required(requirements, installed)
    for extra in extras:
        yield from check_extra(extra, requirements, installed)


def check_required(requirements: Iterable[Requirement], version_of: VersionOf) -> Iterator[Finding]:
    """Those that the package cannot do without.

    Args:
        requirements: All, those of extras included.
        version_of: The version of a distribution, None where it is missing.
    """
    asked = [each for each in requirements if _applies(each, "")]
    missing = unmet(asked, version_of)
    for each in missing:
        here = version_of(each.name)
        state = f"{here} is here, {each.specifier} is needed" if here else "is not installed"
        yield Finding("problem", f"{each.name} {state}; {pip_install([each])}")
    if not missing:
        versions = [f"{name} {version_of(name)}" for name in ("lightning", "transformers")]
        yield Finding("ok", f"All {len(asked)} required packages, {', '.join(versions)}")


def check_extra(
    extra: str, requirements: Iterable[Requirement], version_of: VersionOf
) -> Iterator[Finding]:
    """Those of an extra.

    Args:
        extra: Its name.
        requirements: All.
        version_of: As in :func:`check_required`.
    """
    # `dev` names other extras of this package, which are checked by themselves.
    asked = [
        each
        for each in requirements
        if _applies(each, extra) and not _applies(each, "") and each.name != DISTRIBUTION
    ]
    if missing := unmet(asked, version_of):
        names = ", ".join(each.name for each in missing)
        if extra in _OF_A_CHECKOUT:
            command = f"pip install --editable '.[{extra}]'"
            yield Finding("ok", f"Extra {extra}, of a checkout, lacks {names}; {command}")
        else:
            yield Finding("note", f"Extra {extra} lacks {names}; {pip_install(missing)}")
    else:
        yield Finding("ok", f"Extra {extra}: {', '.join(each.name for each in asked)}")


def unmet(requirements: Iterable[Requirement], version_of: VersionOf) -> list[Requirement]:
    """Requirements that no installed version meets."""
    found = [(each, version_of(each.name)) for each in requirements]
    return [
        each
        for each, here in found
        if here is None or not each.specifier.contains(here, prereleases=True)
    ]


def pip_install(requirements: Iterable[Requirement]) -> str:
    """The command that installs them."""
    names = []
    for each in requirements:
        extras = f"[{','.join(sorted(each.extras))}]" if each.extras else ""
        names.append(f"{each.name}{extras}{each.specifier}")
    return f"pip install {shlex.join(names)}"


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
