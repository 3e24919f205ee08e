"""The proof: probes alone and in batches, compared bit by bit."""
