"""`oleaster init`: a first recipe for rows, with the reason beside each setting."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag
from oleaster.core.errors import ConfigError

ROWS = Flag("data", "File, folder or hub data set with the rows.", aliases=("data_name",))


def command() -> Command:
    """What `init` takes."""
    return Command(
        name="init",
        summary="Look at rows and write a recipe for them, with a reason for each setting.",
        usage=("oleaster init ROWS [-m MODEL] [-o RECIPE.yaml]",),
        run=run,
        words=(ROWS,),
        own=(
            ROWS,
            Flag("model_name_or_path", "Base model; its tokenizer counts when it is on this machine.", short="m"),
            Flag("output", "Recipe to write; - = to the screen.", default="recipe.yaml", short="o"),
        ),
    )


def run(given: Given) -> int:
    """Write the recipe, say what was seen and what comes next."""
    given.require(data=("the rows", "rows.jsonl"))
    rows, output = given.own["data"], given.own["output"]
    path = Path(output)
    if output != "-" and path.exists():
        raise ConfigError("the file is there already", where=output, remedy="name another one: -o other.yaml")

    from oleaster.core.files import atomic_write_text
    from oleaster.pipeline.drafting import draft

    made = draft(rows, given.own["model_name_or_path"])
    if output == "-":
        print(made.text, end="")
        return 0
    atomic_write_text(path, made.text)
    for note in made.notes:
        print(note)
    print(f"written: {output}\nnext: oleaster check {quote(output)}, oleaster run {quote(output)}")
    return 0
