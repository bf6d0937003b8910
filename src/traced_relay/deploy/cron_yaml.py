"""
cron.yaml, which must contain the job for /sweep. Deploying it deletes every App Engine cron job that it lacks.

`python -m traced_relay.deploy.cron_yaml < JOBS` prints the jobs that a deploy would delete, for deploy.sh.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traced_relay.errors import InvalidSettings
from traced_relay.formats.durations import format_duration
from traced_relay.formats.yaml_file import document_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SWEEP = "/sweep"
_SECONDS = {"min": 60, "hour": 3600}
_INTERVAL = re.compile(r"every ([1-9][0-9]{0,3}) (min|hour)(?:ute)?s?(?: synchronized)?")


def jobs(document: Any) -> list[dict[str, Any]]:
    listed = document.get("cron") if isinstance(document, dict) else None
    return [job for job in listed if isinstance(job, dict)] if isinstance(listed, list) else []


def sweep_of(document: Any) -> dict[str, Any]:
    """The job that requests a sweep; empty if cron.yaml has none."""
    return next((job for job in jobs(document) if job.get("url") == SWEEP), {})


def problems(document: Any, service: str, sweep_every: float) -> Iterator[str]:
    """Why cron would not request a sweep from *service* every *sweep_every* seconds."""
    job = sweep_of(document)
    if not job:
        yield f"cron: must have a job with url {SWEEP}, which recovers the calls of lost workers"
        return
    if (target := job.get("target", "default")) != service:
        yield f"target of {SWEEP}: must be {service}, the service of app.yaml, got {target}"
    # The shortest interval of App Engine's cron is a minute.
    longest = max(60.0, sweep_every)
    found = _INTERVAL.fullmatch(str(job.get("schedule")))
    if found is None or int(found[1]) * _SECONDS[found[2]] > longest:
        yield (
            f"schedule of {SWEEP}: must be `every N minutes`, at most {format_duration(longest)} as sweep_every of"
            f" the rules, got {job.get('schedule')}"
        )


def deleted_jobs(document: Any, deployed: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The *deployed* jobs, in Cloud Scheduler's form, that a deploy of the file would delete."""
    kept = {(job.get("url"), job.get("target", "default")) for job in jobs(document)}
    for job in deployed:
        target = job.get("appEngineHttpTarget", {})
        service = target.get("appEngineRouting", {}).get("service") or "default"
        if (target.get("relativeUri"), service) not in kept:
            yield f"{target.get('relativeUri')} of service {service}, {job.get('schedule')}"


if __name__ == "__main__":
    try:
        sys.stdout.writelines(
            f"{line}\n" for line in deleted_jobs(document_of(Path("cron.yaml")), json.load(sys.stdin).get("jobs", []))
        )
    except InvalidSettings as exc:
        sys.exit(str(exc))
