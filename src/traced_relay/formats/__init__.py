"""Text formats: strict JSON, YAML, durations, validation errors, terminal text."""
