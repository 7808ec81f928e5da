"""Detecting in one image, beside the reference: seconds, and the limit that products set.

    python bench/inference.py [--reference CLONE]

Without a clone (bench/reference.py) ours is measured alone.
"""

from pathlib import Path

import reference
import torch
from limit import products_of, seconds_of_products
from timing import arguments, medians

SIZE = ((800, 1088),)


def results(repeats: int = 5, clone: Path | None = None) -> dict[str, float]:
    """Seconds of an image, ours and the reference's, and ours beside its products alone."""
    model = reference.ours()[0].eval()
    images, _, _ = reference.batch(SIZE)

    @torch.no_grad()
    def ours() -> object:
        return model(model.normalize(images))

    sides = [ours]
    if clone is not None:
        other = reference.theirs(clone, model.state_dict())[0].eval()
        reference.check_equal(model, other)
        nothing = torch.zeros_like(images[:, 0], dtype=torch.bool)
        samples = reference.nested(images, nothing)
        sides.append(torch.no_grad()(lambda: other(samples)))
    ours_s, *theirs_s = medians(sides, repeats)
    products = seconds_of_products(products_of(ours), repeats)
    found = {"ours_s": ours_s, "products_s": products, "share_of_limit": products / ours_s}
    if theirs_s:
        found |= {"reference_s": theirs_s[0], "of_the_reference": ours_s / theirs_s[0]}
    return found


if __name__ == "__main__":
    parsed = arguments(__doc__, 5)
    for name, value in results(parsed.repeats, parsed.reference).items():
        print(f"{name:18} {value:8.3f}")
