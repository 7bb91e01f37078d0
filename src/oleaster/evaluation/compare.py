"""Is one model better than another, or were the rows too few to tell?"""

from __future__ import annotations

from oleaster.core.errors import DataError
from oleaster.evaluation.figures import tallies
from oleaster.evaluation.intervals import Difference, differences
from oleaster.evaluation.metrics import metrics as registry
from oleaster.evaluation.report import Report, Row
from oleaster.evaluation.tally import Tally

PER_TOKEN = ("loss", "perplexity", "token_accuracy")


def compare(first: Report, second: Report) -> dict[str, Difference]:
    """The second report against the first, metric by metric, on the same rows.

    Figures per token are left out where the two tokenizers cut the rows differently: they are not comparable.

    Raises:
        DataError: the reports are about different rows, or were made without keeping them.
    """
    pairs = pair_rows(first, second)
    labels = sorted({*first.labels, *second.labels})
    both = [name.partition("[")[0] for name in first.metrics if name in second.metrics]
    names = [name for name in dict.fromkeys(both) if name in registry]
    a, b = (tallies(rows, labels, names) for rows in zip(*pairs, strict=True))
    same_tokens = all(x.targets == y.targets for x, y in pairs)
    shared: dict[str, tuple[Tally, Tally]] = {}
    for name in a:
        one, other = a[name], b.get(name)
        if not (isinstance(one, Tally) and isinstance(other, Tally) and len(one.rows) == len(other.rows)):
            continue
        if same_tokens or name not in PER_TOKEN:
            shared[name] = one, other
    return differences(*({name: pair[side] for name, pair in shared.items()} for side in (0, 1)))


def pair_rows(first: Report, second: Report) -> list[tuple[Row, Row]]:
    """Rows of both reports in pairs, matched by source and reference. Raises: DataError as `compare`."""
    if not first.rows or not second.rows:
        raise DataError("a report without its rows cannot be compared", remedy="evaluate with an output folder")
    others = {(row.source, row.reference): row for row in second.rows}
    pairs = [(row, others[row.source, row.reference]) for row in first.rows if (row.source, row.reference) in others]
    if not len(pairs) == len(first.rows) == len(second.rows):
        raise DataError(
            f"{len(first.rows)} rows against {len(second.rows)}, {len(pairs)} of them the same",
            where=f"{first.model} and {second.model}",
            remedy="evaluate both models on the same rows",
        )
    return pairs
