"""The kernels of gpucnn, one folder per language; imports nothing else of gpucnn. They obey CONTRACT.md."""
