"""
The API's documents as types: the one list of their fields, each with its entry in the API's reference.

The relay's builders return them, `GET /openapi.json` is made from them, and the client checks responses against them.
The annotations are read at run time, hence no `from __future__ import annotations` here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args

from traced_relay.tasks.reasons import Blame
from traced_relay.tasks.states import STATES, State

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Doc:
    """JSON Schema keywords of a field: *description*, one *example*, and others by their names."""

    def __init__(self, description: str = "", example: object = None, /, **keywords: object) -> None:
        described = {"description": description} if description else {}
        self.schema = {**described, **({} if example is None else {"examples": [example]}), **keywords}


_ID = "4f1c0e7a9b2d4c6e8a10b3d5f7092c4e"
_TRACE = "0af7651916cd43dd8448eb211c80319c"
_TASK_NAME = f"projects/my-project/locations/europe-west1/queues/relay/tasks/{_ID}-1"
_RELAY, _CONSOLE = "https://relay.example.com", "https://console.cloud.google.com"

Time = Annotated[str, Doc(format="date-time")]
Link = Annotated[str, Doc(format="uri")]
Count = Annotated[int, Doc(minimum=0)]
Number = Annotated[int, Doc(minimum=1)]
Hex32 = Annotated[str, Doc(pattern="^[0-9a-f]{32}$")]
TaskId = Annotated[Hex32, Doc("Id of the task: 32 hexadecimal digits.", _ID)]
TraceId = Annotated[Hex32, Doc("Id of the trace that every span and record of the task belongs to.", _TRACE)]
Queue = Annotated[str, Doc("Name of the queue, without project and location.", "relay")]
TaskName = Annotated[str, Doc("Full name of the Cloud Tasks task.", _TASK_NAME)]
TraceLink = Annotated[
    Link, Doc("Page with the task's trace.", f"{_CONSOLE}/traces/explorer;traceId={_TRACE}?project=my-project")
]
LogsLink = Annotated[
    Link, Doc("Page with the task's records.", f"{_CONSOLE}/logs/query;query=operation.id%3D%22{_ID}%22")
]
Reason = Annotated[str | None, Doc("Why it failed or waits; null without a failure.", "http_503")]
# The row keeps these three as text, so that one version reads what a later one wrote.
_BLAME = Doc(
    "Who has to act: `caller`, `downstream`, `relay` or `platform`; null without a failure.",
    "downstream",
    enum=[*get_args(Blame), None],
)
_VERDICT = Doc(
    "What follows the attempt; null while it runs.", "retry", enum=["succeeded", "retry", "gave_up", "cancelled", None]
)
_DELAY_REASON = Doc(
    "What set `retry_delay_ms`: the policy's backoff or the response's Retry-After; null without a retry.",
    "backoff",
    enum=["backoff", "retry_after", None],
)


class Links(TypedDict):
    """Where to look at the task: in Google Cloud, or in the local console under `traced-relay dev`."""

    status: Annotated[Link, Doc("URL of the status document.", f"{_RELAY}/v1/tasks/{_ID}")]
    trace: TraceLink
    logs: LogsLink


class ReceiptLinks(TypedDict):
    """Where to look at the task: in Google Cloud, or in the local console under `traced-relay dev`."""

    status: Annotated[
        Link | None,
        Doc(
            "URL of the status document; null with `route: direct`, which has no status and no `Location`.",
            f"{_RELAY}/v1/tasks/{_ID}",
        ),
    ]
    trace: TraceLink
    logs: LogsLink


class Receipt(TypedDict):
    """What enqueueing returns."""

    task_id: TaskId
    task_name: TaskName
    queue: Queue
    state: Annotated[State, Doc("State of the task; a repeated request gets today's state.", "queued")]
    trace_id: TraceId
    schedule_time: Annotated[Time, Doc("When the first attempt is due.", "2026-11-21T18:00:00.000000Z")]
    links: Annotated[ReceiptLinks, Doc("Where to look at the task.")]


class CallbackState(TypedDict):
    """Delivery of the callback of the task's current round."""

    state: Annotated[
        Literal["none", "pending", "delivered", "failed"],
        Doc("`none`: no callback is wanted; `pending`: not delivered yet.", "delivered"),
    ]
    attempt_count: Annotated[Count, Doc("Attempts started so far.", 1)]
    next_attempt_at: Annotated[Time | None, Doc("When the next attempt is due; null if none is scheduled.")]
    reason: Annotated[str | None, Doc("Why the last attempt failed; null if it did not.", "connect_failed")]


