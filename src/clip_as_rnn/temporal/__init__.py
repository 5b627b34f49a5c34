"""What the frames of a clip tell each other: where things move to, what was proposed there, and how sure it was."""
