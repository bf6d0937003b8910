"""Hand slow HTTP calls to Cloud Tasks and keep sight of them."""

__version__ = "0.1.0"
