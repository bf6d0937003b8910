"""Spans and trace context: propagation, instrumentation, redaction, export."""
