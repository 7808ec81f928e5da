"""What each of two processes does in test_own_parts.py: train what has a layout of its own."""

import os
import sys

import toy_variants

from detrnb import Config, fit

SETTINGS = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "data.toy.num_images": (18, 9, 2),  # two steps of 8 images
    "train.batch_size": 4,
    "train.epochs": 2,
    "train.precision": "fp32",
}
# Toy variants of all parts, and the package's with several groups or with queries made of targets.
IN_TWO = (toy_variants.JOINED, "group", "dn_dab")


def config(variant: str = toy_variants.JOINED, **train: int) -> Config:
    dotted = {f"train.{key}": value for key, value in train.items()}
    return Config.preset("smoke", variant=variant, overrides=SETTINGS | dotted)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for variant in IN_TWO:
        fit(config(variant), name=f"{variant}-together")
