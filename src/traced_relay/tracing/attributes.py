"""Names of spans and attributes; dashboards and alerts depend on them."""

SYSTEM = "gcp_cloud_tasks"

MESSAGING_SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
TASK_NAME = "messaging.gcp_cloud_tasks.task.name"
TASK_RETRY_COUNT = "messaging.gcp_cloud_tasks.task.retry_count"
ATTEMPT = "relay.attempt"
QUEUE_DELAY_MS = "relay.queue_delay_ms"
VERDICT = "relay.verdict"
REASON = "relay.reason"
BLAME = "relay.blame"
RETRY_DELAY_MS = "relay.retry_delay_ms"
TRACE_REWRITTEN = "relay.trace.rewritten"
ERROR_TYPE = "error.type"
PENDING_SPAN_ID = "relay.pending_span_id"
RESEND_COUNT = "http.request.resend_count"
URL_FULL = "url.full"

# Redaction drops all others: an instrumentation may add headers and queries.
OWN_PREFIXES = ("relay.", "messaging.")
ATTRIBUTES = frozenset(
    {
        *(ERROR_TYPE, RESEND_COUNT, URL_FULL, "url.path", "url.scheme"),
        *("http.request.method", "http.response.status_code", "http.route"),
        *("server.address", "server.port", "client.address", "client.port"),
        *("network.peer.address", "network.peer.port", "network.protocol.version"),
    }
)

MAX_ATTRIBUTES, MAX_VALUE_LENGTH = 32, 256  # Cloud Trace's limits; it counts bytes, the SDK characters

DISPATCH = "POST /dispatch"
ARRIVALS = frozenset({"POST /v1/tasks", "POST /v1/tasks:batch", DISPATCH})  # other requests have no span
