"""The project's files compared with a Google Cloud project."""
