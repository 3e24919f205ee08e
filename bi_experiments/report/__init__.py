"""One record, told several ways: terminal text, a live display while it runs."""
