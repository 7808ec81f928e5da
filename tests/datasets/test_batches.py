"""Which images make a batch, for one process and for several."""

import numpy as np

from detrnb.datasets.batches import EvalBatches, TrainBatches


def steps(batches: TrainBatches, images_a_step: int) -> list[set[int]]:
    """The images of each step that a process sees."""
    flat = np.concatenate(list(batches)).reshape(-1, images_a_step)
    return [set(step) for step in flat.tolist()]


def test_order_depends_on_seed_and_epoch_alone():
    batches = TrainBatches(10, 5, seed=1)
    first = list(batches)
    batches.set_epoch(1)
    second = list(batches)
    batches.set_epoch(0)
    assert list(batches) == first != second
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(10))
    assert list(TrainBatches(10, 5, seed=2)) != first


def test_processes_and_passes_share_out_the_steps_of_one_process():
    alone = steps(TrainBatches(40, 12, seed=3), 12)
    parts = [TrainBatches(40, 2, seed=3, process=(i, 3), accumulate=2) for i in range(3)]
    assert [len(part) for part in parts] == [6, 6, 6]
    assert all(len(list(part)) == len(part) for part in parts)
    together = [set.union(*step) for step in zip(*(steps(p, 4) for p in parts), strict=True)]
    assert together == alone
    assert len(set.union(*alone)) == 36  # the four that fill no step are left out


def test_batches_by_aspect_are_alike_and_the_same_for_all_who_ask():
    aspects = np.random.default_rng(0).choice([0.66, 0.75, 1.0, 1.33, 1.5], 1000)
    plain = TrainBatches(1000, 4, seed=0)
    batches = TrainBatches(1000, 4, seed=0, aspects=aspects)
    batches.set_epoch(2)
    found = list(batches)
    assert sorted(sum(found, [])) == list(range(1000))
    mixed, alike = ([len(set(aspects[b])) > 1 for b in each] for each in (plain, found))
    assert np.mean(mixed) > 0.9 and np.mean(alike) < 0.1
    means = [aspects[batch].mean() for batch in found]
    assert means != sorted(means)  # no order among batches
    parts = [TrainBatches(1000, 4, seed=0, aspects=aspects, process=(i, 2)) for i in range(2)]
    for part in parts:
        part.set_epoch(2)
    assert [list(part) for part in parts] == [found[::2], found[1::2]]


def test_evaluation_gives_each_image_to_one_process_once():
    for length in (9, 12, 13, 16, 20):
        parts = [list(EvalBatches(length, 4, process=(i, 3))) for i in range(3)]
        assert sorted(sum(sum(parts, []), [])) == list(range(length))
        assert [len(EvalBatches(length, 4, process=(i, 3))) for i in range(3)] == [
            len(part) for part in parts
        ]
    assert list(EvalBatches(9, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert list(EvalBatches(9, 4, process=(1, 2))) == [[4, 5, 6, 7]]  # none of the last batch
