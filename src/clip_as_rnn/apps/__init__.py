"""What people and machines start: the command line, and later servers and pages. Nothing imports from here."""
