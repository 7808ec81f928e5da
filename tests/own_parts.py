"""What each of two processes does in test_own_parts.py: train the joined toy variants."""

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


def config(variant: str = toy_variants.JOINED, **train: int) -> Config:
    dotted = {f"train.{key}": value for key, value in train.items()}
    return Config.preset("smoke", variant=variant, overrides=SETTINGS | dotted)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    fit(config(), name="together")
