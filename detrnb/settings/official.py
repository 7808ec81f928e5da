"""The reference's released COCO weights by name: their files and the settings that they are of.

Source: facebookresearch/detr@29901c5, hubconf.py. No torch is imported here.
"""

from dataclasses import dataclass

# What they have in common. Heads and temperature change no tensor's shape, yet must be these.
_SETTINGS = {
    "d_model": 256,
    "num_heads": 8,
    "num_encoder_layers": 6,
    "num_decoder_layers": 6,
    "dim_feedforward": 2048,
    "pre_norm": False,
    "position_temperature": 10000.0,
}


@dataclass(frozen=True)
class OfficialWeights:
    """Weights trained on COCO 2017 for 500 epochs.

    Attributes:
        url: of the file.
        sha256: the first hexadecimal digits, which end the file's name.
        megabytes: of the file.
        settings: of the model section that they fit.
    """

    url: str
    sha256: str
    megabytes: int
    settings: dict[str, object]

    def settings_text(self) -> str:
        """The settings in which the official models differ, as one would set them."""
        keys = ("backbone", "dilation", "stride")
        return ", ".join(f"model.{key}={self.settings[key]!r}" for key in keys)


def _official(name: str, sha256: str, megabytes: int, backbone: str, dc5: bool) -> OfficialWeights:
    return OfficialWeights(
        f"https://dl.fbaipublicfiles.com/detr/{name}-{sha256}.pth",
        sha256,
        megabytes,
        {**_SETTINGS, "backbone": backbone, "dilation": dc5, "stride": 16 if dc5 else 32},
    )


OFFICIAL = {
    "detr_resnet50": _official("detr-r50", "e632da11", 159, "resnet50", dc5=False),
    "detr_resnet50_dc5": _official("detr-r50-dc5", "f0fb7ef5", 159, "resnet50", dc5=True),
    "detr_resnet101": _official("detr-r101", "2c7b67e5", 232, "resnet101", dc5=False),
    "detr_resnet101_dc5": _official("detr-r101-dc5", "a2e86def", 232, "resnet101", dc5=True),
}
