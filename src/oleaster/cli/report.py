"""`oleaster report`."""

from __future__ import annotations

from pathlib import Path

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag

FOLDER = Flag("path", "Folder that finetune, auto-opt, run or search made.", "path")


def command() -> Command:
    """What `report` takes."""
    return Command(
        name="report",
        summary=(
            "Tell a run, an artifact or a search as one HTML file that needs no network: scores, curves, mistakes,\n"
            "what a diagnosis found, recipe; of a search its history, what mattered, all trials."
        ),
        usage=(
            "oleaster report RUN [--artifact ARTIFACT] [-o FILE.html]",
            "oleaster report ARTIFACT [--run RUN]",
            "oleaster report SEARCH",
        ),
        run=run,
        words=(FOLDER,),
        own=(
            FOLDER,
            Flag("artifact", "Exports of the run, to be told as well.", "list"),
            Flag("run", "Run behind an artifact. [the folder that its recipe names]", "path"),
            Flag("evaluation", "Further folders that evaluate --output wrote. [RUN/predictions]", "list"),
            Flag(
                "output",
                "The file. [report.html in the folder of a run or search, else NAME.html here]",
                "path",
                short="o",
            ),
        ),
    )


def run(given: Given) -> int:
    """Read the folder, write the page."""
    given.require(path=("the folder to tell about", "runs/first"))
    path = given.own["path"]

    from oleaster.core.files import atomic_write_text

    page, beside = _told(given, path)
    target = given.own["output"] or beside
    atomic_write_text(target, page)
    print(f"{target}: open it in a browser, or send it; it needs no other file")
    return 0


def _told(given: Given, path: Path) -> tuple[str, Path]:
    """The page, and where it goes when nothing else is said."""
    from oleaster.reporting.page import render
    from oleaster.reporting.search_page import render_search
    from oleaster.reporting.story import read_story
    from oleaster.search.folder import REPORT, is_search

    if is_search(path):
        from oleaster.pipeline import read_search

        return render_search(read_search(path)), path / REPORT
    extra = [Path(name) for name in given.own["artifact"] or ()], [Path(name) for name in given.own["evaluation"] or ()]
    story = read_story(path, given.own["run"], *extra)
    # An artifact's manifest names all its files: nothing may be added to its folder.
    inside = story.run is not None and story.run.folder == path
    return render(story), path / REPORT if inside else Path(f"{path.resolve().name}.html")