class Summary(TypedDict):
    """A task as a list shows it: without its attempts and the downstream's response."""

    task_id: TaskId
    kind: Annotated[Literal["call", "callback"], Doc("`callback`: the report of another task's end.", "call")]
    queue: Queue
    state: Annotated[State, Doc("`waiting`: an attempt failed and a retry is scheduled.", "succeeded")]
    url: Annotated[str, Doc("URL of the downstream.", "https://reports-x.a.run.app/build")]
    method: Annotated[Method, Doc("HTTP method of the request to the downstream.", "POST")]
    labels: Annotated[dict[str, str], Doc("Labels as enqueued.", {"team": "billing"})]
    rule: Annotated[
        str | None, Doc("The downstream of relay.yaml that the URL matched; null for callbacks.", "reports")
    ]
    trace_id: TraceId
    round: Annotated[Number, Doc("1 as enqueued; each redrive starts the next round.", 1)]
    created_at: Annotated[Time, Doc("When the task was enqueued.", "2026-11-21T18:00:00.000000Z")]
    schedule_time: Annotated[
        Time, Doc("When this round was to start: as enqueued, or when it was redriven.", "2026-11-21T18:00:00.000000Z")
    ]
    finished_at: Annotated[Time | None, Doc("When this round ended; null before.", "2026-11-21T18:00:12.345600Z")]
    next_attempt_at: Annotated[Time | None, Doc("When the next attempt is due; null if none is scheduled.")]
    overdue_ms: Annotated[Count, Doc("Milliseconds since the next attempt was due; 0 if it is not late.", 0)]
    heartbeat_at: Annotated[
        Time | None, Doc("Last heartbeat of the worker that runs the task; null if it does not run.")
    ]
    expires_at: Annotated[
        Time | None,
        Doc(
            "When the task may be deleted: `retention` after its end and its callback's; null before.",
            "2026-11-28T18:00:12.345600Z",
        ),
    ]
    cancel_requested_at: Annotated[Time | None, Doc("When a running task was cancelled; it ends within 10 s.")]
    actor: Annotated[
        str | None, Doc("Account that last cancelled, redrove or resent it; null if none did.", "oncall@example.com")
    ]
    attempt: Annotated[Count, Doc("Number of the last attempt started, over all rounds; 0 before the first.", 2)]
    retry_count: Annotated[Count, Doc("Retries started in this round.", 1)]
    reason: Reason
    blame: Annotated[str | None, _BLAME]
    total_ms: Annotated[Count | None, Doc("Milliseconds from when this round was due to its end; null before.", 12_346)]
    retry: Annotated[
        dict[str, Any],
        Doc(
            "The resolved retry policy: what the caller left out is filled in.",
            **{"$ref": "#/components/schemas/RetryPolicy"},
        ),
    ]
    callback: Annotated[CallbackState, Doc("Delivery of this round's callback.")]
    links: Annotated[Links, Doc("Where to look at the task.")]


class Attempt(TypedDict):
    """One exchange with the downstream."""

    attempt: Annotated[Number, Doc("Number of the attempt, over all rounds.", 1)]
    round: Annotated[Number, Doc("Round of the attempt.", 1)]
    task_name: TaskName
    span_id: Annotated[str, Doc("Id of the span of the request.", "b7ad6b7169203331", pattern="^[0-9a-f]{16}$")]
    version: Annotated[str, Doc("Version of the relay that made the attempt.", "20261121t180000")]
    instance: Annotated[str, Doc("Instance of the relay that made the attempt.", "i-1")]
    started_at: Annotated[Time, Doc("When the attempt started.", "2026-11-21T18:00:00.412000Z")]
    ended_at: Annotated[Time | None, Doc("When the attempt ended; null while it runs.", "2026-11-21T18:00:01.412000Z")]
    queue_delay_ms: Annotated[int | None, Doc("Milliseconds from when the attempt was due to its start.", 412)]
    latency_ms: Annotated[Count | None, Doc("Milliseconds of the exchange; null while it runs.", 1000)]
    status_code: Annotated[Count | None, Doc("Status of the response; null without one.", 503)]
    verdict: Annotated[str | None, _VERDICT]
    reason: Reason
    blame: Annotated[str | None, _BLAME]
    retry_delay_ms: Annotated[Count | None, Doc("Milliseconds until the retry; null without one.", 1000)]
    delay_reason: Annotated[str | None, _DELAY_REASON]


class Response(TypedDict):
    """The downstream's last response: `body` if its bytes are UTF-8, else `body_base64`; truncated at 64 KiB."""

    status_code: Annotated[Count, Doc("HTTP status.", 200)]
    headers: Annotated[
        dict[str, str], Doc("Header fields; repeated ones are joined by commas.", {"content-type": "application/json"})
    ]
    body: NotRequired[Annotated[str, Doc("The body as text.", '{"report": 7}')]]
    body_base64: NotRequired[
        Annotated[str, Doc("The body in base64 (RFC 4648, section 4).", "/wA=", contentEncoding="base64")]
    ]
    truncated: Annotated[bool, Doc("Whether the body was longer than 64 KiB, and the rest was dropped.")]


class Status(Summary):
    """The status document: a task, its last 100 attempts, and the downstream's last response."""

    attempts: Annotated[list[Attempt], Doc("The last 100 attempts, oldest first.", maxItems=100)]
    response: Annotated[
        Annotated[Response, Doc(anyOf=[{"required": ["body"]}, {"required": ["body_base64"]}])] | None,
        Doc("The downstream's last response; null without one."),
    ]


