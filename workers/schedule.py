"""What the hub does by the clock: samples, upkeep and recommendations, on APScheduler's background threads.

A job that is still running when its next turn comes is skipped, and missed turns are made up for once, not one by
one: after a suspended laptop there is one sample, not ten thousand. No job may spawn a process: these are worker
threads, and only the hub's main thread spawns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger("schedule")
JOB_DEFAULTS = {"coalesce": True, "max_instances": 1, "misfire_grace_time": 30}


@dataclass(frozen=True)
class Job:
    """Something to do every `every_s` seconds."""

    name: str
    every_s: float
    act: Callable[[], object]


def build_scheduler(jobs: list[Job]) -> BackgroundScheduler:
    """A scheduler that is not started yet. A job that raises is logged once per kind of error and tried again."""
    # It warns each time a job is skipped because the last turn is still running, which is what we want it to do.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    scheduler = BackgroundScheduler(job_defaults=JOB_DEFAULTS, timezone="UTC")
    for job in jobs:
        scheduler.add_job(_contained(job), "interval", seconds=job.every_s, id=job.name)
    return scheduler


def _contained(job: Job) -> Callable[[], None]:
    last_error = ""

    def act() -> None:
        nonlocal last_error
        try:
            job.act()
            last_error = ""
        except Exception as error:  # one failing job must not stop the clock; a repeated error is not news
            if str(error) != last_error:
                log.exception("%s failed and is tried again in %.0f s", job.name, job.every_s)
            last_error = str(error)

    return act
