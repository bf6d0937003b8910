"""`traced-relay check`: prints every problem of the configuration before a deploy."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traced_relay.formats.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from traced_relay.deploy.finding import Finding


@click.command(epilog="Exit status: 0 without problems, 1 with any, 2 for invalid options. Warnings are not problems.")
@click.option("--cloud", is_flag=True, help="Also check the deployed project, if the files are valid.")
@click.option(
    "--project", metavar="P", envvar="GOOGLE_CLOUD_PROJECT", show_envvar=True, help="Project that the files are for."
)
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON, one per line.")
def check(cloud: bool, project: str | None, as_json: bool) -> None:
    """
    Validate the configuration before a deploy.

    Reads relay.yaml, app.yaml and otel.yaml (if they are in this directory) and
    the environment as the service does, and prints each problem with its file
    and key. With a project, values that relay.yaml has only as examples are
    problems, too.

    With --cloud, compares APIs, queues, IAM roles, secrets, indexes, alerts and
    versions with the files, using Application Default Credentials. A difference
    is a problem, and so is a resource that you may not read. Nothing is changed.
    """
    from traced_relay.config.settings import own_environment
    from traced_relay.deploy.check import problems
    from traced_relay.deploy.finding import output_lines

    if cloud and not re.fullmatch(r"[a-z][a-z0-9.:-]{3,98}", project or ""):
        raise click.UsageError("--cloud requires a project id: set --project or GOOGLE_CLOUD_PROJECT")
    environ = {**own_environment(), **({"GOOGLE_CLOUD_PROJECT": project} if project else {})}
    found: Iterable[str | Finding] = problems(Path(), environ)
    checked_project = ""
    if cloud and project and not found:
        from traced_relay.deploy.cloud_check import connected, findings

        found = findings(connected(project), project, Path(), environ)
        checked_project = f" in the files or in project {project}"
    count = 0
    for line, is_problem in output_lines(found, as_json=as_json):
        click.echo(printable(line))
        count += is_problem
    if count and cloud and not checked_project:
        click.echo("the project was not checked: fix these problems first", err=True)
    if count:
        sys.exit(1)
    if not as_json:
        click.echo(f"no problem found{checked_project}")
