"""Settings from the environment and relay.yaml."""
