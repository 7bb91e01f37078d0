"""`oleaster unblind`: filled sheets read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

if TYPE_CHECKING:
    from oleaster.evaluation.judging import Judgement

FOLDER = Flag("sheet_path", "Folder that `oleaster sheet` made.", "path")
_RELIABLE, _HARDLY = 0.8, 0.667
"""Krippendorff's own marks for alpha: below the second, no conclusions."""


def command() -> Command:
    """What `unblind` takes."""
    return Command(
        name="unblind",
        summary=(
            "Read the filled sheets of a blind comparison back: which model was preferred, whether that is more than\n"
            "chance, and whether the judges agree."
        ),
        usage=("oleaster unblind FOLDER [--filled anna.csv,ben.csv]",),
        run=run,
        words=(FOLDER,),
        own=(FOLDER, Flag("filled", "Filled sheets. [all .csv files in the folder but sheet.csv]", "list")),
    )


def run(given: Given) -> int:
    """Print the judgement."""
    given.require(sheet_path=("the folder of the sheet", "sheet"))
    folder = given.own["sheet_path"]

    from oleaster.evaluation.judging import unblind
    from oleaster.evaluation.sheet import TABLE

    named = [Path(path) for path in given.own["filled"] or ()]
    print_judgement(unblind(folder, named or sorted(set(folder.glob("*.csv")) - {folder / TABLE})))
    return 0


def print_judgement(found: Judgement) -> None:
    """The verdict first, then what it rests on."""
    from oleaster.cli.tables import print_pairs

    ties = found.rows - found.wins_first - found.wins_second
    print(f"second is {found.advice} (sign test, p = {found.p_value:.2g})\n")
    decided = "none"
    if found.share is not None:
        share = found.wins_second / (found.wins_first + found.wins_second)
        decided = f"{share:.0%} for the second [{found.share.low:.0%}, {found.share.high:.0%}]"
    votes = ", ".join(f"{name} {found.votes.get(name, 0)}" for name in ("first", "second", "same", "neither"))
    print_pairs(
        [
            ("first", f"{found.first}: won {found.wins_first} of {found.rows} rows"),
            ("second", f"{found.second}: won {found.wins_second}"),
            ("ties", f"{ties}, and {found.same} rows with equal answers that were no part of the sheet"),
            ("decided rows", decided),
            ("votes", votes),
            ("judges", ", ".join(found.judges)),
            ("agreement", agreement(found)),
            *((f"  {one} and {other}", f"Cohen's kappa {kappa:.2f}") for (one, other), kappa in found.kappas.items()),
            ("side", side(found)),
        ]
    )


def agreement(found: Judgement) -> str:
    """Krippendorff's alpha in words."""
    alpha = found.agreement
    if alpha is None:
        return "one judge" if len(found.judges) == 1 else "cannot be said: no two judges differ on rows in common"
    words = "good" if alpha >= _RELIABLE else "fair" if alpha >= _HARDLY else "poor: the verdict rests on taste"
    return f"Krippendorff's alpha {alpha:.2f} ({words})"


def side(found: Judgement) -> str:
    """Was A chosen more often than B?"""
    odd = " - more than chance: some judge chose by side" if found.left_p_value < 0.05 else ""
    return f"A was preferred in {found.left_share:.0%} of the choices (p = {found.left_p_value:.2g}){odd}"
