"""Settings that every test shares."""

import os

# Processes of tests share the cores, and one thread adds up in one order.
os.environ["OMP_NUM_THREADS"] = "1"
# Before any test imports matplotlib: no window, whatever the machine has.
os.environ["MPLBACKEND"] = "Agg"
# A test that reaches for weights or data on a hub fails at once instead of hanging.
os.environ["HF_HUB_OFFLINE"] = "1"
# No test's run is copied to where the user keeps copies of runs.
os.environ["DETRNB_MIRROR"] = ""
# Nor are its runs and data anywhere but where it is.
os.environ.pop("DETRNB_HOME", None)


def pytest_configure(config):
    config.addinivalue_line("markers", "cuda: on CUDA devices, by `make gpu` (pytest -m cuda)")
    # Everywhere alike: on a machine with devices too, all but those run on the processor.
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
