"""Families of transformers' classes: one module per family, found by being here.

A module holds a tuple ``ARCHITECTURES`` (see ``architecture.py``); there is no other list to edit.
"""
