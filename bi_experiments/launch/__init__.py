"""The parent's side of a phase: when it runs, what it is passed, how it is started and followed."""
