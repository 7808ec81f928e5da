"""What was aimed at, and for an aim that is missed what is known of it.

`if_missed` says where the time goes, where the floor is and what was tried without gain, all
measured on two cores of an EPYC (AVX-512, 53 GFLOP/s in float32 products).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Aim:
    """A bound for one cell of one table.

    Attributes:
        claim: the script.
        table: what its heading begins with.
        row: column -> what the cell begins with, of the row.
        column: of the number.
        bound: that the number is to reach.
        at_least: whether it may not be smaller, instead of not larger.
    """

    what: str
    claim: str
    table: str
    row: dict[str, str]
    column: str
    bound: float
    at_least: bool = False
    if_missed: str = ""

    def is_met(self, number: float) -> bool:
        """Whether a number reaches the bound."""
        return number >= self.bound if self.at_least else number <= self.bound

    @property
    def bound_in_words(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


TO_PEER, TO_LIMIT = "ours / its", "share of the limit"

AIMS = (
    Aim(
        "evaluation beside the first edition's",
        claim="evaluation",
        table="COCO-like",
        row={"beside": "first edition"},
        column=TO_PEER,
        bound=0.2,
        if_missed="What is left is sorting detections and matching them class by class in numpy.",
    ),
    Aim(
        "training input, times the reference's images a second",
        claim="input",
        table="Batches",
        row={"input": "ours"},
        column="times the reference's images a second",
        bound=4.0,
        at_least=True,
        if_missed="Decoding JPEG is two thirds of what is left (libjpeg-turbo, by torchvision); a"
        " trial without boxes reached 4.5 with torchvision's decoder and resizing in 8 bits.",
    ),
    Aim(
        "toy epoch with evaluation beside the first edition's",
        claim="toy_epoch",
        table="An epoch",
        row={"what": "epoch with evaluation"},
        column=TO_PEER,
        bound=0.75,
        if_missed="The profile is below (toy_step): products and attention's kernels are most of"
        " it, and these are the model's, in float32 as ever; evaluation became ten times as fast,"
        " but is a small part of an epoch. Tried without gain beyond the spread, all with equal"
        " logs: no attention mask where nothing is padded, one synchronisation a step instead of"
        " three, fused AdamW, `set_to_none`, mean and std as buffers, fewer walks over modules."
        " What would help changes numbers (bf16 needs AMX to pay; larger batches).",
    ),
    Aim(
        "coco step beside the reference's",
        claim="training_step",
        table="A step",
        row={"beside": "reference"},
        column=TO_PEER,
        bound=0.92,
        if_missed="Nine tenths of a step are convolutions and products that the reference has as"
        " well; folded norms and attention without its weights are what can be saved.",
    ),
    Aim(
        "coco step's share of its limit",
        claim="training_step",
        table="Distance from the limit",
        row={"what": "coco step"},
        column=TO_LIMIT,
        bound=0.85,
        at_least=True,
        if_missed="The rest is what stands between products: activations, norms, dropout of"
        " attention, the optimizer's pass over 41 million parameters, each bound by memory.",
    ),
    Aim(
        "memory of two coco steps beside the reference's",
        claim="training_step",
        table="Memory",
        row={"beside": "reference"},
        column=TO_PEER,
        bound=0.85,
        if_missed="Activations of the backbone are most of it.",
    ),
    Aim(
        "inference beside the reference",
        claim="inference",
        table="An image",
        row={"beside": "reference"},
        column=TO_PEER,
        bound=0.65,
        if_missed="Its convolutions and products alone are the floor (share below), and the"
        " reference does the same ones: 0.65 would need faster ones. Tried without gain: weights"
        " laid out in oneDNN's own blocks, convolution and ReLU in one call, folding anew each"
        " forward or once.",
    ),
)
