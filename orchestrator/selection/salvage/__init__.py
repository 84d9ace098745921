"""Merging of other candidates of one base into the winner."""
