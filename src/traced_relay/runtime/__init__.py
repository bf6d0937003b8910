"""What runs the rest: clock, timers, threads, listeners, bounded HTTP requests, credentials."""
