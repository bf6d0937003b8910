"""Calls to downstreams: rules, checked addresses, connections, strict responses, signatures."""
