"""The tables and the chart of throughput, from the newest results in bench/results.

    python bench/tables.py [RESULTS.json ...] [--write]

Prints the tables. With --write it puts those of whole networks into README.md and all into docs/speed.md, between the
lines <!-- bench: begin --> and <!-- bench: end -->, and draws docs/throughput.png.
"""

import argparse
import json
import sys
from pathlib import Path

from gpucnn.throughput.chart import draw
from gpucnn.throughput.report import PEERS, best_rows, label

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
CHART = Path("docs") / "throughput.png"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="*", type=Path, help="default: the newest of the CPU and of inference")
    parser.add_argument("--write", action="store_true", help="into README.md, docs/speed.md and docs/throughput.png")
    options = parser.parse_args()
    paths = options.results or newest(RESULTS)
    if not paths:
        sys.exit("no results in bench/results: run bench/cpu.py, bench/operations.py and bench/inference.py first")
    contents = [json.loads(path.read_text()) for path in paths]
    text = "\n\n".join(map(tables, contents))
    if not options.write:
        print(text)
        return
    chart = ROOT / CHART
    chart.parent.mkdir(exist_ok=True)
    networks = next((c["networks"] for c in contents if "networks" in c), None)
    if networks:
        draw(networks, chart)
        text += f"\n\n![Images per second of each network, here and in PyTorch]({CHART.name})"
    of_networks = "\n\n".join(tables(content, short=True) for content in contents)
    for page, part in ((ROOT / "README.md", of_networks), (ROOT / "docs" / "speed.md", text)):
        page.write_text(between(page.name, page.read_text(), part))
        print(f"written to {page}")


def newest(folder: Path) -> list[Path]:
    """The newest file of the CPU and of inference; names end in a date that sorts. What was measured on a GPU has more
    peers than a table here: docs/speed.md tells it.
    """
    files = (sorted(folder.glob(f"{kind}-*.json")) for kind in ("cpu", "inference"))
    return [paths[-1] for paths in files if paths]


def between(name: str, page: str, text: str) -> str:
    """`page` with `text` between the two marks; ends the program unless both occur once, in order."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        sys.exit(f"{name} needs one line {BEGIN} and after it one line {END}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def tables(content: dict, short: bool = False) -> str:
    """Markdown of one file of results: the networks, inference, then the operations; a GPU's throughput like the
    networks. `short` is for the README.
    """
    parts = []
    for section in ("networks", "throughput"):
        if section in content:
            machine = content[section].get("machine") or content["machine"]
            parts += [where(machine, content[section]), networks(content[section])]
    if "inference" in content:
        machine = content["inference"]["machine"]
        parts += [where(machine, content["inference"]), inference(content["inference"], latencies=not short)]
    if "operations" in content and not short:
        parts += [where(content["operations"]["machine"], content["operations"]), operations(content["operations"])]
    return "\n\n".join(parts)


def inference(report: dict, latencies: bool) -> str:
    """A line per batch size with each network's ratio to the better peer, or one per case with all figures."""
    batches = sorted({row["batch"] for row in report["results"]})
    names = list(dict.fromkeys(row["network"] for row in report["results"]))
    if not latencies:
        ratios = {(row["network"], row["batch"]): f"{row['ratio']:.2f}" for row in report["results"]}
        short = [[f"batch {batch}", *(ratios.get((name, batch), "") for name in names)] for batch in batches]
        return markdown(["ratio", *names], short)
    lines = []
    for name in names:
        rows = {row["batch"]: row for row in report["results"] if row["network"] == name}
        for batch, row in rows.items():
            rates = row["images_per_second"]
            peer = min(row["ratios"], key=lambda key: row["ratios"][key])
            both = row.get("latency_microseconds", {})
            cells = [f"{both[key][0]:.0f}, {both[key][1]:.0f}" if both else "" for key in ("gpucnn", peer)]
            lines.append([name, batch, f"{rates['gpucnn']:,.0f}", f"{rates[peer]:,.0f} ({peer})"])
            lines[-1] += [f"**{row['ratio']:.2f}**", *cells]
    head = ["network", "batch", "images/s", "the better peer", "ratio", "us of a call: median, 99th percentile", "its"]
    return markdown(head, lines)


