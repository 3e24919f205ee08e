"""One record, presented several ways: terminal text, a live display while it runs."""
