"""Task kinds: the one contract that every stage fulfils for a labelled task.

A task kind says how labels are read, which head learns them, how the outputs of that head become
answers (NumPy only: serving uses the same code), and which metrics those answers have. Each kind is
one file in ``kinds``; ``base`` is the contract, ``metrics`` and ``intervals`` the figures,
``measure`` the exam.
"""
