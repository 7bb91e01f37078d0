"""Which loss is meant, and whether it can do its work: checked with a few random numbers before a model is read.

A loss is a function or an nn.Module, registered or in a file of the user's. The names of its arguments say what it
wants (`OFFERED`). How it adds up (one value for each target or pair, their mean, their sum, or all together) and what a
label of 1 means to it are not asked of the user but of the loss itself.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oleaster.core.errors import ConfigError, collect, near_names
from oleaster.core.plugins import load_file, place_in
from oleaster.training import pair_losses, token_losses  # noqa: F401  (enter the built-in losses)
from oleaster.training.losses import losses

Unit = Literal["token", "pair"]
OFFERED: dict[Unit, dict[str, tuple[str, ...]]] = {
    "token": {
        "logits": ("logits",),
        "targets": ("targets", "target", "labels", "label"),
        "teacher_logits": ("teacher_logits",),
    },
    "pair": {
        "output1": ("output1", "embedding1", "anchor"),
        "output2": ("output2", "embedding2", "positive"),
        "label": ("label", "labels", "target"),
        "similarity": ("similarity",),
        "distance": ("distance",),
    },
}
"""What a loss can be given -> the names of arguments that mean it.

token: logits [M, V] float32, targets [M] int64, teacher_logits [M, V]. pair: output1 and output2 [Q, C] float32, and
[Q] float32 from 0 to 1: similarity, distance = 1 - similarity, or label, which is whichever of the two the loss means.
"""
FIRST, SECOND = 2, 4
"""Targets or pairs of the two parts that a loss is tried on, apart and together."""


@dataclass(frozen=True)
class Criterion:
    """A loss that was tried and can be used."""

    name: str
    unit: Unit
    function: Callable[..., Tensor]
    takes: Mapping[str, str]
    """Argument -> what it is given, a key of `OFFERED`."""
    adds: Literal["values", "mean", "sum", "together"] = "values"
    """The result: a value each, their mean, their sum; or one that is no sum over parts (the values too then)."""
    one_means: Literal["similar", "different"] = "similar"
    """What a `label` of 1 says of a pair."""
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __call__(self, given: Mapping[str, Tensor]) -> Tensor:
        """The result for what is `given` (keys of `OFFERED`), as the function gives it."""
        return self.function(**{name: given[what] for name, what in self.takes.items()})

    def total(self, given: Mapping[str, Tensor], count: int) -> Tensor:
        """The sum over `count` targets or pairs, scalar."""
        found = self(given)
        if found.ndim:
            return found.sum()
        return found if self.adds == "sum" else found * count

    def labels(self, similarity: Tensor) -> dict[str, Tensor]:
        """What can be said about pairs so alike."""
        label = similarity if self.one_means == "similar" else 1.0 - similarity
        return {"similarity": similarity, "distance": 1.0 - similarity, "label": label}


def read_criterion(name: str, options: Sequence[str] | None, unit: Unit, width: int) -> Criterion:
    """Find the loss, check its arguments, try it.

    Args:
        name: a registered name, or `file.py:name`.
        options: `argument=value` for arguments that are not offered.
        width: numbers in a logit row or an embedding.

    Raises: ConfigError: there is none, its arguments cannot be filled, it has parameters of its own, or it fails.
    """
    found = _find(name)
    function = _with_options(name, found, _read_options(options or ()))
    takes = _match(name, function, unit)
    return _tried(Criterion(name, unit, function, takes), width)


def _find(name: str) -> Any:
    path, colon, attribute = name.rpartition(":")
    if not colon:
        try:
            return losses.get(name)
        except ConfigError as error:
            raise ConfigError(error.message, where="loss", remedy=f"{error.remedy} Or file.py:name") from None
    module = load_file(Path(path))
    if not callable(getattr(module, attribute, None)):
        known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise ConfigError(f"there is no '{attribute}' in it", where=path, remedy=near_names(attribute, known))
    return getattr(module, attribute)


def _read_options(words: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is not of the form name=value", where="loss_options", remedy="margin=0.5")
        try:
            options[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            options[name.strip()] = text.strip()
    return options


def _with_options(name: str, found: Any, options: dict[str, Any]) -> Callable[..., Tensor]:
    """The function to be called: a class is made an instance with the options, a function is given them."""
    if isinstance(found, type):
        _refuse_unknown(name, inspect.signature(found), options)
        try:
            found = found(**options)
        except Exception as error:  # foreign code may raise anything
            raise _failed(name, error, "cannot be made") from error
    elif options:
        _refuse_unknown(name, inspect.signature(found), options)
        found = partial(found, **options)
    if isinstance(found, nn.Module) and any(True for _ in found.parameters()):
        message = f"the loss '{name}' has parameters of its own; they would not be trained"
        raise ConfigError(message, where="loss", remedy="make them plain numbers or buffers")
    return found


def _refuse_unknown(name: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    unknown = [option for option in options if option not in signature.parameters]
    collect(
        [
            ConfigError(
                f"the loss '{name}' has no argument '{option}'",
                where="loss_options",
                remedy=near_names(option, signature.parameters),
            )
            for option in unknown
        ]
    )


def _match(name: str, function: Callable[..., Any], unit: Unit) -> dict[str, str]:
    """Argument -> what it is given. Raises: ConfigError that names every argument which nothing can fill."""
    call = function.forward if isinstance(function, nn.Module) else function
    meant = {alias: what for what, aliases in OFFERED[unit].items() for alias in aliases}
    takes, missing = {}, []
    for parameter in inspect.signature(call).parameters.values():
        if parameter.name in meant:
            takes[parameter.name] = meant[parameter.name]
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            missing.append(parameter.name)
    other: Unit = "pair" if unit == "token" else "token"
    elsewhere = {alias for aliases in OFFERED[other].values() for alias in aliases}
    if missing:
        offered = ", ".join(names[0] for names in OFFERED[unit].values())
        remedy = f"a loss of {unit}s is given {offered}; other arguments come from --loss_options, or have a default"
        if set(missing) <= elsewhere:
            remedy = "it is a loss of pairs: --task embedding" if other == "pair" else "it is no loss of pairs"
        raise ConfigError(f"the loss '{name}' wants {', '.join(missing)}", where="loss", remedy=remedy)
    needed = ("logits",) if unit == "token" else ("output1", "output2")
    if absent := [what for what in needed if what not in takes.values()]:
        raise ConfigError(
            f"the loss '{name}' does not take {' and '.join(absent)}: nothing would be learned", where="loss"
        )
    return takes


def _tried(criterion: Criterion, width: int) -> Criterion:
    """The same, with what trying it on a few random numbers tells."""
    generator = torch.Generator().manual_seed(0)
    count = FIRST + SECOND

    def numbers() -> Tensor:
        return torch.randn(count, width, generator=generator, requires_grad=True)

    if criterion.unit == "token":
        targets = torch.randint(width, (count,), generator=generator)
        given = {"logits": numbers(), "targets": targets, "teacher_logits": numbers().detach()}
    else:
        criterion = _asked_about_labels(criterion, width, generator)
        alike = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
        given = {"output1": numbers(), "output2": numbers(), **criterion.labels(alike)}
    whole = _call(criterion, given)
    _check_result(criterion, whole, given["logits" if criterion.unit == "token" else "output1"], count)
    parts = [_call(criterion, {k: v[piece] for k, v in given.items()}) for piece in (slice(FIRST), slice(FIRST, None))]
    adds = _how_it_adds(whole.detach(), [part.detach() for part in parts])
    notes = criterion.notes
    if adds == "together" and criterion.name not in losses:
        notes += (
            f"the loss '{criterion.name}' is no sum over its {criterion.unit}s: another batch size or accumulation is "
            "another training",
        )
    return replace(criterion, adds=adds, notes=notes)


def _call(criterion: Criterion, given: Mapping[str, Tensor]) -> Tensor:
    try:
        return criterion(given)
    except Exception as error:  # foreign code may raise anything
        what = ", ".join(f"{name} {list(given[what].shape)}" for name, what in criterion.takes.items())
        raise _failed(criterion.name, error, f"cannot be computed of {what}") from error


def _check_result(criterion: Criterion, found: Any, learned: Tensor, count: int) -> None:
    def wrong(message: str) -> ConfigError:
        remedy = "return a scalar (the mean), or one value for each of them, as a float tensor"
        return ConfigError(f"the loss '{criterion.name}' {message}", where="loss", remedy=remedy)

    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise wrong(f"returns {type(found).__name__ if not isinstance(found, Tensor) else found.dtype}, no numbers")
    if tuple(found.shape) not in ((), (count,)):
        raise wrong(f"returns numbers of shape {list(found.shape)} for {count} {criterion.unit}s")
    gradient = None
    if found.requires_grad:
        (gradient,) = torch.autograd.grad(found.sum(), learned, allow_unused=True, retain_graph=True)
    if gradient is None:
        raise wrong("gives no gradient: it must be computed with torch from what it is given")


def _how_it_adds(whole: Tensor, parts: Sequence[Tensor]) -> Literal["values", "mean", "sum", "together"]:
    first, second = parts
    if whole.ndim:
        return "values" if torch.allclose(whole, torch.cat(list(parts)), rtol=1e-4, atol=1e-6) else "together"
    mean = (FIRST * first + SECOND * second) / (FIRST + SECOND)
    if torch.allclose(whole, mean, rtol=1e-4, atol=1e-6):
        return "mean"
    return "sum" if torch.allclose(whole, first + second, rtol=1e-4, atol=1e-6) else "together"


def _asked_about_labels(criterion: Criterion, width: int, generator: torch.Generator) -> Criterion:
    """Two equal texts must cost less under the label that calls them alike: so a loss tells which one that is."""
    argument = next((name for name, what in criterion.takes.items() if what == "label"), None)
    if argument is None:
        return criterion
    same = torch.randn(FIRST + SECOND, width, generator=generator)
    rest = {"output1": same, "output2": same, "similarity": torch.ones(len(same)), "distance": torch.zeros(len(same))}
    cost = [float(_call(criterion, {**rest, "label": torch.full((len(same),), v)}).sum()) for v in (0.0, 1.0)]
    if abs(cost[0] - cost[1]) < 1e-5 * (abs(cost[0]) + abs(cost[1]) + 1e-3):
        message = f"the loss '{criterion.name}' does not show what a {argument} of 1 means: equal texts cost the same"
        remedy = "call the argument similarity (1 = alike) or distance (1 = different)"
        raise ConfigError(message, where="loss", remedy=remedy)
    means: Literal["similar", "different"] = "different" if cost[1] > cost[0] else "similar"
    note = f"a {argument} of 1 means '{means}' to the loss '{criterion.name}' (found by trying it); it is given that"
    return replace(criterion, one_means=means, notes=(*criterion.notes, note))


def _failed(name: str, error: Exception, what: str) -> ConfigError:
    path = Path(name.rpartition(":")[0]).resolve() if ":" in name else None
    where = place_in(error, path) if path else "loss"
    return ConfigError(f"the loss '{name}' {what}: {type(error).__name__}: {error}", where=where)
