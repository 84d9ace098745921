"""Engines that need nothing but torch: one process, and DistributedDataParallel."""
