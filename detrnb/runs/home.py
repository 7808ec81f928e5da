"""Where runs, data and pictures lie."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from detrnb.runs.writing import write_whole

if TYPE_CHECKING:  # matplotlib is slow to import, and only the caller of save_figure needs it
    from matplotlib.figure import Figure


def project_root() -> Path:
    """Where runs/ and data/ lie: DETRNB_HOME, else the clone that the current folder is in.

    JupyterLab and papermill start in notebooks/. Outside a clone, as on Colab or with a notebook
    that was copied elsewhere, it is the current folder.
    """
    named = os.environ.get("DETRNB_HOME")
    if named:
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if is_project(folder)), here)


def located(path: str | os.PathLike[str]) -> Path:
    """A path as somebody gives it: from the current folder, or where that has none the project's.

    JupyterLab's current folder is notebooks/, a terminal's the project's.
    """
    path = Path(path).expanduser()
    return path if path.exists() or not (project_root() / path).exists() else project_root() / path


def is_project(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir()


def save_figure(figure: Figure, name: str, *, smoke: bool = False) -> Path:
    """Save a notebook's named picture as PNG: in runs/workbook/figures/ by `detrnb workbook`.

    Of a notebook that runs by itself, in JupyterLab or by papermill, it goes to
    runs/notebooks/figures/, so that the workbook's stay those of its pages. The same picture gives
    the same bytes. `make figures` takes the workbook's over into figures/.

    Args:
        name: Number of the notebook and a word or two, such as ``01_detections``.
        smoke: Keep pictures that mean something; write beside them, to smoke_figures/.

    Raises:
        ValueError: A name of another form.
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", name):
        raise ValueError(f"figure name {name!r} should look like '01_detections', without '.png'")
    # Which folder it is, the workbook's runner says.
    folder = project_root() / "runs" / os.environ.get("DETRNB_FIGURES", "notebooks")
    path = folder / ("smoke_figures" if smoke else "figures") / f"{name}.png"
    metadata_free = {"Software": None}  # else matplotlib's version is part of the bytes
    settings = {"dpi": 110, "facecolor": "white", "bbox_inches": "tight", "metadata": metadata_free}
    write_whole(path, lambda file: figure.savefig(file, format="png", **settings))
    return path
