"""The picture of a run."""

from gpucnn import figures
from gpucnn.training.history import History


def draw_curves(history: History) -> bytes:
    """Loss and, where it was measured, accuracy over the epochs as a PNG."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

    shown = [key for key in ("loss", "accuracy") if any(value is not None for value in history[key])]
    figure = figures.new_figure(4.5 * len(shown), 3.6)
    for axes, key in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        marker = "o" if len(history) < 3 else None  # a line of one point shows nothing
        columns = ("training", key), ("validation", f"validation_{key}")
        seen: list[float] = []
        for (name, column), colour in zip(columns, figures.COLOURS):
            values = history[column]
            if measured := [value for value in values if value is not None]:  # not in each fit, perhaps
                seen += measured
                last = f"{100 * measured[-1]:.2f}%" if key == "accuracy" else f"{measured[-1]:.3g}"
                axes.plot(history["epoch"], values, label=f"{name} ({last})", marker=marker, color=colour)
        axes.set(xlabel="epoch", title=key)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
        if key == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif min(seen) > 0:  # a loss of one's own may be 0, or less
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    return figures.png(figure)
