"""Tests of the fine-tuning stage."""
