"""Two of everything: of many that want one folder one works, the others wait or say who works."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detrnb.commands import main
from detrnb.runs import RunFolder
from soak.drill import ROOT, Drill, Try
from soak.forking import Child
from soak.kill import Project
from soak.runs import difference, outcome, train

RIVALS = 8
STUDIES = 4
VARIANT = "detr"


def into_one_folder(project: Project, apart: float) -> Try:
    """Eight processes into one run folder within a second."""
    project.know(VARIANT)
    name = project.new()
    rivals = []
    for _ in range(RIVALS):
        rivals.append(train(project.folder, *project.line(name, VARIANT)))
        time.sleep(apart)
    codes = [rival.wait() for rival in rivals]
    said = [rival.said for rival in rivals]
    log = (project.folder / "runs" / name / "log.txt").read_text().splitlines()
    why = ""
    if codes.count(0) < 1:
        why = f"none worked: {said[0][-300:]}"
    for code, text in zip(codes, said, strict=True):
        refused = code == 1 and "is being trained by process" in text
        if not why and ("Traceback" in text or not (code == 0 or refused)):
            why = f"ended with {code}: {text[-300:]}"
    why = why or difference(outcome(project.folder, name), project.unbroken[VARIANT])
    if not why and len(log) != 3:
        why = f"{len(log)} lines are logged of 3 epochs"
    part = f"{RIVALS} processes into one run folder"
    return Try(part, not why, why and f"{apart:g} s apart: {why}")


def studies_at_once(folder: Path) -> Try:
    """Four studies of the same trials in one project, beside the trials of one that is alone."""
    line = ["study", "--preset", "smoke", "--only", "detr"]
    alone, shared = folder / "alone", folder / "shared"
    for project in (alone, shared):
        project.mkdir()
        shutil.copy(ROOT / "pyproject.toml", project)
    expected = _worked_off(alone, [Child(lambda: main(line), alone)])
    studies = [Child(lambda: main(line), shared) for _ in range(STUDIES)]
    found = _worked_off(shared, studies)
    why = ""
    for study in studies:
        refused = study.code == 1 and "exit code" in study.said
        if not why and ("Traceback" in study.said or not (study.code == 0 or refused)):
            why = f"ended with {study.code}: {study.said[-300:]}"
    why = why or difference(found, expected)
    return Try(f"{STUDIES} studies at once", not why, why)


def _worked_off(project: Path, studies: list[Child]) -> dict[str, list[dict]]:
    """The logs that studies keep, times aside, once they have ended and one more has looked."""
    for study in studies:
        study.wait(900)
    again = Child(lambda: main(["study", "--preset", "smoke", "--only", "detr"]), project)
    if again.wait(900) != 0:
        return {"the same command again": [{"said": again.said[-300:]}]}
    kept = sorted((project / "data" / "study" / "second-smoke" / "trials").iterdir())
    return {
        path.name: [
            {key: value for key, value in line.items() if not key.endswith("_time_s")}
            for line in RunFolder(path).read_log()
        ]
        for path in kept
    }


def environments_at_once(folder: Path) -> Try:
    """`make env` twice at once, with an interpreter that notes what it is asked to install."""
    venv, told = folder / "env", folder / "installed.txt"
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1] + '/tools'); import environment\n"
        "from pathlib import Path\n"
        "def create(venv): (venv / 'made').mkdir(parents=True)\n"
        "def install(venv, root):\n"
        "    time.sleep(0.5)\n"
        "    with open(sys.argv[3], 'a') as file: file.write('x')\n"
        "environment.create, environment.install = create, install\n"
        "environment.is_usable = lambda venv: (venv / 'made').exists()\n"
        "environment.ensure(Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(venv), str(told)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    why = "" if codes == [0, 0] else f"ended with {codes}: {errors}"
    if not why and told.read_text() != "x":
        why = f"installed {len(told.read_text())} times"
    return Try("make env twice at once", not why, why)


def tries(folder: Path) -> Iterator[Try]:
    project, number = Project(folder), 0
    while True:
        yield into_one_folder(project, (0.0, 0.05, 0.12)[number % 3])
        place = folder / f"at-once-{number}"
        place.mkdir()
        yield environments_at_once(place)
        if number % 12 == 1:
            yield studies_at_once(place)
        number += 1


TWICE = Drill("Two of everything", tries)
