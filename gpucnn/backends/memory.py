"""How much memory this machine has."""

import os


def host_memory() -> int:
    """Bytes of main memory, whoever uses them; 0 where that cannot be found out."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return 0
