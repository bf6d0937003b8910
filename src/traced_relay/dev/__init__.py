"""Everything on one machine, for development and the demo."""
