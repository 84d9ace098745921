"""Trials: one candidate trained epoch by epoch, the journal of all epochs, and their scheduler."""
