"""What rows begin with in common."""

from hypothesis import given
from hypothesis import strategies as st

from oleaster.data.prefix import common_prefix

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=6), min_size=1, max_size=5)


@given(ROWS, st.integers(-1, 4))
def test_it_is_the_longest_beginning_of_all_within_the_limit(rows, limit):
    found = common_prefix(rows, limit)
    fitting = [n for n in range(max(limit, 0) + 1) if all(row[:n] == rows[0][:n] for row in rows)]
    assert found == fitting[-1]
