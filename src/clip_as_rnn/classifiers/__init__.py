"""Stage 2 of the recurrence: one score per mask."""
