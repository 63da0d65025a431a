"""Work on a machine: engines, locks, threads."""
