"""What a study trains: its entries, each with several seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from detrnb.settings import BASELINE, Config

JUDGED, DESCRIBED = 6, 3  # seeds; fewer than five are described, not judged


@dataclass(frozen=True)
class Entry:
    """One thing the study trains.

    Attributes:
        label: names its runs.
        variant: as `Config.preset` takes it.
        seeds: how many, from 0.
        overrides: of the preset.
    """

    label: str
    variant: str
    seeds: int
    overrides: Mapping[str, object] = field(default_factory=dict)


def study_entries() -> list[Entry]:
    """The baseline, the journal's three ideas, the positive control; described: the other reading
    of the journal's efficient attention, and the pairs that join.

    The control is DETR without encoder layers, which the study must find worse: else it could not
    have found anything.
    """
    ideas = ("adaptive_res", "efficient_attention", "svd_split")
    position = {"model.options.efficient_attention.query_softmax": "position"}
    return [
        Entry(BASELINE, BASELINE, JUDGED),
        *(Entry(name, name, JUDGED) for name in ideas),
        Entry("no_encoder", BASELINE, JUDGED, {"model.num_encoder_layers": 0}),
        Entry("efficient_attention_position", "efficient_attention", DESCRIBED, position),
        *(Entry(f"adaptive_res+{name}", f"adaptive_res+{name}", DESCRIBED) for name in ideas[1:]),
    ]


def plan(preset: str) -> Iterator[tuple[Entry, Config]]:
    """Every run of the study, seed by seed, so that what is there so far can be compared."""
    entries = study_entries()
    for seed in range(max(entry.seeds for entry in entries)):
        for entry in entries:
            if seed < entry.seeds:
                overrides = dict(entry.overrides)
                yield (
                    entry,
                    Config.preset(preset, variant=entry.variant, seed=seed, overrides=overrides),
                )
