"""What may be asked for: refuses what contradicts itself, and starts nothing."""
