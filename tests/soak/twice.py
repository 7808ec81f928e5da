"""Two of everything: of many that want one folder one works, the others wait or say who works."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from detrnb.commands import main
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


def studies_at_once(project: Project) -> Try:
    """Four lists of the same runs, worked off at once in one project, as four studies do."""
    project.know(VARIANT)
    names = [project.new() for _ in range(3)]

    def work() -> int:
        worst = 0
        for name in names:
            for _ in range(200):  # a study waits for a run that another works on, and asks again
                code = main(project.line(name, VARIANT))
                if code == 0:
                    break
                time.sleep(0.2)
            worst = max(worst, code)
        return worst

    workers = [Child(work, project.folder) for _ in range(STUDIES)]
    codes = [worker.wait() for worker in workers]
    why = "" if codes == [0] * STUDIES else f"ended with {codes}: {workers[0].said[-300:]}"
    for name in names:
        why = why or difference(outcome(project.folder, name), project.unbroken[VARIANT])
        lines = (project.folder / "runs" / name / "log.txt").read_text().splitlines()
        why = why or ("" if len(lines) == 3 else f"{len(lines)} lines are logged of 3 epochs")
    return Try(f"{STUDIES} lists of the same runs at once", not why, why)


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
        if number % 3 == 1:
            yield studies_at_once(project)
        place = folder / f"env-{number}"
        place.mkdir()
        yield environments_at_once(place)
        number += 1


TWICE = Drill("Two of everything", tries)
