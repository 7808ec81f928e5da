"""What a log's numbers tell: recovered from logs simulated as the reference would write them."""

import numpy as np
import pytest
from runs_on_disk import JOURNAL, STUDY

from detrnb.compare.inference import (
    common_denominator,
    constant_rate,
    is_own,
    logs_as_reference,
    logs_backbones_rate,
    name_order,
    powers_of_two,
    splits_by_rounding,
    steps_by_rounding,
)
from detrnb.runs import read_log


def averages(steps, batch, processes=1, keys=6, last=None, seed=0):
    """Cardinality errors as logged: float32 means over batches and processes, a float64 mean.

    Args:
        last: size of the last batch, if smaller.
    """
    noise = np.random.default_rng(seed)
    own = batch // processes
    counts = noise.poisson(7.5 * own, (keys, steps, processes)).astype(np.float32)
    means = counts / np.float32(own)
    if last:
        means[:, -1] = noise.poisson(7.5 * last, (keys, processes)) / np.float32(last)
    reduced = means.sum(-1, dtype=np.float32) / np.float32(processes)
    totals = reduced.astype(np.float64).cumsum(axis=1)[:, -1]
    return (totals / steps).tolist()


def mean_rate(rate, steps, processes=1):
    total = np.full(steps, rate).cumsum()[-1]
    return float(np.full(processes, total).cumsum()[-1] / (steps * processes))


@pytest.mark.parametrize(
    ("steps", "batch", "processes"),
    [(3696, 32, 8), (14785, 8, 1), (59143, 2, 1), (375, 32, 1), (10, 16, 4), (57, 64, 2)],
)
def test_images_an_epoch_are_the_common_denominator(steps, batch, processes):
    found = common_denominator(averages(steps, batch, processes))
    assert found.value == steps * batch
    assert found.distinct == 6 and found.hidden < 0.02 and found.accident < 1e-20


def test_more_averages_leave_less_hidden():
    few, many = (common_denominator(averages(375, 32, keys=keys)) for keys in (3, 18))
    assert few.hidden == pytest.approx(0.202, abs=1e-3) and many.hidden < 4e-6


def test_one_average_gives_a_divisor_of_the_images():
    # Deformable-DETR's sigmoid takes every query for an object: all layers count the same.
    found = common_denominator([93.41684208746523] * 6)
    assert found.value == 118_287 and found.distinct == 1 and found.hidden == 1.0


@pytest.mark.parametrize(
    ("logged", "images"),
    [
        (  # facebookresearch/detr issue 527: COCO's 118,287 images in batches of 2
            [6.577557783676851, 6.577405610131376, 6.577566237762711, 6.577270344757621],
            118_286,
        ),
        (  # and issue 376, in batches of 4
            [6.5634151702681685, 6.566298062290758, 6.566763044875047, 6.566255791146731],
            118_284,
        ),
    ],
)
def test_images_of_published_logs_are_cocos(logged, images):
    assert common_denominator(logged).value == images


@pytest.mark.parametrize(
    "logged",
    [
        averages(1000, 6),  # float32 does not hold sixths
        averages(16, 32, last=20),  # nor twentieths
        [3.14159265358979, 7.123456789123456],
        [7.0, 8.0],
        [float("nan"), float("inf")],
        [],
    ],
)
def test_averages_that_are_no_small_fractions_tell_nothing(logged):
    assert common_denominator(logged) is None


@pytest.mark.parametrize(
    ("mean", "rate"),
    [
        (9.999999999999342e-05, 1e-4),
        (mean_rate(2.5e-4, 100_000), 2.5e-4),
        (3.497755024503043e-04, None),
        (0.0, None),
        (float("nan"), None),
    ],
)
def test_constant_rate_is_a_round_number_near_the_mean(mean, rate):
    assert constant_rate(mean) == rate


def test_steps_show_in_the_last_digits_of_the_rate():
    steps = steps_by_rounding(4.999999999999505e-05, 20_000)
    assert (steps.min(), steps.max(), len(steps)) == (14_696, 14_876, 181)
    assert steps_by_rounding(3.497755024503043e-04, 20_000).size == 0


@pytest.mark.parametrize(("batch", "processes"), [(32, 8), (8, 1), (64, 16), (4, 1)])
def test_batch_and_processes_show_in_the_last_digits_of_the_rate(batch, processes):
    images = 118_287 // batch * batch
    found = splits_by_rounding(mean_rate(1e-4, images // batch, processes), images)
    assert (batch, processes) in found and {b for b, _ in found} == {batch}


def test_varying_rate_splits_nothing():
    assert splits_by_rounding(3.497755024503043e-04, 12_000) == []


def test_powers_of_two_are_those_that_divide():
    assert powers_of_two(118_280) == [1, 2, 4, 8]
    assert powers_of_two(7) == [1]


CRITERION = ["loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0"]


def line(names, split="train", head=("lr", "class_error", "loss")):
    unscaled = [f"{name}_unscaled" for name in names]
    return dict.fromkeys([f"{split}_{name}" for name in (*head, *names, *unscaled)], 1.0)


def test_names_sorted_within_their_block_are_told_from_the_criterions_order():
    assert name_order(line(CRITERION)) == "unsorted"
    assert name_order(line(sorted(CRITERION))) == "sorted"
    assert name_order(line(sorted(CRITERION)) | line(sorted(CRITERION), "test")) == "sorted"


@pytest.mark.parametrize(
    "names", [dict(sorted(line(CRITERION).items())), line(["loss_ce"]), {"test_AP": 1.0}]
)
def test_order_of_few_names_or_of_a_sorted_line_tells_nothing(names):
    assert name_order(names) is None


def test_writers_are_told_by_their_keys():
    reference = [read_log(path)[0] for path in JOURNAL]
    assert all(map(logs_as_reference, reference)) and not any(map(logs_backbones_rate, reference))
    masks = reference[0] | {"train_loss_mask": 1.0, "train_loss_dice_unscaled": 1.0}
    assert logs_as_reference(masks | {"test_coco_eval_masks": [0.1] * 12, "test_PQ_all": [0.1]})
    own = read_log(STUDY / "detr-s0")[0]
    assert is_own(own) and logs_as_reference(own)
    for key in ("train_grad_norm", "train_loss_ce_enc", "train_epoch_time", "ema_test_loss"):
        assert not logs_as_reference(reference[0] | {key: 1.0})
    for key in ("train_class_error", "train_cardinality_error_unscaled"):
        assert not logs_as_reference({k: v for k, v in reference[0].items() if k != key})


@pytest.mark.parametrize("key", ["train_loss_vfl", "train_loss_mal", "train_loss_fgl_aux_3"])
def test_rt_detr_and_its_kin_log_the_backbones_rate(key):
    assert logs_backbones_rate({"train_lr": 1e-5, key: 1.0})
