"""Every claim about speed or memory, measured on this machine: results.json and README.md.

    python bench [--reference CLONE] [NAME ...]
    python bench --gpu        # on a CUDA device the tests marked `cuda`, then what runs there,
                              # into results-<device>.json
    python bench --page       # README.md anew from results.json, nothing is measured

Each claim is a script beside this one, run in a process of its own; one that fails loses nothing of
the others, and the file is written after each. With names only these are measured, and the others
stay as they are where machine and versions are the file's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page import draw_growth, page_of, picture_of, suffix

FOLDER = Path(__file__).resolve().parent
# In this order; whether what it measures runs on the device that models do.
CLAIMS = {
    "training_step": True,
    "inference": True,
    "toy_step": True,
    "toy_epoch": True,
    "growth": True,
    "evaluation": False,
    "input": False,
    "annotations": False,
    "padding": False,
    "variants": True,
    "efficient_attention": True,
    "svd_split": True,
}
LIMIT = 600  # seconds of one script, after which it counts as failed


def measure(name: str, arguments: list[str], environment: dict[str, str]) -> dict:
    """What a script found, with the seconds that it took; `failed` in place of it where it did."""
    begin = time.monotonic()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", str(file), *arguments]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=LIMIT
            )
            lines = done.stderr.strip().splitlines()
            words = lines[-1] if lines else "it ended without a word"
            if done.returncode < 0:
                words += f" (signal {-done.returncode})"
        except subprocess.TimeoutExpired:
            words = f"it took more than {LIMIT} seconds"
        found = json.loads(file.read_text()) if file.exists() else None
    if found is None:
        found = {"failed": words}
    return found | {"took_s": round(time.monotonic() - begin), "load_before": round(load, 2)}


def tested() -> str:
    """The last line of the tests that are marked `cuda`, which print as they run."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-rs", "tests"]
    with subprocess.Popen(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True) as tests:
        last = "they ended without a word"
        for line in tests.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return last


def about(reference: list[str]) -> dict:
    """Machine, versions and commit, as a process sees them that may use torch."""
    command = [sys.executable, str(FOLDER / "machine.py"), *reference]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def environment() -> dict[str, str]:
    """Of processes: the code is this clone's, then what else is on the path; no hub is asked."""
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}


def write(results: dict, file: Path) -> None:
    """Keep results, and the page and picture that are made of them."""
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    os.replace(beside, file)
    page_path(file).write_text(page_of(results, scripts()))
    draw_growth(results, FOLDER / picture_of(results))


def page_path(file: Path) -> Path:
    """Where the page of a file of results is."""
    return file.with_name(f"README{file.stem.removeprefix('results')}.md")


def scripts() -> dict[str, str]:
    """Each claim's script, by name in order."""
    return {name: (FOLDER / f"{name}.py").read_text() for name in CLAIMS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLAIMS))
    parser.add_argument("--reference", type=Path, metavar="CLONE", help="of facebookresearch/detr")
    parser.add_argument("--rounds", type=int, help="of each contest, fewer than its time allows")
    parser.add_argument("--gpu", action="store_true", help="what runs on a CUDA device")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parsed = parser.parse_args()
    if unknown := set(parsed.names) - set(CLAIMS):
        parser.error(f"no claim {', '.join(sorted(unknown))}; there are {', '.join(CLAIMS)}")
    if parsed.page:
        for kept in sorted(FOLDER.glob("results*.json")):
            write(json.loads(kept.read_text()), kept)
        return
    if not parsed.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the page is of the processor
    reference = [str(parsed.reference.resolve())] if parsed.reference else []
    if not reference:
        print("without --reference CLONE (of facebookresearch/detr) it is left out")
    elif not Path(reference[0], "models", "detr.py").exists():
        parser.error(f"{reference[0]} is no clone of facebookresearch/detr: no models/detr.py")
    here, file = about(reference), FOLDER / "results.json"
    if parsed.gpu:
        if here["device"] is None:
            print("there is no CUDA device here: nothing is tested, nothing is measured")
            return
        here["tests"] = tested()
        file = FOLDER / f"results{suffix(here)}.json"
    results = {"about": here, "claims": kept_claims(file, here) if parsed.names else {}}
    arguments = [x for clone in reference for x in ("--reference", clone)]
    arguments += [] if parsed.rounds is None else ["--rounds", str(parsed.rounds)]
    for name, on_device in CLAIMS.items():
        if (parsed.names and name not in parsed.names) or (parsed.gpu and not on_device):
            continue
        print(f"{name:20}", end="", flush=True)
        found = measure(name, arguments, environment())
        results["claims"][name] = found | {"commit": here["commit"], "date": here["date"]}
        write(results, file)
        print(f"{found['took_s']:5} s  {found.get('failed', '')}", flush=True)
        for contestant, why in found.get("left_out", {}).items():
            print(f"{'':20}left out: {contestant}: {why}")
    print(page_path(file))


def kept_claims(file: Path, here: dict) -> dict:
    """What a file holds of this machine and these versions, to which some is added."""
    kept = json.loads(file.read_text()) if file.exists() else {"about": {}}
    same = all(kept["about"].get(key) == here[key] for key in ("machine", "versions"))
    return kept["claims"] if same else {}


if __name__ == "__main__":
    main()
