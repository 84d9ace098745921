"""HTTP serving of a model package with Ray Serve.

`serve run serving.app:build model=NAME@ALIAS zoo=DIR` starts it; `serve deploy
serving/configs/classify.yaml` is the production way; `orchestrator serve` wraps the first.
A request passes three rooms: `guard` (keys, limits, deadlines), `protocols` (models of bodies and
answers, translation only) and `model` (the package as a callable; no Ray).
"""
