"""The table of all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from oleaster.core.registry import Registry
from oleaster.quality.findings import Finding
from oleaster.quality.material import Material

Check = Callable[[Material], Iterable[Finding]]
checks: Registry[Check] = Registry("data check")
"""Name -> function that looks at the material; a plug-in registers further ones in the same way."""
