"""Parts of continual-learning methods, one file each; a method is a list of parts.

``base`` the hooks of a part and the view it gets of a task · ``configs`` the options, importable
without torch · ``create`` sharpness-aware ascent · ``find`` importance and penalty · ``clamp`` the
box · ``replay`` rehearsal · ``distill`` distillation.
"""
