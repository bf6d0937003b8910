"""One task's life on one time axis, and what is missing from it."""
