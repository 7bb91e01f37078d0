"""The optional parts of this package, `pip install "oleaster[NAME]"`: what each needs, and what of it is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement


def extras() -> list[str]:
    """Names of all extras; empty when the package is not installed."""
    return list(dict.fromkeys(name for need in _needs() if need.marker for name in _extra_of(str(need.marker))))


def missing(extra: str) -> list[str]:
    """Requirements of an extra that are not installed, in pip's words (`onnx>=1.19`); those of its extras as well."""
    found: list[str] = []
    for need in _needs():
        if need.marker is None or not need.marker.evaluate({"extra": extra}):
            continue
        if need.name == "oleaster":
            found += [word for inner in sorted(need.extras) for word in missing(inner)]
        elif not fits(need):
            found.append(f"{need.name}{need.specifier}")
    return found


def fits(need: Requirement) -> bool:
    """Is a version installed that the requirement allows?"""
    found = installed(need.name)
    return found is not None and need.specifier.contains(found, prereleases=True)


def installed(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _needs() -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires("oleaster") or []]
    except PackageNotFoundError:
        return []


def _extra_of(marker: str) -> list[str]:
    _, _, rest = marker.partition('extra == "')
    return [rest.split('"')[0]] if rest else []
