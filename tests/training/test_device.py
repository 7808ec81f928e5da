"""Precision by what the device has; what the main process computes, for all."""

import pytest
import torch

from detrnb.training import device


@pytest.mark.parametrize(
    "cuda, bf16, amx, expected",
    [
        (True, True, False, "bf16"),  # from Ampere on
        (True, False, False, "fp16"),  # a T4
        (False, False, True, "no"),  # results agree between machines
        (False, False, False, "no"),
    ],
)
def test_precision_is_what_the_device_computes_in(monkeypatch, cuda, bf16, amx, expected):
    def is_bf16_supported(including_emulation: bool) -> bool:
        return bf16 or including_emulation  # a T4 says yes if asked carelessly

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    capabilities = {"amx_bf16": amx}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(device, "processes", lambda: None)
    monkeypatch.setattr(device, "Accelerator", lambda mixed_precision, **rest: mixed_precision)
    assert device.make_accelerator("auto") == expected
    assert device.make_accelerator("fp16") == "fp16"
    assert device.make_accelerator("fp32") == "no"
