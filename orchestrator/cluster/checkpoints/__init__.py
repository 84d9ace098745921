"""Training checkpoints: writing, committing, verifying, fencing and branching."""
