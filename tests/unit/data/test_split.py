"""The held-out part is a partition, seeded, even over the labels, and shares no row with training."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from oleaster.data.papers import Example
from oleaster.data.split import find_labels, find_repeats, hold_out

fractions = st.floats(0.01, 0.9)


def ask(prompt: str, answer: str) -> Example:
    return Example(
        "here", messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}), target=answer
    )


@given(
    pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1),
    fraction=fractions,
    seed=st.integers(0, 9),
)
def test_a_partition_that_never_divides_repeats(pairs: list[tuple[int, int]], fraction: float, seed: int) -> None:
    examples = [ask(str(a), str(b)) for a, b in pairs]
    repeats = find_repeats(examples)
    train, held = hold_out(repeats.groups, None, fraction, seed)
    assert sorted(train + held) == list(range(len(pairs)))
    assert not {pairs[i] for i in train} & {pairs[i] for i in held}
    assert repeats.duplicated == len(pairs) - len(set(pairs))
    answers = Counter(a for a, _ in set(pairs))
    assert repeats.conflicting == sum(answers[a] > 1 for a, _ in pairs)
    assert (train, held) == hold_out(repeats.groups, None, fraction, seed)


@given(labels=st.lists(st.sampled_from("abcde"), min_size=1, max_size=80), fraction=fractions, seed=st.integers(0, 9))
def test_every_label_gives_its_share_and_stays_in_training(labels: list[str], fraction: float, seed: int) -> None:
    train, held = hold_out([[i] for i in range(len(labels))], labels, fraction, seed)
    total, given_away = Counter(labels), Counter(labels[i] for i in held)
    assert set(labels) == {labels[i] for i in train}
    assert all(abs(given_away[label] - total[label] * fraction) <= 1 for label in total)
    if min(total.values()) * (1 - fraction) > 1:
        assert len(held) == round(len(labels) * fraction)


def test_another_seed_holds_out_other_rows() -> None:
    groups = [[i] for i in range(200)]
    assert hold_out(groups, None, 0.1, 1) != hold_out(groups, None, 0.1, 2)


def test_labels_are_found_in_short_repeated_answers_only() -> None:
    assert find_labels([ask(str(i), "ab"[i % 2]) for i in range(20)]) == list("ab" * 10)
    assert find_labels([ask(str(i), str(i)) for i in range(20)]) is None
    assert find_labels([ask(str(i), "ab"[i % 2] * 100) for i in range(20)]) is None
    assert find_labels([ask(str(i), "same") for i in range(20)]) is None
