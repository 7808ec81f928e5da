"""The package on a device that is not the processor: what it does there, and the same numbers.

No machine of ours has one, so it is pretended (`elsewhere.py`); on CUDA: `test_cuda.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import elsewhere
import pytest

import detrnb


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Device -> deed -> its numbers, or how it failed; in processes, as devices are for good."""
    found = {}
    for device in ("cpu", elsewhere.NAME):
        folder = tmp_path_factory.mktemp(device)
        script = str(Path(elsewhere.__file__))
        package = str(Path(detrnb.__file__).parents[1])
        done = subprocess.run(
            [sys.executable, script, str(folder), device],
            env=os.environ | {"PYTHONPATH": package},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found[device] = json.loads((folder / "told.json").read_text())
    return found


@pytest.mark.parametrize("name", [does.__name__ for does in elsewhere.DEEDS])
def test_what_the_package_does_it_does_on_another_device(name, told):
    expected, found = told["cpu"][name], told[elsewhere.NAME][name]
    assert isinstance(expected, list), expected
    assert isinstance(found, list), found
    # By other kernels of attention, so not to the last digit.
    assert found == pytest.approx(expected, rel=1e-4)
