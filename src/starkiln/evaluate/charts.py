"""Curves as inline SVG that takes its colours and its font from the page around it.

Lines are drawn in placeholder colours that become CSS variables, so one SVG serves light and dark.
The same numbers give the same bytes.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

INKS = {
    "accent": "#000011",
    "second": "#000022",
    "muted": "#000033",
    "grid": "#000044",
}
_STYLE = {
    "svg.fonttype": "none",
    "path.simplify": True,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.linewidth": 0.8,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Curve:
    """One line of a chart: x and y [n], its direct label, and one of ``INKS``."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    ink: str = "accent"
    width: float = 1.8
    dots: bool = False


def binned(x: Sequence[float], y: Sequence[float], bins: int) -> tuple[list[float], list[float]]:
    """Means of ``x`` and ``y`` over at most ``bins`` runs of consecutive points."""
    parts = np.array_split(np.arange(len(x)), min(bins, len(x)))
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return [float(xs[p].mean()) for p in parts], [float(ys[p].mean()) for p in parts]


def curves(name: str, lines: Sequence[Curve], *, digits: str = ".2f", zero: bool = False) -> str:
    """An SVG of ``lines`` (500 by 250 units) with each label at the line's right end.

    ``digits`` formats the last value beside the label, ``zero`` lets the axis begin at 0.
    ``name`` keeps this chart's internal references apart from those of the others on the page.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(500 / 72, 250 / 72))
        axes = figure.add_axes((0.085, 0.12, 0.76, 0.83))
        for line in lines:
            _draw(axes, line)
        _frame(axes, lines, zero)
        _label(axes, lines, digits)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(out.getvalue(), name)


def _draw(axes: Axes, line: Curve) -> None:
    axes.plot(
        line.x,
        line.y,
        color=INKS[line.ink],
        linewidth=line.width,
        marker="o" if line.dots else "",
        markersize=3.5,
        markeredgewidth=0,
        solid_capstyle="round",
        clip_on=False,
    )


def _frame(axes: Axes, lines: Sequence[Curve], zero: bool) -> None:
    ys = np.concatenate([np.asarray(line.y, np.float64) for line in lines])
    low, high = (0.0 if zero else float(ys.min())), float(ys.max())
    room = (high - low or 1.0) * 0.04
    axes.set_ylim(low if zero else low - room, high + room)
    axes.set_xlim(0, max(max(line.x) for line in lines))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INKS["muted"])
    nice = [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=nice, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=nice))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color=INKS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INKS["muted"], pad=5)
    if high < 0.01:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _label(axes: Axes, lines: Sequence[Curve], digits: str) -> None:
    """Labels at the lines' ends, moved apart where they would touch."""
    named = sorted((line for line in lines if line.label), key=lambda line: line.y[-1])
    low, high = axes.get_ylim()
    apart, before = (high - low) * 0.14, -np.inf
    for line in named:
        before = max(line.y[-1], before + apart)
        axes.annotate(
            f"{line.label}\n{line.y[-1]:{digits}}",
            (axes.get_xlim()[1], before),
            xytext=(8, 0),
            textcoords="offset points",
            color=INKS[line.ink],
            va="center",
            linespacing=1.25,
            annotation_clip=False,
        )


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' width="[^"]*" height="[^"]*"', f' role="img" aria-label="{name}"', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for ink, placeholder in INKS.items():
        svg = svg.replace(placeholder, f"var(--{ink})")
    return re.sub(r"\s*\n\s*", " ", svg)
