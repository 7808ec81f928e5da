"""The workbook's index, notebook 05's explorer and a reload in a real browser: `make browser`.

Needs Chromium, node and playwright-core, and installs what is missing: the first two by apt where
it may, the last by npm into the environment. Where that cannot be done it says so and checks
nothing; what it checks and finds wrong is a failure. Screenshots go to runs/browser/.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "05_attention_maps.ipynb"
RELOADED, EPOCHS = "reloaded.ipynb", 30  # a notebook whose page is loaded anew while it trains
FOR_INDEX = "07"  # has verdicts and decisions, reads logs and trains nothing
PLAYWRIGHT = "playwright-core@1.65.0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 60
CHECK_SECONDS = 1800  # the longest part is training the model, where it is absent


class CannotInstall(RuntimeError):
    """Something the check needs is not here and cannot be had."""


def find_browser() -> str:
    """Path of a Chromium, with node and npm beside it; installed by apt if need be.

    Raises:
        CannotInstall: one is missing and apt cannot bring it.
    """
    packages = [] if any(map(shutil.which, BROWSERS)) else ["chromium"]
    packages += [
        package for package, name in (("nodejs", "node"), ("npm", "npm")) if not shutil.which(name)
    ]
    if packages:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise CannotInstall(f"install first: apt install {' '.join(packages)}")
        print(f"browser check: installing {', '.join(packages)} ...", flush=True)
        install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        for command in (["apt-get", "update"], install):
            done = subprocess.run(
                command,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise CannotInstall(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return next(filter(None, map(shutil.which, BROWSERS)))


def find_playwright() -> Path:
    """Folder of node modules with playwright-core, installed by npm if need be.

    Raises:
        CannotInstall: npm cannot bring it.
    """
    folder = Path(sys.prefix) / PLAYWRIGHT.replace("@", "-")
    if not (folder / "node_modules" / "playwright-core").is_dir():
        folder.mkdir(exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, PLAYWRIGHT]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CannotInstall(f"npm install {PLAYWRIGHT}: {done.stderr.strip()[-300:]}")
    return folder / "node_modules"


def make_project(folder: Path, *, smoke: bool) -> None:
    """A project with two notebooks alone, so that running it changes no committed file.

    Data and runs are the checkout's.
    """
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("data", "runs"):
        (ROOT / name).mkdir(exist_ok=True)
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, 4)
    for cell in notebook.cells:
        if smoke and "parameters" in cell.metadata.get("tags", []):
            cell.source += "\nsmoke = True"
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / NOTEBOOK)
    training = nbformat.v4.new_notebook(metadata=notebook.metadata)
    code = (
        "from detrnb import Config, fit\n"
        f"config = Config.preset('smoke', overrides={{'train.epochs': {EPOCHS}}})\n"
        f"run = fit(config, name='{Path(RELOADED).stem}')\n"
        "print(len(run.log), 'epochs')"
    )
    training.cells = [nbformat.v4.new_code_cell(code)]
    nbformat.write(training, folder / "notebooks" / RELOADED)
    shutil.rmtree(ROOT / "runs" / Path(RELOADED).stem, ignore_errors=True)


def make_index(folder: Path) -> Path:
    """The index of a workbook in which one notebook has run, in a project of its own.

    Raises:
        RuntimeError: the notebook fails; holds what was said.
    """
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    (folder / "data").symlink_to(ROOT / "data", target_is_directory=True)
    command = [sys.executable, "-m", "detrnb", "workbook", "--smoke", "--only", FOR_INDEX]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DETRNB_HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")
    return folder / "runs" / "workbook" / "index.html"


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A JupyterLab in the project, with nobody's own settings; gives the notebook's address.

    Raises:
        RuntimeError: it does not start; holds the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = folder / "jupyter" / "labconfig"
    settings.mkdir(parents=True)
    silent = {"fetchNews": "false", "checkForUpdates": False}
    overrides = {"@jupyterlab/apputils-extension:notification": silent}
    (settings / "default_setting_overrides.json").write_text(json.dumps(overrides))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = {**os.environ, **{name: str(folder / "jupyter") for name in names}}
    environment |= {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True"]
    log = folder / "jupyter" / "log.txt"
    with log.open("w") as file:
        lab = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        for _ in range(START_SECONDS * 5):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            if lab.poll() is not None:
                raise RuntimeError(f"JupyterLab ended: {log.read_text()[-1000:]}")
        else:
            raise RuntimeError(f"no JupyterLab after {START_SECONDS} s: {log.read_text()[-1000:]}")
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{NOTEBOOK}?token={token}&reset"
    finally:
        lab.terminate()  # it ends its kernels
        lab.wait()


def check(*, smoke: bool) -> int:
    """Run the check; returns the exit code of the part in the browser."""
    browser, modules = find_browser(), find_playwright()
    shots = ROOT / "runs" / "browser"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as workbook:
        index = make_index(Path(workbook))
        make_project(Path(folder), smoke=smoke)
        shots.mkdir(parents=True, exist_ok=True)
        with jupyter_lab(Path(folder)) as address:
            script = Path(__file__).with_suffix(".js")
            log = ROOT / "runs" / Path(RELOADED).stem / "log.txt"
            command = ["node", script, address, browser, shots, index]
            command += [RELOADED, log, str(EPOCHS)]
            environment = {**os.environ, "NODE_PATH": str(modules)}
            return subprocess.run(command, env=environment, timeout=CHECK_SECONDS).returncode


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    begin = time.monotonic()
    try:
        code = check(smoke=parser.parse_args().smoke)
    except CannotInstall as error:
        print(f"browser check: nothing was checked, for want of a browser; {error}")
        return 0
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"browser check: {error}", file=sys.stderr)
        return 1
    if not code:
        print(f"browser check passed in {time.monotonic() - begin:.0f} s; see runs/browser/")
    return code


if __name__ == "__main__":
    sys.exit(main())
