"""The pages of executed notebooks."""

import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter


def export_html(executed: Path, page: Path, folder: Path) -> None:
    """Write an executed notebook as one page with its pictures inside.

    Args:
        executed: the executed copy.
        page: where the page goes.
        folder: what relative pictures in the prose are relative to.
    """
    # No widget state is stored, so nothing needs require.js from the network.
    exporter = HTMLExporter(embed_images=True, require_js_url="")
    resources = {"metadata": {"name": executed.stem, "path": str(folder)}}
    text, _ = exporter.from_notebook_node(nbformat.read(executed, as_version=4), resources)
    # The pages link each other as the notebooks do.
    page.write_text(re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', text))
