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
    """Device -> deed -> its numbers, or how it failed; in a process, as a device is for good."""
    folder, package = tmp_path_factory.mktemp("project"), Path(detrnb.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, elsewhere.__file__, str(folder)],
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize("name", [does.__name__ for does in elsewhere.DEEDS])
def test_what_the_package_does_it_does_on_another_device(name, told):
    expected, found = told["cpu"][name], told[elsewhere.NAME][name]
    assert isinstance(expected, list), expected
    assert isinstance(found, list), found
    # By other kernels of attention, so not to the last digit.
    assert found == pytest.approx(expected, rel=1e-4)
