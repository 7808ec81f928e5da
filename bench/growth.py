"""How the time of a training step grows with image size, queries, boxes and batch.

    python bench/growth.py

The `coco` preset's step, float32, as bench/training_step.py takes it, on two images of 480×640 with
100 queries and seven boxes each; one of the four is changed at a time. Least time of two rounds, in
which all of one kind take a step in turn. `make bench` draws growth.png from the table.
"""

from dataclasses import replace

import peers
from tables import Row
from timing import Findings, Options, in_turns, main

from detrnb.settings import Config

SIZE, QUERIES = (480, 640), 100
ROUNDS = 2  # of each kind
AXES = {
    "image, pixels": ((240, 320), (360, 480), (480, 640), (600, 800), (800, 1088)),
    "queries": (25, 100, 300, 900),
    "boxes an image": (1, 30, 300),
    "images a batch": (1, 2, 4),
}


def steps_along(axis: str) -> dict:
    """The steps of an axis by what they are of."""
    steps = {}
    base = None if axis == "queries" else peers.ours()
    for value in AXES[axis]:
        size = value if axis == "image, pixels" else SIZE
        images = value if axis == "images a batch" else len(peers.SIZES)
        boxes = value if axis == "boxes an image" else peers.BOXES
        at = size[0] * size[1] if axis == "image, pixels" else value
        peer = base or peers.ours(with_queries(value))
        steps[at] = peer.step(peers.batch((size,) * images, boxes))
    return steps


def with_queries(count: int) -> Config:
    """The preset with another number of queries."""
    return Config.preset("coco", overrides={"model.num_queries": count})


def results(options: Options) -> Findings:
    """Milliseconds of a step along each axis."""
    found = Findings()
    options = replace(options, rounds=options.rounds or ROUNDS)
    rows: list[Row] = []
    for axis in AXES:
        with found.leaving_out(axis):
            times = in_turns(steps_along(axis), options)
            rows += [
                {"what grows": axis, "to": at, "ms": 1e3 * float(t.min())}
                for at, t in times.items()
            ]
    found.tables["A step"] = rows
    return found


if __name__ == "__main__":
    main(__doc__, results)
