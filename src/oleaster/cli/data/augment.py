"""`oleaster data augment`."""

from __future__ import annotations

from oleaster.cli.data.rows import FILE, RECIPE, TITLES, new_file, settings_of, shape_flags
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag


def command() -> Command:
    """What `data augment` takes."""
    return Command(
        name="data augment",
        summary=(
            "Write the rows and further ones made of them that keep their labels. Made rows are marked in the columns\n"
            "augmented_by and augmented_from: finetune never validates on them, nor trains on those made from rows\n"
            "that are held out."
        ),
        usage=("oleaster data augment TRAIN.jsonl -o MORE.jsonl [--ways typos,paraphrase] [-m MODEL] [flags]",),
        run=run,
        words=(FILE,),
        own=(
            FILE,
            Flag("output", "File to write (.jsonl).", "path", short="o"),
            RECIPE,
            Flag(
                "ways",
                "typos; masking (words left out); paraphrase and back_generation by the model.",
                "list",
                ["typos"],
            ),
            Flag("copies", "Rows to make of each row, the ways in turn.", "integer", 1),
            Flag("up_to", "Instead: so many that each label has this many rows.", "integer"),
        ),
        settings=shape_flags("model_name_or_path", "revision", "dtype", "trust_remote_code", "num_threads"),
        titles={**TITLES, "training": "speed"},
    )


def run(given: Given) -> int:
    """Augment; print what was made and what was thrown away."""
    own = given.own
    given.require(file=("the training rows", "train.jsonl"), output=("the file to write", "-o more.jsonl"))
    output = new_file(given)
    config = settings_of(given)

    from oleaster import pipeline
    from oleaster.cli.tables import print_pairs

    done = pipeline.augment_data(own["file"], output, config, own["ways"], own["copies"], own["up_to"])
    print_pairs([(way, f"{count:,} rows") for way, count in done.made.items()] or [("nothing", "")], "made")
    if done.refused:
        print_pairs([(why, f"{count:,}") for why, count in done.refused.most_common()], "not taken")
    print(f"rows: {output}")
    return 0
