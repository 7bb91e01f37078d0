import pytest

from oleaster.core.errors import ConfigError
from oleaster.core.registry import Registry


def test_a_duplicate_is_refused_and_both_places_are_named() -> None:
    metrics: Registry[int] = Registry("metric")
    metrics.register("f1")(1)
    with pytest.raises(
        ConfigError, match=r"test_registry\.py:\d+: the metric 'f1' .* first at .*test_registry\.py:\d+"
    ):
        metrics.register("f1")(2)
    assert metrics.get("f1") == 1


def test_a_name_lent_for_a_block_is_free_again_after_it() -> None:
    metrics: Registry[int] = Registry("metric")
    metrics.register("f1")(1)
    with metrics.restored():
        metrics.register("mine")(2)
    assert list(metrics) == ["f1"]
    metrics.register("mine")(3)
    assert metrics.get("mine") == 3


def test_an_unknown_name_is_answered_with_the_near_one() -> None:
    metrics: Registry[int] = Registry("metric")
    metrics.register("accuracy")(1)
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        metrics.get("acuracy")
