"""Make the environment that the Makefile's targets run in: `environment.py VENV`.

The checkout's own `.venv` also gets the package, editable, and with it the command `detrnb`. An
environment anywhere else may be shared and holds the dependencies only: the Makefile puts the
checkout on PYTHONPATH, so that each clone runs its own code. A stamp inside, named by the content
of the pins, says that the environment is whole; changed pins bring it up to date.

Uses the standard library alone: nothing is installed yet when it runs.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Measured on Linux, where torch brings its CUDA libraries. pip keeps its downloads, about 3 GB,
# beside the unpacked packages until all are in place.
INSTALLED_GB = 6.7
NEEDED_GB = 10


def requirements(root: Path) -> list[str]:
    """Dependencies of pyproject.toml with all its extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(name for extra in extras for name in extra)]


def environment_key(root: Path) -> str:
    """Short hash of all that decides what gets installed; times mean nothing after a clone."""
    parts = [*requirements(root), (root / "constraints.txt").read_text()]
    parts += [python_series(), platform.machine()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def python_series() -> str:
    """Such as 3.11: an environment outlives its Python's bug fix releases."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def is_usable(venv: Path) -> bool:
    """Whether there is an environment of this Python to install into."""
    config = venv / "pyvenv.cfg"
    return (
        config.exists()
        and (venv / "bin" / "python").exists()  # not so once its own Python was uninstalled
        and (venv / "bin" / "pip").exists()  # not so where making it was interrupted
        and re.search(rf"^version = {re.escape(python_series())}\.", config.read_text(), re.M)
        is not None
    )


def create(venv: Path) -> None:
    """Create an empty environment; a folder that is not ours is never cleared."""
    begun = venv / ".detrnb"
    if venv.exists() and not begun.exists() and any(venv.iterdir()):
        sys.exit(f"{venv} holds other things; name an empty folder: make env VENV=...")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            f"{sys.executable} lacks the venv module; on Debian and Ubuntu: "
            f"apt install python{python_series()}-venv"
        )
    free = shutil.disk_usage(venv.parent).free / 1e9
    if free < NEEDED_GB:
        sys.exit(
            f"making the environment needs {NEEDED_GB} GB, {venv.parent} has {free:.1f} GB free; "
            "make room or name another place: make env VENV=..."
        )
    tell(f"making the environment {venv}: {INSTALLED_GB} GB, 2 to 4 minutes, once ...")
    venv.mkdir(exist_ok=True)
    begun.touch()
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True
    )
    if made.returncode:
        sys.exit(f"could not create {venv}: {last_line(made.stdout + made.stderr)}")
    begun.touch()


def last_line(output: str) -> str:
    """The line of a failed command's output that says most: its last error, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1].removeprefix("ERROR: ")


def install(venv: Path, root: Path) -> None:
    """Install the pinned dependencies; pip's own output goes to a file."""
    log = venv / "pip.log"
    # pip unpacks where TMPDIR says; a small /tmp in memory would not hold torch.
    scratch = venv / "tmp"
    scratch.mkdir(exist_ok=True)
    command = [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "-c", root / "constraints.txt", *requirements(root)]
    try:
        with log.open("w") as file:
            pip = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "TMPDIR": str(scratch)},
            )
            for line in pip.stdout:
                file.write(line)
                if line.startswith("Installing collected packages"):
                    tell("downloaded; now unpacking ...")
        if pip.wait():
            sys.exit(f"pip could not install the packages: {last_line(log.read_text())} ({log})")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def has_package(venv: Path, root: Path) -> bool:
    """Whether the package is installed as far as it belongs there: a checkout's into its own."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    installed = list(venv.glob(f"lib/python*/site-packages/detrnb-{version}.dist-info"))
    return venv != root / ".venv" or bool(installed)


def install_package(venv: Path, root: Path) -> None:
    """Install the checkout's package, editable and without dependencies, with the command."""
    command = [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    # The pinned setuptools is there: nothing is downloaded.
    command += ["--no-deps", "--no-build-isolation", "-e", root]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode:
        sys.exit(f"pip could not install the package: {last_line(pip.stdout + pip.stderr)}")


def tell(message: str) -> None:
    """Progress goes to stderr: stdout belongs to `make -s python`."""
    print(message, file=sys.stderr, flush=True)


def ensure(venv: Path, root: Path = ROOT) -> None:
    """Make or update the environment unless its stamp says that it is whole.

    Args:
        venv: folder of the environment, made if missing.
        root: the checkout whose pins hold.
    """
    stamp = venv / f".detrnb-{environment_key(root)}"
    if stamp.exists() and has_package(venv, root):
        return
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        with (venv.parent / f"{venv.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once: the second one waits and finds it
            if not stamp.exists():
                build(venv, root, stamp)
            if not has_package(venv, root):
                install_package(venv, root)
    except OSError as error:
        sys.exit(f"could not make the environment {venv}: {error}")


def build(venv: Path, root: Path, stamp: Path) -> None:
    """Do what `ensure` promises, once the lock is held."""
    if is_usable(venv):
        tell(f"bringing the environment {venv} up to date ...")
    else:
        create(venv)
    for outdated in venv.glob(".detrnb-*"):
        outdated.unlink()
    install(venv, root)
    stamp.touch()
    tell("environment ready")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: environment.py VENV")
    ensure(Path(sys.argv[1]).absolute())
