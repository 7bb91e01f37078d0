"""What can be said of a recipe before any weights are read: what is wrong in rows and model, what it would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import oleaster.pipeline.steps  # noqa: F401  its passes enter the registry
from oleaster.config.load import lay_over, replace
from oleaster.config.schema import Config
from oleaster.core.errors import MissingExtraError, UserError
from oleaster.pipeline.needs import is_here, needs_of
from oleaster.pipeline.passes import CheckedStep, check_step, steps_of

Pairs = list[tuple[str, str]]


@dataclass
class Outlook:
    """What was found."""

    problems: list[UserError] = field(default_factory=list)
    steps: list[tuple[str, Pairs]] = field(default_factory=list)
    """Step -> (what, how much)."""

    def attempt(self, work: Callable[[], Pairs]) -> Pairs:
        """What `work` says; what it raises becomes a problem, once."""
        try:
            return work()
        except UserError as error:
            if str(error) not in map(str, self.problems):
                self.problems.append(error)
            return []


def look_ahead(config: Config, rows_only: bool = False) -> Outlook:
    """Read the rows, look at the model's shapes and the machine, step by step; nothing is written or fetched.

    Args:
        rows_only: for a recipe whose settings are wrong elsewhere: the rows can be looked at all the same.
    """
    found = Outlook()
    steps = [step for step in (check_step(step)[0] for step in steps_of(config)) if step is not None]
    for step in steps:
        found.steps.append((step.name, found.attempt(_looker(step, config, rows_only))))
    if not any("data" in step.traits.reads for step in steps):
        found.attempt(lambda: _rows(config))
    for need in needs_of(config):
        if need.packages:
            remedy = f"{need.command}\n     or oleaster run ... --setup"
            found.problems.append(MissingExtraError(f"not installed: {need.what}", remedy=remedy))
        else:
            found.steps.append(("not here yet", [("download", f"{need.what}; its shape is not known before")]))
    return found


def _looker(step: CheckedStep, config: Config, rows_only: bool) -> Callable[[], Pairs]:
    from oleaster.exporting.options import check_hardware

    def look() -> Pairs:
        own = lay_over(config, step.leaves)
        if step.traits.makes == "adapter":
            return _rows(own) if rows_only or not _model_is_here(own) else _training(own, step.name)
        if step.traits.makes == "artifact" and not rows_only:
            check_hardware(own.export)
            return [("precision", own.export.precision), ("provider", own.export.provider)]
        return [(name, str(value)) for name, value in ({**step.leaves, **step.arguments}).items()]

    return look


def _training(config: Config, name: str) -> Pairs:
    from oleaster.pipeline.search_plan import plan_search
    from oleaster.pipeline.tuning import plan

    output = config.output_path / name if config.output_path else None
    pairs = [pair for pair in plan(replace(config, output_path=output)).rows() if pair[0] != "output"]
    if config.search_space:
        dimensions, objectives = plan_search(config)
        pairs.append(("searched", ", ".join(dimension.name for dimension in dimensions)))
        pairs.append(("best by", ", ".join(objective.name for objective in objectives)))
    return pairs


def _rows(config: Config) -> Pairs:
    from oleaster.data.prepare import prepare

    rows = prepare(config.data, config.seed)
    notes = [("note", note) for note in rows.notes]
    return [("rows", f"{len(rows.train):,} training, {len(rows.validation):,} validation"), *notes]


def _model_is_here(config: Config) -> bool:
    return is_here(config.model.model_name_or_path or "")
