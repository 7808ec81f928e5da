"""Detecting in one image beside the reference and transformers: seconds, and the limit.

    python bench/inference.py [--reference CLONE]

The `coco` preset's model on an image of 800×1088 without padding, float32; ours normalises it, the
others get it normalised. All have equal weights, and it is seen first that all predict alike.
"""

import peers
import torch
from limit import limit_row
from timing import OURS, Findings, Options, beside, in_turns, main

SIZE = ((800, 1088),)


def results(options: Options) -> Findings:
    """Seconds of an image, and ours beside its products alone."""
    found = Findings()
    us = peers.ours()
    images, mask, targets = given = peers.batch(SIZE)
    model = us.model.eval()

    @torch.no_grad()
    def ours() -> object:  # as `predict` does where nothing is padded
        return model(model.normalize(images))

    sides = {OURS: ours}
    for name, peer in peers.others(us, options, found).items():
        with found.leaving_out(name):
            pixels = peers.normalized(model, given)[0]
            peer.predict(pixels, mask)
            sides[name] = lambda peer=peer, pixels=pixels: peer.predict(pixels, mask)
    found.tables["An image"] = beside("image of 800×1088", in_turns(sides, options))
    found.tables["Distance from the limit"] = [limit_row("inference", ours, options)]
    return found


if __name__ == "__main__":
    main(__doc__, results)
