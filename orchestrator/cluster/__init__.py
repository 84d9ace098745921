"""The machines: Ray sessions, training launches, sharded engines, checkpoints, progress, metrics.

Maths never lives here, and the rooms that hold it never import this one except in a stage's
``runner.py``; worker functions are handed what they need as a ``WorkerContext``.
"""
