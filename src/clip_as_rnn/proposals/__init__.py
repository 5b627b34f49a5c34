"""Stage 1 of the recurrence: one soft mask per text."""
