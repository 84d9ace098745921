"""Where in a library a docstring lies: the classes of the area tasks.

Each class is a few folders or files below the library's root. Folders that an installed version
does not have are left out of the task.
"""

LIBRARIES = ("torch", "transformers", "numpy", "scipy", "sklearn", "pandas", "ray", "matplotlib")

AREAS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "torch_area": ("torch", {
        "nn": ("nn",), "distributed": ("distributed",), "inductor": ("_inductor",),
        "dynamo": ("_dynamo",), "quantization": ("ao",), "fx": ("fx",), "onnx": ("onnx",),
        "distributions": ("distributions",),
    }),
    "sklearn_area": ("sklearn", {
        "ensemble": ("ensemble",), "linear_model": ("linear_model",), "metrics": ("metrics",),
        "preprocessing": ("preprocessing",), "model_selection": ("model_selection",),
        "cluster": ("cluster",), "decomposition": ("decomposition",), "utils": ("utils",),
    }),
    "scipy_area": ("scipy", {
        "stats": ("stats",), "optimize": ("optimize",), "sparse": ("sparse",),
        "signal": ("signal",), "interpolate": ("interpolate",), "special": ("special",),
        "linalg": ("linalg",), "spatial": ("spatial",),
    }),
    "pandas_area": ("pandas", {
        "arrays": ("core/arrays",), "indexes": ("core/indexes",), "formats": ("io/formats",),
        "dtypes": ("core/dtypes",), "internals": ("core/internals",),
        "grouping": ("core/groupby", "core/window", "core/resample.py"),
        "plotting": ("plotting",),
    }),
    "numpy_area": ("numpy", {
        "core": ("_core",), "lib": ("lib",), "polynomial": ("polynomial",), "masked": ("ma",),
        "building": ("distutils", "f2py"),
    }),
    "transformers_area": ("transformers", {
        "models": ("models",), "generation": ("generation",), "integrations": ("integrations",),
        "pipelines": ("pipelines",), "utils": ("utils",), "cli": ("cli",),
        "distributed": ("distributed",),
    }),
    "ray_area": ("ray", {
        "data": ("data",), "serve": ("serve",), "train": ("train",), "tune": ("tune",),
        "rllib": ("rllib",), "autoscaler": ("autoscaler",), "llm": ("llm",),
        "dashboard": ("dashboard",),
    }),
    "sympy_area": ("sympy", {
        "polys": ("polys",), "physics": ("physics",), "combinatorics": ("combinatorics",),
        "matrices": ("matrices",), "solvers": ("solvers",), "stats": ("stats",),
        "geometry": ("geometry",), "printing": ("printing",),
    }),
    "stdlib_area": ("stdlib", {
        "asyncio": ("asyncio",), "email": ("email",), "importlib": ("importlib",),
        "markup": ("xml", "html"), "tkinter": ("tkinter",),
        "processes": ("multiprocessing", "concurrent"), "unittest": ("unittest",),
        "network": ("http", "urllib"), "logging": ("logging",),
    }),
}  # fmt: skip

# Model files of Transformers are called ``models/<family>/<role>_<family>.py``.
ROLE_TASK = "transformers_role"
ROLES = ("modeling", "configuration", "tokenization", "image_processing", "processing")
