"""Queues as the relay needs them: their names in Cloud Tasks, and the settings that all of them share."""

from __future__ import annotations

# The relay retries calls itself. The queue retries a task only after a worker crashed: without end, and slowly.
QUEUE_RETRIES = {  # a RetryConfig in Cloud Tasks' JSON
    "maxAttempts": "-1",
    "maxRetryDuration": "0s",
    "minBackoff": "5s",
    "maxBackoff": "60s",
    "maxDoublings": "4",
}


def queue_prefix(project: str, location: str) -> str:
    """The full name of a queue without its own: `projects/P/locations/L/queues`."""
    return f"projects/{project}/locations/{location}/queues"
