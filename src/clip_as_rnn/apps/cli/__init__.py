"""The command line: `car`."""
