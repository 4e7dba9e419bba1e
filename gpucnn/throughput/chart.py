"""The chart of a benchmark: a panel per model and job, a group of bars per batch size, a bar per contender."""

import io
from pathlib import Path

from gpucnn import figures
from gpucnn.storage import write_file
from gpucnn.throughput.report import PEERS, best_rows, label

SUFFIXES = (".png", ".svg", ".pdf")
# Peers are gray; the others have the colors of all pictures.
_PEERS = ("#8c8c8c", "#bdbdbd", "#5c5c5c")


def check_path(path) -> Path:
    """`path`, if a picture can be written there; raises ConfigurationError before anything is measured."""
    return figures.check_path(path, SUFFIXES, "a chart")


def draw(report: dict, path) -> None:
    """Draw `report` (as from `bench`) into the file at `path`; whiskers reach from quartile to quartile."""
    path = check_path(path)
    rows = best_rows(report)
    several = len({row["threads"] for row in rows if row["threads"]}) > 1

    def contender(row: dict) -> str:
        if not several or not row["threads"]:
            return label(row)
        return f"{label(row)}, {row['threads']} thread{'s' * (row['threads'] > 1)}"

    names = list(dict.fromkeys(map(contender, rows)))
    names.sort(key=_is_peer)
    colors: dict[str, str] = {}
    for palette, peer in ((figures.COLOURS, False), (_PEERS, True)):
        group = [name for name in names if _is_peer(name) == peer]
        colors |= {name: palette[i % len(palette)] for i, name in enumerate(group)}
    panels = list(dict.fromkeys((row["model"], row["job"]) for row in rows))
    bars = {panel: [row for row in rows if (row["model"], row["job"]) == panel] for panel in panels}

    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    sizes = [1.0 + 0.27 * (len(bars[p]) + len({row["batch"] for row in bars[p]})) for p in panels]  # inches
    heights = [max(sizes[first : first + columns]) for first in range(0, len(panels), columns)]
    figure = figures.new_figure(5.2 * columns, sum(heights) + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False, height_ratios=heights).ravel()
    for axes, panel in zip(grid, panels):
        _panel(axes, panel, bars[panel], names, contender, colors)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(f"images per second, higher is better ({report['machine']['processor']})", fontsize=10)
    handles = [
        figure.axes[0].barh(0, 0, color=colors[name], label=name) for name in names
    ]  # empty bars, for the legend
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix.lower().lstrip("."), dpi=130)
    write_file(path, content.getvalue())


def _is_peer(name: str) -> bool:
    return name.startswith(tuple(PEERS.values()))


def _panel(axes, panel: tuple[str, str], rows: list[dict], names: list[str], contender, colors: dict) -> None:
    place, ticks, labels, largest = 0.0, [], [], max(row["quartiles"][1] for row in rows)
    for batch in sorted({row["batch"] for row in rows}):
        group = sorted((row for row in rows if row["batch"] == batch), key=lambda row: names.index(contender(row)))
        ticks.append(place + (len(group) - 1) / 2)
        labels.append(f"batch {batch}")
        for row in group:
            rate, (low, high) = row["images_per_second"], row["quartiles"]
            axes.barh(
                place,
                rate,
                0.8,
                color=colors[contender(row)],
                xerr=[[rate - low], [high - rate]],
                error_kw={"ecolor": "#303030", "elinewidth": 1, "capsize": 2},
            )
            axes.text(high + 0.015 * largest, place, _rate(rate), va="center", fontsize=8)
            place += 1
        place += 0.7
    axes.set_yticks(ticks, labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * largest)
    axes.set_title(f"{panel[0]}, {panel[1]}", fontsize=10, loc="left")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _rate(rate: float) -> str:
    """Three significant digits: 12,300 or 1.26."""
    if rate < 100:
        return f"{rate:.3g}"
    digits = max(0, len(str(int(rate))) - 3)
    return f"{round(rate, -digits):,.0f}"
