"""An embedded Cloud Tasks. Imports `errors` and `runtime` only."""
