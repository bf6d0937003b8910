"""`traced-relay check`: every problem of the configuration, before a deploy meets it."""

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


@click.command()
@click.option("--cloud", is_flag=True, help="If the files are right: look at what is deployed, too.")
@click.option("--project", metavar="P", envvar="GOOGLE_CLOUD_PROJECT", show_envvar=True, help="Whose the files are.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each problem, a line each.")
def check(cloud: bool, project: str | None, as_json: bool) -> None:
    """
    Look for mistakes before a deploy does.

    Reads relay.yaml, app.yaml, otel.yaml (those that are in this directory) and
    the environment as the service would, and prints every problem with its
    file and key. Ends with 1 if there is any; a warning is none. Where a project
    is named, what relay.yaml has only as an example is a problem, too.

    With --cloud it asks Google, as the environment's Google credentials, for
    APIs, queues, rights, secrets, indexes, alerts and versions: each that is not
    as the files say, or that you may not see, is a problem. Nothing is changed.
    """
    from traced_relay.config.settings import own_environment
    from traced_relay.deploy.check import problems
    from traced_relay.deploy.finding import output_lines

    if cloud and not re.fullmatch(r"[a-z][a-z0-9.:-]{3,98}", project or ""):
        raise click.UsageError("--cloud needs a project's id: --project, or GOOGLE_CLOUD_PROJECT")
    environ = {**own_environment(), **({"GOOGLE_CLOUD_PROJECT": project} if project else {})}
    found: Iterable[str | Finding] = problems(environ=environ)
    seen = ""
    if cloud and project and not found:
        from traced_relay.deploy.cloud_check import connected, findings

        found = findings(connected(project), project, Path(), environ)
        seen = f", nor in project {project}"
    count = 0
    for line, is_problem in output_lines(found, as_json=as_json):
        click.echo(printable(line))
        count += is_problem
    if count and cloud and not seen:
        click.echo("the project was not looked at: mend this first", err=True)
    if count:
        sys.exit(1)
    if not as_json:
        click.echo(f"no problem found{seen}")
