"""Features of a small batch, for models that are given no images."""

import torch


def features_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two images, the second smaller; its padding holds what must not be seen."""
    torch.manual_seed(0)
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, 64:] = True
    mask[1, :, 96:] = True
    return torch.randn(2, 112, 6, 8), mask
