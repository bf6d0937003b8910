"""Clock, timers, threads, listeners, caches, bounded HTTP requests, credentials."""
