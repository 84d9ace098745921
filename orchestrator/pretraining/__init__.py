"""Corpus to package: settings, the plan that ``--check`` prints, the training, the job."""
