"""What tests of the study share."""

import pytest
from small_study import small_plan, write_ended

from detrnb.study import Study, engine


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A project whose runs take no time; gives the names of those trained, and what they reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "second_study", lambda preset, full=False: small_plan())
    monkeypatch.setattr(Study, "time_steps", lambda self: None)
    trained, reach = [], {}

    def run_here(jobs, workers, done):
        for job in jobs:
            assert not job.is_trained
            trained.append(job.name)
            write_ended(job, reach.get(job.name, 0.3))
            done(job)
        return {}

    monkeypatch.setattr(engine, "run_here", run_here)
    return trained, reach
