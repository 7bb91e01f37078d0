"""Many bad rows, one error."""

from __future__ import annotations

from collections.abc import Sequence

from oleaster.core.errors import DataError

SHOWN = 10
"""Different faults that are printed in full; the rest is counted."""


def raise_faults(faults: Sequence[DataError]) -> None:
    """Raise all `faults` as one DataError; do nothing when there are none.

    The same fault in many rows is told once, with its first row and the number of the others.
    """
    if len(faults) == 1:
        raise faults[0]
    if not faults:
        return
    alike: dict[str, list[DataError]] = {}
    for fault in faults:
        alike.setdefault(fault.message, []).append(fault)
    lines = [f"- {same[0]}" + (f"  (and {len(same) - 1} more like it)" if same[1:] else "") for same in alike.values()]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"- and {sum(map(len, list(alike.values())[SHOWN:]))} more"]
    raise DataError(f"{len(faults)} problems in the data\n" + "\n".join(lines))
