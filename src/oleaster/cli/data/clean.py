"""`oleaster data clean`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from oleaster.cli.data.rows import FILE, RECIPE, TITLES, new_file, settings_of, shape_flags
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

OUTPUT = Flag("output", "File to write (.jsonl); the list of changes stands beside it.", "path", short="o")


def command() -> Command:
    """What `data clean` takes."""
    return Command(
        name="data clean",
        summary=(
            "Write a cleaned copy of a file, never in place. Every change stands in FILE.changes.jsonl, with the text\n"
            "before and after, and `oleaster data undo` goes back. Done always: unreadable, encoding, invisible,\n"
            "whitespace, label_spellings, unusable, empty_prompts, duplicates (docs/data.md says what each does)."
        ),
        usage=("oleaster data clean FILE -o CLEANED.jsonl [--also FIXES] [--against FILES] [flags]",),
        run=run,
        words=(FILE,),
        own=(
            FILE,
            OUTPUT,
            RECIPE,
            Flag(
                "also",
                "Further fixes: conflicts, near_duplicates, control_tokens, markup, personal_data.",
                "list",
            ),
            Flag("without", "Fixes that are not to be made.", "list"),
            Flag("against", "Other parts (a test set): rows that stand in them are left out.", "list"),
        ),
        settings=shape_flags(),
        titles=TITLES,
    )


def run(given: Given) -> int:
    """Clean; print what was done how often."""
    own = given.own
    given.require(file=("the file to clean", "rows.jsonl"), output=("the file to write", "-o cleaned.jsonl"))
    output = new_file(given)
    config = settings_of(given)

    from oleaster import pipeline
    from oleaster.cli.tables import print_pairs

    lists = (own["also"] or (), own["without"] or (), own["against"] or ())
    done = pipeline.clean_data(Path(own["file"]), output, config, *lists)
    print_pairs([(fix, f"{count:,} lines") for fix, count in done.fixes.items()] or [("nothing", "to do")], "fixes")
    counts = f"{done.kept:,} kept, {done.changed:,} of them changed; {done.dropped:,} left out"
    print_pairs([("rows", counts), ("copy", str(done.output)), ("changes", str(done.log))], "made")
    print(f"back: oleaster data undo {quote(str(done.output))} -o FILE")
    return 0
