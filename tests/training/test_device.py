"""Precision by what the device has; what the main process computes, for all."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import detrnb
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
def test_precision_is_what_the_device_computes_in(monkeypatch, capsys, cuda, bf16, amx, expected):
    def is_bf16_supported(including_emulation: bool) -> bool:
        return bf16 or including_emulation  # a T4 says yes if asked carelessly

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    capabilities = {"amx_bf16": amx}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    here = SimpleNamespace(device=torch.device("cuda" if cuda else "cpu"), is_main_process=True)
    monkeypatch.setattr(device, "processes", lambda: here)
    monkeypatch.setattr(device, "Accelerator", lambda mixed_precision, **rest: mixed_precision)
    assert device.make_accelerator("auto") == expected
    assert device.make_accelerator("fp16") == ("fp16" if cuda else "no")
    assert ("this processor computes in fp32" in capsys.readouterr().out) == (not cuda)
    assert device.make_accelerator("fp32") == "no"


def test_peak_memory_is_the_processs_own_not_that_of_the_larger_one_that_started_it():
    """As of a study's children, and of the notebook that starts them."""
    child = (
        "import torch; from detrnb.training.device import peak_memory_mb;"
        "print(peak_memory_mb(torch.device('cpu')))"
    )
    parent = (
        "import subprocess, sys; large = b'1' * 1_600_000_000;"
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, child],
        env=os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 50 < float(done.stdout) < 1200


def test_peak_memory_begins_anew_so_that_making_features_is_not_of_the_training():
    cpu = torch.device("cpu")
    large = torch.ones(100_000_000)  # 400 MB
    with_it = device.peak_memory_mb(cpu)
    del large
    device.begin_peak_memory(cpu)
    assert device.peak_memory_mb(cpu) < with_it - 300
