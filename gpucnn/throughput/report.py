"""What tables and charts have in common when they show a report."""

PEERS = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime"}


def best_rows(report: dict) -> list[dict]:
    """The results of a report with each peer at its best variant only."""
    rows: dict[tuple, dict] = {}
    for row in report["results"]:
        key = tuple(row[name] for name in ("model", "job", "batch", "backend", "math", "threads"))
        if key not in rows or row["images_per_second"] > rows[key]["images_per_second"]:
            rows[key] = row
    return list(rows.values())


def label(row: dict) -> str:
    """A contender's name: "numba exact", "numpy fast", "PyTorch", "ONNX Runtime"."""
    return PEERS.get(row["backend"]) or f"{row['backend']} {row['math']}"


def slowest(ratios: list[dict]) -> list[str]:
    """A sentence for each peer: where we are slowest beside it, and where fastest."""
    found = []
    for peer, name in PEERS.items():
        met = sorted((row for row in ratios if row["peer"] == peer and row.get("ratio")), key=lambda row: row["ratio"])
        if met:
            worst, best = (f"{r['ratio']:.2f} ({r['model']} {r['job']}, batch {r['batch']})" for r in (met[0], met[-1]))
            found.append(f"times {name}: {worst} where it is least" + (f", {best} where it is most" if met[1:] else ""))
    return found


def disturbance(rows: list[dict]) -> str:
    """A sentence on whether other processes let the figures be trusted."""
    slices, quiet = sum(row["slices"] for row in rows), sum(row["quiet_slices"] for row in rows)
    noisy = sum(row["figures_from"] != "quiet slices" for row in rows)
    if not noisy:
        return f"quiet: {quiet} of {slices} slices; those during which other processes ran were left out"
    return (
        f"NOT RELIABLE: other processes used the processors during {slices - quiet} of {slices} slices; {noisy} of "
        f"{len(rows)} figures had fewer than eight quiet slices and are from all"
    )
