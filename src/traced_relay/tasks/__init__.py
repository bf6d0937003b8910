"""One task as values and pure rules: call, row, state machine, retry policy, reasons. Nothing here does I/O."""
