"""Measures what the relay and its queue cost, as ratios to floors in the same run. `python -m bench --help`."""
