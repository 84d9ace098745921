"""What `benchmarks/pretraining.py` compares: the contenders, and how long they take to start."""
