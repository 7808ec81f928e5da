"""Drills: what a run does when it is killed, starved, lied to or doubled, counted.

`python -m soak` (`make soak`) tries each drill until its time is over and writes `results.json`;
the test files here are quick versions of the same drills.
"""
