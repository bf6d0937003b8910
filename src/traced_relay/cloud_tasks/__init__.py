"""The Cloud Tasks API: creates tasks, reads deliveries and queue statistics."""
