"""`oleaster watch`: runs as they go, in the terminal or in a page on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag
from oleaster.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from oleaster.reporting.live import Watched

RUNS = Flag("runs", "Folders of runs, side by side.", "list")
PORT = 6066
_PAUSE = 1.0
"""Seconds between two looks."""
_WIDTH, _NAMES = 36, 18
"""Characters of a curve where there is room, and of the column that names the figures."""
_BLOCKS = "▁▂▃▄▅▆▇█"


def command() -> Command:
    """What `watch` takes."""
    return Command(
        name="watch",
        summary="Show runs as they go: losses, learning rate, gradient norm, speed, memory, processor, alerts.",
        usage=("oleaster watch RUN", "oleaster watch --runs RUN,RUN [--serve]"),
        run=run,
        words=(RUNS,),
        own=(
            RUNS,
            Flag("serve", "Show them in a page on this machine instead of the terminal.", "switch", False),
            Flag("port", "Of the page; 0 = a free one.", "integer", PORT),
            Flag("once", "Show them as they are now and end.", "switch", False),
        ),
    )


def run(given: Given) -> int:
    """Look again and again until all runs are done (the page: until Ctrl-C)."""
    given.require(runs=("the runs", "runs/first"))
    names = given.own["runs"]

    from rich.console import Console

    from oleaster.reporting.live import Watched

    watched, console = [Watched.open(Path(name)) for name in names], Console()
    if given.own["serve"]:
        return _serve(console, watched, given.own["port"])
    if given.own["once"] or not console.is_terminal:
        console.print(view(watched, console.width), soft_wrap=False)
        return 0
    return _follow(console, watched)


def view(watched: Sequence[Watched], width: int) -> RenderableType:
    """A column per run: figures of now, curves, alerts; `width`: of the terminal, in characters."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    now = [one.now() for one in watched]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for one, state in zip(watched, now, strict=True):
        table.add_column(Text(f"{one.name} ({state.state})"))
    for name in dict.fromkeys(name for state in now for name, _ in state.figures):
        table.add_row(name, *(Text(dict(state.figures).get(name, "")) for state in now))
    for title, lines in _curves(watched, max(1, min(_WIDTH, (width - _NAMES) // len(watched) - 2))):
        table.add_row(title, *(Text(line) for line in lines))
    alerts = [
        Text(f"{one.name}, step {notice.step}: {notice.text}", style="yellow")
        for one, state in zip(watched, now, strict=True)
        for notice in state.alerts
    ]
    return Group(table, *alerts)


def _curves(watched: Sequence[Watched], width: int) -> list[tuple[str, list[str]]]:
    from oleaster.reporting.live import CURVES

    found = [
        (title.lower(), [sparkline([figure(report) for report in one.history.steps], width) for one in watched])
        for title, (_, figure, _) in CURVES.items()
    ]
    held = [sparkline([report.eval_loss for report in one.history.evals], width) for one in watched]
    return [*found[:1], ("validation loss", held), *found[1:]]


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of the values from their lowest to their highest, the newest at the right.

    Each character is the mean of a stretch; what is no number leaves a gap.
    """
    size = max(1, math.ceil(len(values) / width))
    means = []
    for start in range(0, len(values), size):
        good = [value for value in values[start : start + size] if math.isfinite(value)]
        means.append(sum(good) / len(good) if good else math.nan)
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)

    def block(mean: float) -> str:
        if not math.isfinite(mean):
            return " "
        return _BLOCKS[round((len(_BLOCKS) - 1) * (mean - low) / span)] if span else _BLOCKS[0]

    return "".join(map(block, means))


def _follow(console: Console, watched: Sequence[Watched]) -> int:
    from rich.live import Live

    with Live(view(watched, console.width), console=console, auto_refresh=False) as live:
        while not all(one.is_done for one in watched):
            time.sleep(_PAUSE)
            for one in watched:
                one.history.read_on()
            live.update(view(watched, console.width), refresh=True)
    return 0


def _serve(console: Console, watched: Sequence[Watched], port: int) -> int:
    from oleaster.reporting.live import HOST, make_server

    try:
        server = make_server(watched, port)
    except OSError as error:
        found = f"port {port} cannot be used ({error.strerror})"
        raise ConfigError(found, where="--port", remedy="--port 0 takes a free one") from error
    with server:
        console.print(f"http://{HOST}:{server.server_address[1]}/ until Ctrl-C", markup=False, highlight=False)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
