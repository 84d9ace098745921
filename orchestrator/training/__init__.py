"""Shared parts of all stages that train: engines, objective, optimizers, schedules, loop, history.

Torch only: neither ray nor deepspeed is imported here, so the mathematics can be read beside the
paper and tested in milliseconds. An engine that needs a cluster implements
:class:`orchestrator.training.engines.engine.Engine` in ``orchestrator/cluster/engines``.
"""
