"""Features of a small batch, for models that are given no images."""

import torch


def features_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two images, the second smaller; its padding holds what must not be seen."""
    torch.manual_seed(0)
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, 64:] = True
    mask[1, :, 96:] = True
    return torch.randn(2, 112, 6, 8), mask


def batch(counts: tuple[int, ...], seed: int) -> tuple:
    """Features of images with so many boxes, as the loader gives them."""
    generator = torch.Generator().manual_seed(seed)
    targets = [
        {
            "labels": torch.randint(0, 4, (n,), generator=generator),
            "boxes": 0.2 + 0.4 * torch.rand(n, 4, generator=generator),
            "image_id": 10 * seed + i,
        }
        for i, n in enumerate(counts)
    ]
    features = torch.randn(len(counts), 112, 8, 8, generator=generator)
    return features, torch.zeros(len(counts), 128, 128, dtype=torch.bool), targets
