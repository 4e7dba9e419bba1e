"""CPU kernels in Numba: 16 images ride in the lanes of an LLVM vector, so no kernel ever looks at a lane number."""
