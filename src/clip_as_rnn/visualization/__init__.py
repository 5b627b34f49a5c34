"""Pictures of results for people to look at: `overlay` and `recurrence`, on `palette` and `lettering`."""
