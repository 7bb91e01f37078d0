"""`oleaster report`."""

from __future__ import annotations

from pathlib import Path

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag
from oleaster.core.errors import ConfigError

FOLDER = Flag("path", "Folder that finetune, auto-opt or run made.", "path")


def command() -> Command:
    """What `report` takes."""
    return Command(
        name="report",
        summary="Tell a run or an artifact as one HTML file that needs no network: scores, curves, mistakes, recipe.",
        usage=("oleaster report RUN [--artifact ARTIFACT] [-o FILE.html]", "oleaster report ARTIFACT [--run RUN]"),
        run=run,
        words=(FOLDER,),
        own=(
            FOLDER,
            Flag("artifact", "Exports of the run, to be told as well.", "list"),
            Flag("run", "Run behind an artifact. [the folder that its recipe names]", "path"),
            Flag("evaluation", "Further folders that evaluate --output wrote. [RUN/predictions]", "list"),
            Flag("output", "The file. [report.html in the folder of a run, else NAME.html here]", "path", short="o"),
        ),
    )


def run(given: Given) -> int:
    """Read the folder, write the page."""
    path = given.own["path"]
    if path is None:
        raise ConfigError("not given: the folder to tell about", remedy=f"{given.command} runs/first")

    from oleaster.core.files import atomic_write_text
    from oleaster.reporting.page import render
    from oleaster.reporting.story import read_story

    extra = [Path(name) for name in given.own["artifact"] or ()], [Path(name) for name in given.own["evaluation"] or ()]
    story = read_story(path, given.own["run"], *extra)
    # An artifact's manifest names all its files: nothing may be added to its folder.
    beside = path / "report.html" if story.run and story.run.folder == path else Path(f"{path.resolve().name}.html")
    target = given.own["output"] or beside
    atomic_write_text(target, render(story))
    print(f"{target}: open it in a browser, or send it; it needs no other file")
    return 0
