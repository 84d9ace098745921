"""Costs of a selection: budget, estimates, constraints and the ledger."""
