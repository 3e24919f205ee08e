"""Pure: from records to numbers, findings, verdicts and the exit code."""
