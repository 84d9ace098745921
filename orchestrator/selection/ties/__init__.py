"""Ties: candidates that the validation rows cannot tell apart from the winner."""
