"""Predictors of the final test score of a model from the epochs seen so far."""
