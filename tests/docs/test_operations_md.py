"""docs/operations.md: its commands are ones that there are, its alerts those of monitoring/, its rights those given."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING

import click
import pytest

from support.house import ROOT, modules
from support.monitoring_files import alerts
from support.schema import SCHEMA
from traced_relay.cli import main
from traced_relay.cli.queue import queue

if TYPE_CHECKING:
    from pathlib import Path

    from support.google_stand_in import GoogleStandIn

PAGE = (ROOT / "docs" / "operations.md").read_text()
SETUP = (ROOT / "setup-env.sh").read_text()
# A command may stand in a block, or within a sentence.
QUOTED = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", PAGE, re.DOTALL)
LINES = [line for text in QUOTED for line in re.sub(r"\\\n", " ", "".join(text)).splitlines()]


def commands(name: str) -> list[list[str]]:
    found = [shlex.split(part, comments=True) for line in LINES for part in re.split(r"(?<!\S)\|(?!\S)", line)]
    return [words[1:] for words in found if words[:1] == [name]]


def test_every_command_of_ours_has_the_options_that_the_page_gives_it() -> None:
    found = commands("traced-relay")
    assert len(found) >= 8
    for verb, *words in found:
        known = queue if verb == "queue" else main.main.commands[verb]
        known = queue.commands[words[0]] if known is queue and words[0] in queue.commands else known
        flags = {word for word in words if word.startswith("--")}
        assert flags <= {name for param in known.params for name in param.opts}, (verb, words)
        for flag, value in pairwise(words):
            (kind,) = [param.type for param in known.params if flag in param.opts] or [None]
            assert not isinstance(kind, click.Choice) or value in kind.choices


@pytest.mark.parametrize("script", ["setup-env.sh", "deploy.sh"])
def test_every_option_of_a_script_is_in_its_usage(script: str) -> None:
    usage = re.search(r'^usage="(.*)"$', (ROOT / script).read_text(), re.MULTILINE)
    assert usage is not None
    found = commands(f"./{script}")
    assert found
    flags = {word for words in found for word in words if word.startswith("--")}
    assert flags <= set(re.findall(r"--[a-z-]+", usage[1]))


def test_every_alert_has_its_place_and_says_where_that_is() -> None:
    part = PAGE[PAGE.index("\n## Alerts\n") :]
    part = part[: part.index("\n## ", 5)]
    told = dict(re.findall(r"^### (.+)\n((?:.+\n)+)", part, re.MULTILINE))
    names = {alert.message.display_name.removeprefix("traced-relay: "): alert for alert in alerts().values()}
    assert told.keys() == names.keys()
    assert len(told) == 13
    for name, text in told.items():
        assert re.search(r" Look: .* Do: ", " ".join(text.split())), name
        content = names[name].message.documentation.content
        assert content.endswith(f"docs/operations.md#{name.replace(' ', '-')}\n"), name


def table() -> list[tuple[str, str, str]]:
    """Each permission, who asks for it, and the role that has it."""
    rows = re.findall(r"^\| `([a-z]+\.[\w.*]+)` \| (.*?) \| `([\w.]+)` \|", PAGE, re.MULTILINE)
    assert len(rows) == 9
    return rows


def test_the_relays_account_gets_the_roles_of_the_table_and_no_other() -> None:
    given = re.findall(r"^ *grant roles/([\w.]+)", SETUP, re.MULTILINE)
    assert len(given) == SETUP.count("grant roles/") == 8
    assert set(given) == {role for _, _, role in table()}
    assert "add-iam-policy-binding" not in SETUP.replace("POLICY/add-iam-policy-binding", "")


def test_what_a_permission_is_for_is_asked_where_the_table_says() -> None:
    for permission, asked_by, _ in table():
        module, *words = re.findall(r"`([^`]+)`", asked_by)
        assert module in modules(), permission
        source = (ROOT / "src" / "traced_relay" / f"{module.replace('.', '/')}.py").read_text()
        assert all(word in source for word in words), (permission, words)


def test_each_called_cloud_tasks_method_has_its_permission() -> None:
    source = (ROOT / "src" / "traced_relay" / "cloud_tasks" / "client.py").read_text()
    called = set(re.findall(r"self\._\w+\.((?:create|delete|get|list|run|update|purge|pause|resume)_\w+)\(", source))
    called |= set(re.findall(r'"/google\.cloud\.tasks\.v2\.CloudTasks/(\w+)"', source))
    told = {word for _, asked_by, _ in table() for word in re.findall(r"`(\w+)`", asked_by)}
    assert called == {"CreateTask", "delete_task", "get_task", "get_queue"} <= told


@pytest.mark.whole
def test_the_command_for_cloud_run_makes_the_service_that_is_meant(
    google: GoogleStandIn, gcloud: str, tmp_path: Path
) -> None:
    (words,) = (words for words in commands("gcloud") if words[:2] == ["run", "deploy"])
    text = shlex.join(words).replace("P.iam", "demo-proj.iam").replace("PROJECT=P", "PROJECT=demo-proj")
    text = text.replace("--project P ", "--project demo-proj ").replace("--region R ", "--region us-central1 ")
    built = text.replace("--source .", "--image us-docker.pkg.dev/p/r/relay")  # a build would be Google's
    arguments = shlex.split(re.sub(r" --set-build-env-vars '.*?'", "", built))
    google.resources.there["serviceusage/v1/projects/demo-proj/services/run.googleapis.com"] = {"state": "ENABLED"}
    environ = google.environ(tmp_path, gcloud) | google.as_proxy() | {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    ran = subprocess.run(["gcloud", *arguments], env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (service,) = (made for path, made in google.resources.there.items() if "knative" in path)
    template = service["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert annotations["run.googleapis.com/cpu-throttling"] == "False"
    assert (annotations["autoscaling.knative.dev/minScale"], annotations["autoscaling.knative.dev/maxScale"]) == (
        "1",
        "2",
    )
    (container,) = template["spec"]["containers"]
    assert {each["name"]: each["value"] for each in container["env"]} == {
        "RELAY_LEDGER": "firestore:traced-relay/calls",
        "RELAY_THREADS": "200",
        "GOOGLE_CLOUD_PROJECT": "demo-proj",
    }
    assert (template["spec"]["containerConcurrency"], template["spec"]["timeoutSeconds"]) == (192, 3600)
    assert template["spec"]["serviceAccountName"] == "traced-relay@demo-proj.iam.gserviceaccount.com"
    (policy,) = (kept for path, kept in google.resources.policies.items() if path.startswith("run/"))
    assert policy["bindings"] == [{"role": "roles/run.invoker", "members": ["allUsers"]}]


def test_the_page_says_what_to_do_about_every_refusal() -> None:
    part = PAGE[PAGE.index("### identities are rejected") :].partition("\n### ")[0]
    listed = {word for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}
    of_tasks = {"unreadable", "unknown_task", "invalid", "unavailable"}
    assert listed - {"reason"} == set(SCHEMA["$defs"]["refusal"]["examples"]) - of_tasks
