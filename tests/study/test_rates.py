"""Rates are tried outwards while the best lies at an edge."""

import pytest

from detrnb.study.rates import chosen, further


def test_all_are_tried_before_any_further():
    assert further({}) == [0.5, 1.0, 2.0]
    assert further({1.0: 0.3}) == [0.5, 2.0]


@pytest.mark.parametrize(
    "reached, next_",
    [
        ({0.5: 0.1, 1.0: 0.3, 2.0: 0.2}, []),
        ({0.5: 0.4, 1.0: 0.3, 2.0: 0.2}, [0.25]),
        ({0.5: 0.1, 1.0: 0.3, 2.0: 0.4}, [4.0]),
        ({0.5: 0.1, 1.0: 0.3, 2.0: 0.4, 4.0: 0.0}, []),  # 4 diverged
    ],
)
def test_the_best_lies_between_two_others_in_the_end(reached, next_):
    assert further(reached) == next_


@pytest.mark.parametrize("grows", [1, -1])
def test_what_gets_better_for_ever_is_refused(grows):
    reached = {}
    with pytest.raises(ValueError, match="still at the edge.*does it train at all"):
        while factors := further(reached):
            reached |= {factor: factor**grows for factor in factors}


def test_what_never_trains_ends_too():
    assert further({0.5: 0.0, 1.0: 0.0, 2.0: 0.0, 0.25: 0.0}) == []


def test_the_best_mean_is_chosen():
    assert chosen({0.5: 0.1, 1.0: 0.3, 2.0: 0.2}) == 1.0
