"""`python -m gpucnn` is the `gpucnn` command."""

from gpucnn.cli import main

main()
