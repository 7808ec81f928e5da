"""How the queries of a pass are arranged: known before the forward pass, asked by everybody."""

from dataclasses import dataclass

import numpy as np

Pairs = tuple[np.ndarray, np.ndarray]  # of one image: queries and their targets, int64


@dataclass(frozen=True, eq=False)
class Layout:
    """`groups` groups of `queries` queries, one after another, then `extra` ones.

    Each group is matched to all targets by itself. Extra queries are judged by given matches alone.

    Attributes:
        queries: Q, of one group.
        groups: K.
        extra: E, the most extra queries that any image of the pass needs.
        given: per image its matches of extra queries, counted among all Q' queries; None in a mode
            that gives none.
    """

    queries: int
    groups: int = 1
    extra: int = 0
    given: tuple[Pairs, ...] | None = None

    def __eq__(self, other: object) -> bool:
        """By value, the arrays of `given` too."""
        return isinstance(other, Layout) and self._plain() == other._plain()

    def _plain(self) -> tuple:
        pairs = self.given and [[side.tolist() for side in pair] for pair in self.given]
        return self.queries, self.groups, self.extra, pairs

    @property
    def matched(self) -> int:
        """Queries that are matched, K·Q."""
        return self.groups * self.queries

    @property
    def total(self) -> int:
        """All queries of the pass, Q' = K·Q + E."""
        return self.matched + self.extra

    @property
    def num_given(self) -> int:
        """Given pairs of all images."""
        return sum(len(queries) for queries, _ in self.given or ())
