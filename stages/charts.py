"""Charts of the report as inline SVG: points in a plane, lines over images seen, histograms side by side.

They carry their own text, sit on the page's cards and follow its colours, light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

from stages.page import PALETTE, number

WIDTH, HEIGHT = 640, 340  # of the drawing; it scales with the card
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 14, 44


@dataclass(frozen=True)
class Point:
    """A dot: its place, what hovering says, the legend's entry it belongs to, and a label drawn beside it ("" none)."""

    x: float
    y: float
    title: str
    kind: str
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """The range of an axis and where its ticks are."""

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at the low end."""
        return (value - self.low) / (self.high - self.low)


def axis(name: str, values: Sequence[float], zero: bool = False) -> Axis:
    """An axis over finite `values` with four to eight round ticks; `zero` begins it at 0."""
    low, high = (0.0 if zero else min(values)), max(values)
    if high <= low:
        low, high = low - 0.5, low + 0.5
    raw = (high - low) / 5
    scale = 10 ** floor(log10(raw))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(name, ticks[0], ticks[-1], ticks)


def scatter(points: Sequence[Point], x: str, y: str, front: Sequence[int] = (), chosen: int | None = None) -> str:
    """Points in a plane, the ones of `front` joined by a line, `chosen` ringed; "" without finite points.

    Args:
        points: at least one with finite coordinates; others are left out.
        x, y: the axes' names.
        front: indices into `points` in the order of the line.
        chosen: index into `points`.
    """
    good = {index: p for index, p in enumerate(points) if isfinite(p.x) and isfinite(p.y)}
    if not good:
        return ""
    across = axis(x, [p.x for p in good.values()])
    up = axis(y, [p.y for p in good.values()])
    kinds = list(dict.fromkeys(p.kind for p in good.values()))
    parts = [_frame(across, up)]
    line = " ".join(f"{_px(across, points[i].x):.1f},{_py(up, points[i].y):.1f}" for i in front if i in good)
    parts.append(f'<polyline class="front" points="{line}"/>' if line else "")
    for index, point in good.items():
        cx, cy = _px(across, point.x), _py(up, point.y)
        colour = PALETTE[kinds.index(point.kind) % len(PALETTE)]
        ring = f'<circle class="ring" cx="{cx:.1f}" cy="{cy:.1f}" r="10"/>' if index == chosen else ""
        hover = f"{point.title}: {x} {number(point.x)}, {y} {number(point.y)}"
        title = f"<title>{escape(hover)}</title>"
        parts.append(f'{ring}<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" fill="{colour}">{title}</circle>')
        if point.label:
            end = cx > WIDTH * 0.72  # labels at the right edge stand on the dot's left
            place = f'x="{cx + (-10 if end else 10):.1f}" y="{cy + 4:.1f}"' + (' text-anchor="end"' if end else "")
            parts.append(f'<text class="tag" {place}>{escape(point.label)}</text>')
    return _card("".join(parts), f"{y} against {x}", kinds)


def lines(xs: Sequence[float], series: Mapping[str, Sequence[float]], x: str, y: str, zero: bool = True) -> str:
    """Lines over a common x, one colour a series; values that are not finite break nothing and are left out."""
    finite = [value for values in series.values() for value in values if isfinite(value)]
    if len(xs) < 2 or not finite:
        return ""
    across, up = axis(x, list(xs)), axis(y, finite, zero)
    parts = [_frame(across, up)]
    for index, values in enumerate(series.values()):
        colour = PALETTE[index % len(PALETTE)]
        shown = [(_px(across, a), _py(up, b)) for a, b in zip(xs, values, strict=True) if isfinite(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in shown]
    return _card("".join(parts), f"{y} over {x}", list(series))


def histograms(name: str, labels: Sequence[str], shares: Mapping[str, Sequence[float]]) -> str:
    """Bars side by side: for each of `labels` one bar a series, heights as shares of their series."""
    top = max((value for values in shares.values() for value in values), default=0.0)
    if not labels or top <= 0:
        return ""
    width, height = 280, 120
    slot = width / len(labels)
    bar = slot * 0.84 / len(shares)
    parts = [f'<line class="grid-line" x1="0" x2="{width}" y1="{y}" y2="{y}"/>' for y in (0, height / 2, height)]
    for index, (series, values) in enumerate(shares.items()):
        for place, value in enumerate(values):
            left, tall = slot * (place + 0.08) + bar * index, height * value / top
            hover = escape(f"{series}, {labels[place]}: {100 * value:.0f} %")
            parts.append(
                f'<rect x="{left:.1f}" y="{height - tall:.1f}" width="{bar * 0.94:.1f}" height="{tall:.1f}" '
                f'fill="{PALETTE[index % len(PALETTE)]}"><title>{hover}</title></rect>'
            )
    for place, label in enumerate(labels):
        where = f'x="{slot * (place + 0.5):.1f}" y="{height + 14}"'
        parts.append(f'<text class="tick" {where} text-anchor="middle">{escape(label)}</text>')
    svg = f'<svg viewBox="0 -4 {width} {height + 22}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'
    return (
        f'<div class="card chart small"><div class="name"><span>{escape(name)}</span></div>{svg}{_legend(shares)}</div>'
    )


def _px(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _py(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(across: Axis, up: Axis) -> str:
    """Grid lines, ticks and the names of both axes."""
    parts = []
    for tick in up.ticks:
        y = _py(up, tick)
        parts.append(f'<line class="grid-line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in across.ticks:
        place = f'x="{_px(across, tick):.1f}" y="{HEIGHT - BOTTOM + 17}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{number(tick)}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    below = f'x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}"'
    parts.append(f'<text class="axis" {below} text-anchor="middle">{escape(across.name)}</text>')
    turned = f'transform="rotate(-90 14 {middle})" x="14" y="{middle}"'
    parts.append(f'<text class="axis" {turned} text-anchor="middle">{escape(up.name)}</text>')
    return "".join(parts)


def _legend(kinds: Mapping[str, object] | Sequence[str]) -> str:
    if len(kinds) < 2:
        return ""
    entries = (
        f'<span><i style="background:{PALETTE[index % len(PALETTE)]}"></i>{escape(kind)}</span>'
        for index, kind in enumerate(kinds)
    )
    return f'<div class="legend">{"".join(entries)}</div>'


def _card(body: str, what: str, kinds: Sequence[str]) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(what)}">{body}</svg>'
    return f'<div class="card chart">{svg}{_legend(kinds)}</div>'
