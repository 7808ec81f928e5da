"""A study of three entries and two replicates, and runs of it that take no time."""

from detrnb.compare import Control, Family, PlannedEntry, StudyPlan, Trials
from detrnb.study import Study
from detrnb.training import code_of

TINY = {"data.toy.num_images": [8, 4, 4], "train.epochs": 4, "train.batch_size": 4}
LATER = "2999-01-01T00:00:00+00:00"


def settled(plan: StudyPlan, **changed) -> StudyPlan:
    """A draft with a rate for every entry that is tried."""
    entries = [
        e if e.rate_of else e.model_copy(update={"tried": (0.5, 1.0, 2.0), "rate": 1.0})
        for e in plan.entries
    ]
    stated = {"entries": tuple(entries), "frozen": "2020-01-01T00:00:00+00:00", **changed}
    return StudyPlan.of(plan.model_copy(update=stated).model_dump(mode="json"))


def small_plan() -> StudyPlan:
    """Two entries and a control that takes the baseline's rate, two replicates."""

    def entry(label, variant="detr", **more):
        return PlannedEntry(label=label, variant=variant, replicates=2, overrides=TINY, **more)

    return StudyPlan(
        name="second-smoke",
        preset="smoke",
        entries=(
            entry("detr"),
            entry("adaptive_res", "adaptive_res"),
            entry("twin", rate_of="detr", weights=1000),
        ),
        families=(Family(name="ideas", baseline="detr", entries=("adaptive_res",)),),
        controls=(Control(entry="twin", baseline="detr", expected="neither"),),
        trials=Trials(epochs=1),
    )


def write_ended(job, ap, **provenance):
    """What a run leaves behind; one without AP diverged."""
    folder = job.run.create(job.config.model_dump(mode="json"))
    begun = {"started": LATER, "code": code_of(job.config), "wall_time_s": 60.0}
    folder.write_provenance({**begun, "seed": job.config.train.seed, **provenance})
    for part in ("data", "runs/features"):
        (job.home / part).mkdir(parents=True, exist_ok=True)
    if ap is None:
        folder.write_failed("loss is not finite")
        return
    for epoch in range(job.config.train.epochs):
        line = {"train_loss": 1.0, "test_coco_eval_bbox": [ap, *[0.1] * 11], "epoch": epoch}
        folder.append_log(line)
    if job.tested:
        folder.write_test("test2017", epoch, [ap, *[-1.0] * 11], {"0": ap}, 1.0)


def write_plan(**changed) -> Study:
    """Settle the small plan, with the code as it is."""
    study = Study("smoke")
    plan = settled(study.plan)
    code = {}
    for entry in plan.entries:
        code |= code_of(plan.config(entry.label, 200))
    settled(study.plan, code=code, **changed).write(study.plan_path)
    return Study("smoke")
