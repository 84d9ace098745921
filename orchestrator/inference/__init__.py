"""Inference: a package as a callable, rows in, answers out. No Ray.

Evaluation, batch prediction, the evaluation suite, quantization and serving all answer through
``Predictor``: what is measured is what is deployed.
"""
