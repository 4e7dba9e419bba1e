"""The kernels of gpucnn, one folder a language; imports nothing of the rest. CONTRACT.md is the law they obey."""
