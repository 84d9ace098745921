"""Continual learning: create flat regions, find flatness, constrain by it (C&F).

Source: Create and Find Flatness (arXiv 2309.11305) as its published code computes it, with
sharpness after Foret et al. 2021 (SAM) and Kwon et al. 2021 (ASAM), importance after Kirkpatrick
et al. 2017 (EWC) in the online form of Schwarz et al. 2018. Deliberate deviations stand in the
modules.

``stream`` the tasks in order · ``create`` the ascent · ``find`` the importance · ``constraints``
penalty and box · ``replay`` the buffer · ``strategies`` their composition · ``metrics`` the
accuracy matrix · ``stages`` what finished tasks left · ``worker`` what runs on each rank ·
``runner`` the job.
"""
