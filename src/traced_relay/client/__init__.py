"""The Python client of a relay's API."""
