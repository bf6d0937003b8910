"""Log records: written for Cloud Logging, and read back."""
