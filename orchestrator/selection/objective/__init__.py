"""Objective of a selection: the score of a candidate in the form in which it will be served."""
