"""The view of a running job: progress, metrics, tracking, messages of rank 0 to the driver."""
