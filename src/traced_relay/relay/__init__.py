"""The flows: enqueue, dispatch, operator actions and the sweep, each committed before it is logged."""
