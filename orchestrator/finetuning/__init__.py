"""Fine-tuning as a stage, and what is done with its packages: evaluate, predict, generate."""
