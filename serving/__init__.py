"""Put a model package behind HTTP with Ray Serve.

`serve run serving.app:build model=NAME@ALIAS zoo=DIR` starts it; `serve deploy
serving/configs/classify.yaml` is the production way; `orchestrator serve` wraps the first.
Requests pass `guard` (keys, limits, deadlines), one of `protocols/` (translation only), `service`
(validation, batching) and `engine` (package -> callable, no Ray).
"""
