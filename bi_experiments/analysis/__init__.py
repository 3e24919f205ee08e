"""Pure: from records to numbers, findings, verdicts and the exit code.

A verdict on output bits comes about in four modules: `evidence` (what the phases of an arm found), `ledger` (in which
classes of steps), `invariance` (whether that holds), `verdict_sentences` (how it is said).
"""