class TaskList(TypedDict):
    """A page of tasks, newest first. It may be short, even empty, before the last one."""

    tasks: Annotated[list[Summary], Doc("Tasks by `created_at`, then `task_id`, newest first.")]
    next_page_token: Annotated[
        str | None,
        Doc(
            "Value of `page_token` for the next page; null on the last one. With several filters, a page may contain "
            "less than `limit`: what was found among 10,000 tasks.",
            "WzE3OTUyODQwMDAuMCwiNGYxYyJd",
        ),
    ]


_QueueUse = TypedDict(  # a class cannot have a field named `for`
    "_QueueUse", {"for": Annotated[Literal["calls", "callbacks"], Doc("What the queue carries.", "calls")]}
)


class QueueStatus(_QueueUse):
    """A queue as Cloud Tasks reports it, at most 2 s old; null for what Cloud Tasks did not report."""

    queue: Queue
    state: Annotated[Literal["RUNNING", "PAUSED", "DISABLED"] | None, Doc("State of the queue.", "RUNNING")]
    max_dispatches_per_second: Annotated[float | None, Doc("Rate limit of the queue.", 500)]
    max_concurrent_dispatches: Annotated[Count | None, Doc("Concurrency limit of the queue.", 1000)]
    tasks_count: Annotated[Count | None, Doc("Tasks that wait, are retried or are being dispatched; an estimate.", 12)]
    oldest_estimated_arrival_time: Annotated[
        Time | None, Doc("When the next task is due, or was if it is late.", "2026-11-21T18:00:00.000000Z")
    ]
    executed_last_minute_count: Annotated[Count | None, Doc("Dispatches in the last minute.", 240)]
    concurrent_dispatches_count: Annotated[Count | None, Doc("Dispatches in progress.", 4)]
    detail: NotRequired[Annotated[str, Doc("Why Cloud Tasks did not report; absent if it did.", "no response in time")]]


class QueueList(TypedDict):
    """The queues of relay.yaml, in its order."""

    queues: Annotated[list[QueueStatus], Doc("One entry for each queue.")]


class FieldProblem(TypedDict):
    """A field and the rule that it breaks."""

    field: Annotated[str, Doc("Path of the field, or name of the parameter or header.", "retry.max_attempts")]
    message: Annotated[str, Doc("The rule, and the value where it helps.", "must be at least 1, got 0")]


class Problem(TypedDict):
    """An error (RFC 9457)."""

    type: Annotated[str, Doc("Always `about:blank`: `status` says what kind of error it is.", "about:blank")]
    title: Annotated[str, Doc("Reason phrase of the status.", "Unprocessable Entity")]
    status: Annotated[int, Doc("HTTP status.", 422)]
    detail: Annotated[str, Doc("What went wrong, in a sentence.", "retry.max_attempts must be at least 1, got 0")]
    errors: NotRequired[
        Annotated[list[FieldProblem], Doc("Every broken rule, at most 50; absent if no field is wrong.")]
    ]


class BatchResponse(TypedDict):
    """One receipt or problem for each task of the batch."""

    tasks: Annotated[list[Receipt | Problem], Doc("In the order of the request.")]


class Health(TypedDict):
    """State of the service."""

    status: Annotated[Literal["ok", "ready", "unavailable"], Doc("`ok`: alive; `ready`: accepts work.", "ready")]


class Filters(TypedDict, total=False):
    """Which tasks a list shows; a task must match every filter given."""

    kind: Annotated[Literal["call", "callback"], Doc("Calls, or the callbacks that report their ends.", default="call")]
    state: Annotated[str, Doc("State of the task.", "failed", enum=list(STATES))]
    queue: Annotated[str, Doc("Name of the queue.", "relay")]
    rule: Annotated[str, Doc("Downstream of relay.yaml that the URL matched.", "reports")]
    reason: Annotated[str, Doc("Why the task failed or waits.", "http_503")]
    version: Annotated[str, Doc("Version of the relay that made the last attempt.", "20261121t180000")]
    since: Annotated[
        str, Doc("Earliest `created_at`: an RFC 3339 time (its + as %2B), or a duration before now.", "24h")
    ]


class ListQuery(Filters, total=False):
    """Parameters of `GET /v1/tasks`, beside one `label.NAME`."""

    limit: Annotated[int, Doc("Tasks per page.", default=50, minimum=1, maximum=200)]
    page_token: Annotated[str, Doc("The `next_page_token` of the previous page; the filters stay the same.")]


class CallFields(TypedDict, total=False):
    """Fields of `POST /v1/tasks` beside its URL, for callers of the Python client."""

    method: Method
    headers: Mapping[str, str]
    body: Any
    body_base64: str
    queue: str
    route: Literal["relay", "direct"]
    schedule_time: str
    delay: str
    timeout: str
    retry: Mapping[str, Any]
    idempotent: bool
    callback: Mapping[str, Any]
    labels: Mapping[str, str]