def where(machine: dict, report: dict) -> str:
    """A sentence on where and when it was measured."""
    threads = sorted({row["threads"] for row in report["results"] if row["threads"]})
    versions = machine["versions"]
    text = f"Measured on {machine['date'][:10]}: {machine['processor']}"
    text += f", {', '.join(map(str, threads))} thread{'s' * (threads != [1])}" if threads else ""
    numba, torch = versions.get("numba", "none"), versions.get("torch", "none")
    text += f"; Python {machine['python']}, Numba {numba}, PyTorch {torch}"
    text += f", ONNX Runtime {versions['onnxruntime']}." if versions.get("onnxruntime") else "."
    disturbed = sum(row.get("figures_from") == "all slices" for row in report["results"])
    if disturbed:
        text += f" Other processes disturbed {disturbed} of {len(report['results'])} figures."
    return text


def networks(report: dict) -> str:
    """One line per case and backend."""
    about = ("model", "job", "batch", "backend", "math", "threads")
    ratios = {
        (*(r[name] for name in about), r.get("peer", "pytorch")): r for r in reversed(report["ratios"])
    }  # the first of a case, against strict float32, wins
    rows = best_rows(report)
    best = {(r["model"], r["job"], r["batch"], r["threads"], r["backend"]): r for r in rows if r["backend"] in PEERS}
    variants = {
        (r["model"], r["job"], r["batch"], r["backend"], r.get("variant", "")): r for r in reversed(report["results"])
    }
    peers = [peer for peer in PEERS if any(key[-1] == peer for key in best)]
    lines = []
    for row in rows:
        if row["backend"] in PEERS:
            continue
        cells, case = [], (row["model"], row["job"], row["batch"])
        for peer in peers:
            met = ratios.get((*(row[name] for name in about), peer), {})
            # Its best in the precision of the ratio.
            theirs = variants.get((*case, peer, met.get("variant"))) or best.get((*case, row["threads"], peer))
            variant = f" ({met['variant']})" if met and peer == "pytorch" else ""
            cells.append(f"{theirs['images_per_second']:,.0f}{variant}" if met and theirs else "")
            cells.append(f"**{met['ratio']:.2f}**" if met else "")
        part = row["peak_fraction"]
        about_row = [row["model"], row["job"], row["batch"], label(row), f"{row['images_per_second']:,.0f}"]
        lines.append([*about_row, "" if part is None else f"{part:.0%}", *cells])
    head = ["network", "job", "batch", "backend", "images/s", "of the peak"]
    for peer in peers:
        head += [f"{PEERS[peer]} images/s" + " (its best)" * (peer == "pytorch"), "ratio"]
    return markdown(head, lines)


def operations(report: dict) -> str:
    """One line per convolution and pass; taps on padding count as work, as is usual."""
    lines = []
    for row in report["results"]:
        theirs = min(row.get("pytorch_milliseconds", {}).values(), default=None)
        fraction = row.get("peak_fraction")
        lines.append(
            [
                row["operation"],
                row["pass"],
                f"{row['milliseconds']:.2f}",
                f"{row['gflops']:.0f}",
                "" if fraction is None else f"{fraction:.0%}",
                "" if fraction is None else f"{row['peak_fraction_inside']:.0%}",
                "" if theirs is None else f"{theirs:.2f}",
            ]
        )
    batch = report["results"][0]["batch"]
    head = [f"3x3 convolution, batch {batch}", "pass", "ms", "GFLOP/s", "of the peak", "without padding", "PyTorch ms"]
    return markdown(head, lines)


def markdown(head: list[str], lines: list[list]) -> str:
    """A Markdown table; columns of numbers are aligned to the right."""
    rule = ["---:" if all(_is_number(line[i]) for line in lines) else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (head, rule, *lines))


def _is_number(cell) -> bool:
    return str(cell).strip("*%").replace(",", "").replace(".", "").isdigit() or cell == ""


if __name__ == "__main__":
    main()
