"""What the second study is made of: entries, families, controls; rates are found by its trials."""

from detrnb.compare import Control, Family, Pair, PlannedEntry, StudyPlan, Trials
from detrnb.settings import BASELINE, Config

MANY, SOME, FEW = 12, 6, 3  # replicates; fewer than five are described, not judged
CONDITIONAL, POSITION = "conditional", "efficient_attention_position"
OTHER_WEIGHTS = 1000  # added to a replicate's number for the twin's weights and order
BUDGETS = (0.5, 1.5, 2.0)  # times the preset's epochs, each a whole schedule: 3, 9 and 12 of 6
JOURNAL = ("adaptive_res", "efficient_attention", POSITION, "svd_split")
PUBLISHED = (
    *(CONDITIONAL, "reference_points", "dab", "dn_dab", "group", "focal", "deformable", "rope"),
)
# What is joined with `conditional`, at its rate.
JOINED = ("adaptive_res", POSITION, "svd_split", "group")


def second_study(preset: str = "toy", *, full: bool = False) -> StudyPlan:
    """The second study as it stands before its trials.

    Args:
        preset: of all runs; `smoke` tries the way.
        full: trials as long as judged runs. Of `detr` and `conditional` both are kept: the rate
            that trials of half the length choose is the best at full length too.

    Raises:
        ValueError: the preset's data are not generated.
    """
    stated = Config.preset(preset)
    if stated.data.toy is None:
        raise ValueError(
            f"preset {preset} trains on data that are not generated, and each replicate of the"
            " study draws scenes of its own; take toy or smoke, and `judge` for other data"
        )
    epochs = stated.train.epochs
    budgets = {_budget(round(epochs * share)): round(epochs * share) for share in BUDGETS}
    shorter, longer, longest = budgets
    changes = [
        *(_change(name, MANY) for name in (*JOURNAL, CONDITIONAL)),
        *(_change(name, SOME) for name in PUBLISHED if name != CONDITIONAL),
        *(_joined(name) for name in JOINED),
    ]
    controls = [
        _of_baseline("twin", SOME, weights=OTHER_WEIGHTS),
        # Three pairs that spread by 0.06 to 0.075, as scenes do, would find even 0.25 AP in no more
        # than 93 to 81 % of studies, and where this control fails, nothing is decided.
        _of_baseline("no_encoder", SOME, {"model.num_encoder_layers": 0}),
        *(
            _of_baseline(label, SOME if label == longer else FEW, {"train.epochs": count})
            for label, count in budgets.items()
        ),
    ]
    return StudyPlan(
        name=study_name(preset),
        preset=preset,
        entries=(_change(BASELINE, MANY), *changes, *controls),
        families=(
            Family(name="the journal's", baseline=BASELINE, entries=JOURNAL),
            Family(name="published", baseline=BASELINE, entries=PUBLISHED),
            Family(
                name="joined", baseline=CONDITIONAL, entries=tuple(_join(name) for name in JOINED)
            ),
        ),
        controls=(
            Control(entry="twin", baseline=BASELINE, expected="neither"),
            Control(entry=longer, baseline=BASELINE, expected="better"),
            Control(entry="no_encoder", baseline=BASELINE, expected="worse", decisive=True),
            Control(entry=CONDITIONAL, baseline=BASELINE, expected="better"),
        ),
        described=(
            Pair(entry="dab", baseline=CONDITIONAL),
            Pair(entry="dn_dab", baseline="dab"),
            *(Pair(entry=name, baseline="reference_points") for name in ("dab", "dn_dab")),
            *(Pair(entry=name, baseline=BASELINE) for name in (shorter, longest)),
        ),
        beside={_join(name): name for name in JOINED},
        trials=Trials(epochs=None if full else max(1, epochs // 2)),
    )


def study_name(preset: str) -> str:
    """Of the second study on a preset, and of its folder."""
    return "second" if preset == "toy" else f"second-{preset}"


def _budget(epochs: int) -> str:
    return f"{BASELINE}_{epochs}_epochs"


def _join(name: str) -> str:
    return f"{CONDITIONAL}+{name}"


def _variant_of(name: str) -> tuple[str, dict[str, object]]:
    """The variant of an entry, and the option that makes it what its label says."""
    if name == POSITION:
        option = "model.options.efficient_attention.query_softmax"
        return "efficient_attention", {option: "position"}
    return name, {}


def _change(name: str, replicates: int) -> PlannedEntry:
    variant, overrides = _variant_of(name)
    return PlannedEntry(label=name, variant=variant, replicates=replicates, overrides=overrides)


def _joined(name: str) -> PlannedEntry:
    variant, overrides = _variant_of(name)
    return PlannedEntry(
        label=_join(name),
        variant=f"{CONDITIONAL}+{variant}",
        replicates=SOME,
        overrides=overrides,
        rate_of=CONDITIONAL,
    )


def _of_baseline(
    label: str, replicates: int, overrides: dict[str, object] | None = None, weights: int = 0
) -> PlannedEntry:
    return PlannedEntry(
        label=label,
        variant=BASELINE,
        replicates=replicates,
        overrides=overrides or {},
        rate_of=BASELINE,
        weights=weights,
    )
