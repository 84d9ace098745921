"""One tool on Ray that carries a model through its whole life.

Pre-train, select, learn continually, quantize and serve: each stage reads and writes the same
artefact, the model package (``orchestrator.zoo``). Importing this package loads neither torch nor
ray: a command line that only validates a file answers at once.
"""

__version__ = "0.1.0"
