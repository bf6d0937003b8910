"""
Which HTTP request means which method of Cloud Tasks: Google's own mapping of v2, as a table.

Of v2beta3 it is believed to have the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

LOCATION = "projects/*/locations/*"
QUEUE = LOCATION + "/queues/*"
TASK = QUEUE + "/tasks/*"


@dataclass(frozen=True)
class Rule:
    """
    One line of the mapping.

    The braces of *path* name the field of the request that this part of the path fills; *body* is
    the field that the JSON body fills, `*` for the whole request.
    """

    verb: str
    path: str
    method: str
    body: str | None = None

    @cached_property
    def field(self) -> str:
        return self.path.partition("{")[2].partition("=")[0]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        # A colon in the last segment begins a verb such as `:run`; project ids may hold one of their own.
        opened = re.sub(r"\{[^=]*=([^}]*)\}", r"(\1)", self.path)
        return re.compile(opened.replace("*/", "[^/]+/").replace("*", "[^/:]+"))


RULES = (
    Rule("POST", f"{{parent={LOCATION}}}/queues", "CreateQueue", "queue"),
    Rule("GET", f"{{parent={LOCATION}}}/queues", "ListQueues"),
    Rule("GET", f"{{name={QUEUE}}}", "GetQueue"),
    Rule("PATCH", f"{{queue.name={QUEUE}}}", "UpdateQueue", "queue"),
    Rule("DELETE", f"{{name={QUEUE}}}", "DeleteQueue"),
    Rule("POST", f"{{name={QUEUE}}}:pause", "PauseQueue", "*"),
    Rule("POST", f"{{name={QUEUE}}}:resume", "ResumeQueue", "*"),
    Rule("POST", f"{{name={QUEUE}}}:purge", "PurgeQueue", "*"),
    Rule("POST", f"{{resource={QUEUE}}}:getIamPolicy", "GetIamPolicy", "*"),
    Rule("POST", f"{{resource={QUEUE}}}:setIamPolicy", "SetIamPolicy", "*"),
    Rule("POST", f"{{resource={QUEUE}}}:testIamPermissions", "TestIamPermissions", "*"),
    Rule("POST", f"{{parent={QUEUE}}}/tasks", "CreateTask", "*"),
    Rule("POST", f"{{parent={QUEUE}}}/tasks:batchCreate", "BatchCreateTasks", "*"),
    Rule("POST", f"{{parent={QUEUE}}}/tasks:batchDelete", "BatchDeleteTasks", "*"),
    Rule("GET", f"{{parent={QUEUE}}}/tasks", "ListTasks"),
    Rule("GET", f"{{name={TASK}}}", "GetTask"),
    Rule("DELETE", f"{{name={TASK}}}", "DeleteTask"),
    Rule("POST", f"{{name={TASK}}}:run", "RunTask", "*"),
    Rule("POST", f"{{name={TASK}}}:buffer", "BufferTask", "*"),
    Rule("POST", f"{{queue={QUEUE}}}/tasks:buffer", "BufferTask", "*"),
    Rule("GET", "{name=projects/*}/locations", "ListLocations"),
    Rule("GET", f"{{name={LOCATION}}}", "GetLocation"),
    Rule("GET", f"{{name={LOCATION}/cmekConfig}}", "GetCmekConfig"),
    Rule("PATCH", f"{{cmek_config.name={LOCATION}/cmekConfig}}", "UpdateCmekConfig", "cmek_config"),
    Rule("GET", f"{{name={LOCATION}/operations/*}}", "GetOperation"),
)


def find(verb: str, path: str) -> tuple[Rule, str] | None:
    """The rule for a request, with the resource name in its path."""
    version, _, rest = path.removeprefix("/").partition("/")
    if version not in ("v2", "v2beta3"):
        return None
    for rule in RULES:
        if rule.verb == verb and (match := rule.pattern.fullmatch(rest)):
            named = rule if version == "v2" else replace(rule, method=f"{version}.{rule.method}")
            return named, match[1]
    return None
