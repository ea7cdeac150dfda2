"""Charts of the report as inline SVG: points in a plane, lines over images seen, histograms.

They carry their own text, sit on the page's cards and follow its colours, light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10

import numpy as np
from markupsafe import Markup

from stages.report.markup import EMPTY, PALETTE, join, number, tag

WIDTH, HEIGHT = 640, 340  # of the drawing; it scales with the card
STACKED = (PALETTE[0], PALETTE[1], "#9a9ca3")  # distinct in lightness too
NARROW = 500  # CSS px: on a narrower screen it is pushed aside rather than made too small to read
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 14, 44


Span = tuple[float, float]


@dataclass(frozen=True)
class Dot:
    """A dot: its place, what hovering says, the legend's entry it belongs to, and a label drawn beside it ("" none).

    `across` and `up` are the ends of its intervals along the axes, drawn as a cross; None for none.
    """

    x: float
    y: float
    title: str
    kind: str
    label: str = ""
    across: Span | None = None
    up: Span | None = None


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


def scatter(
    points: Sequence[Dot], x: str, y: str, front: Sequence[int] = (), chosen: int | None = None, trails: bool = False
) -> Markup:
    """Points in a plane, the ones of `front` joined by a line, `chosen` ringed; empty without finite points.

    Args:
        points: at least one with finite coordinates; others are left out.
        x: the name of the level axis; what follows " · " stands at the axis alone.
        y: the name of the upright axis, likewise.
        front: indices into `points` in the order of the line.
        chosen: index into `points`.
        trails: the points of a kind are joined too, faintly, in their order.
    """
    good = {index: p for index, p in enumerate(points) if isfinite(p.x) and isfinite(p.y)}
    if not good:
        return EMPTY
    across = axis(x, [value for p in good.values() for value in (p.x, *_ends(p.across))])
    up = axis(y, [value for p in good.values() for value in (p.y, *_ends(p.up))])
    kinds = list(dict.fromkeys(p.kind for p in good.values()))
    colours = {kind: PALETTE[index % len(PALETTE)] for index, kind in enumerate(kinds)}
    places = {index: (_px(across, p.x), _py(up, p.y)) for index, p in good.items()}

    # From the back to the front: frame, joining lines, intervals, dots, labels.
    parts = [_frame(across, up), _path([places[index] for index in front if index in good], class_="front")]
    if trails:
        for kind, colour in colours.items():
            trail = [places[index] for index, p in good.items() if p.kind == kind]
            parts.append(_path(trail, class_="line", stroke=colour, opacity=".4"))
    crosses = [(span, point) for point in good.values() for span in _spans(point, across, up)]
    for span, point in crosses:
        parts.append(_path(span, class_="span", stroke=colours[point.kind], stroke_width="1.5", opacity=".75"))
    for index, point in good.items():
        (cx, cy), extra = places[index], "".join(_said(*pair) for pair in ((x, point.across), (y, point.up)))
        place = {"cx": f"{cx:.1f}", "cy": f"{cy:.1f}"}
        if index == chosen:
            parts.append(tag("circle", class_="ring", **place, r=10))
        hover = f"{point.title}: {_short(x)} {number(point.x)}, {_short(y)} {number(point.y)}{extra}"
        parts.append(tag("circle", tag("title", hover), **place, r=5, fill=colours[point.kind]))
    parts += _tags([(*places[index], point.label) for index, point in good.items()], [span for span, _ in crosses])
    return _card(join(parts), f"{_short(y)} against {_short(x)}", kinds)


def _ends(span: Span | None) -> Sequence[float]:
    return [value for value in span if isfinite(value)] if span else ()


def _said(name: str, span: Span | None) -> str:
    return f"; {_short(name)} {number(span[0])} to {number(span[1])} in 95 of 100" if span else ""


def _short(name: str) -> str:
    """An axis's name without what is said about its direction."""
    return name.partition(" · ")[0]


def _path(places: Sequence[Span], **attributes: object) -> Markup:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return tag("polyline", **attributes, fill="none", points=line) if len(places) > 1 else EMPTY


def _spans(point: Dot, across: Axis, up: Axis) -> list[list[Span]]:
    """Where the point's intervals lie, as two lines through it: [(x, y) of the ends] each, [] for none."""
    cx, cy = _px(across, point.x), _py(up, point.y)
    level = [(_px(across, value), cy) for value in _ends(point.across)]
    return [level, [(cx, _py(up, value)) for value in _ends(point.up)]]


def _tags(labels: Sequence[tuple[float, float, str]], spans: Sequence[Sequence[Span]]) -> list[Markup]:
    """Labels beside their dots, each where it covers least of the dots, the spans and the labels drawn before."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in labels]
    for xs, ys in (zip(*span, strict=True) for span in spans if len(span) > 1):
        taken.append((min(xs) - 2, min(ys) - 2, max(xs) + 2, max(ys) + 2))

    # Six spots around each dot, the first of the best.
    parts = []
    for x, y, label in labels:
        if not label:
            continue
        wide = 6.4 * len(label)
        spots = [(x + 10, y + 4), (x - 10 - wide, y + 4), (x + 8, y - 9), (x + 8, y + 17), (x - 8 - wide, y - 9),
                 (x - 8 - wide, y + 17)]  # fmt: skip
        boxes = [(left, low - 10, left + wide, low + 2) for left, low in spots]
        costs = [
            sum(_shared(box, other) for other in taken) + 1000 * (box[0] < LEFT or box[2] > WIDTH) for box in boxes
        ]

        best = costs.index(min(costs))
        taken.append(boxes[best])
        left, low = spots[best]
        end = best in (1, 4, 5)  # on the dot's left: hung from its right end, for widths are guessed
        place = {"x": f"{left + wide if end else left:.1f}", "y": f"{low:.1f}"}
        parts.append(tag("text", label, class_="tag", **place, text_anchor="end" if end else None))
    return parts


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The area that two boxes (left, top, right, bottom) share."""
    wide, high = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(wide, 0) * max(high, 0)


def lines(xs: Sequence[float], series: Mapping[str, Sequence[float]], x: str, y: str, zero: bool = True) -> Markup:
    """Lines over a common x, one colour a series; values that are not finite break nothing and are left out."""
    finite = [value for values in series.values() for value in values if isfinite(value)]
    if len(xs) < 2 or not finite:
        return EMPTY
    across, up = axis(x, list(xs)), axis(y, finite, zero)
    parts = [_frame(across, up)]
    for index, values in enumerate(series.values()):
        colour = PALETTE[index % len(PALETTE)]
        shown = [(_px(across, a), _py(up, b)) for a, b in zip(xs, values, strict=True) if isfinite(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
        parts.append(tag("polyline", class_="line", stroke=colour, points=path))
        parts += [tag("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=3, fill=colour) for a, b in shown]
    return _card(join(parts), f"{y} over {x}", list(series))


def histograms(name: str, labels: Sequence[str], shares: Mapping[str, Sequence[float]]) -> Markup:
    """Bars side by side: for each of `labels` one bar a series, heights as shares of their series."""
    top = max((value for values in shares.values() for value in values), default=0.0)
    if not labels or top <= 0:
        return EMPTY

    width, height = 280, 120
    slot = width / len(labels)
    bar = slot * 0.84 / len(shares)
    parts = [tag("line", class_="grid-line", x1=0, x2=width, y1=y, y2=y) for y in (0, height / 2, height)]
    for index, (series, values) in enumerate(shares.items()):
        for place, value in enumerate(values):
            left, tall = slot * (place + 0.08) + bar * index, height * value / top
            hover = tag("title", f"{series}, {labels[place]}: {100 * value:.0f} %")
            parts.append(_bar(hover, left, height - tall, bar * 0.94, tall, PALETTE[index % len(PALETTE)]))

    for place, label in enumerate(labels):
        where = {"x": f"{slot * (place + 0.5):.1f}", "y": height + 14}
        parts.append(tag("text", label, class_="tick", **where, text_anchor="middle"))
    return _small(name, width, height, parts, _legend(shares))


def _bar(hover: Markup, left: float, top: float, wide: float, tall: float, colour: str) -> Markup:
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{wide:.1f}", "height": f"{tall:.1f}"}
    return tag("rect", hover, **place, fill=colour)


def _small(name: str, width: float, height: float, parts: Sequence[Markup], legend: Markup) -> Markup:
    """A small chart on a card of its own, with room for ticks below."""
    view = f"0 -4 {width} {height + 22}"
    svg = tag("svg", *parts, viewBox=view, role="img", aria_label=name)
    return tag("div", tag("div", tag("span", name), class_="name"), svg, legend, class_="card chart small")


def distribution(name: str, parts: Mapping[str, Sequence[float]], limit: float | None = None, bins: int = 30) -> Markup:
    """One histogram stacked of parts, a dashed line at `limit`; empty when there is nothing to count.

    Args:
        name: the chart's title.
        parts: legend's entry -> values, three at most; those that are not finite are left out. The far ends (half a
            percent) fall into the outermost bars.
        limit: drawn across all bars, and within the picture.
        bins: number of bars.
    """
    values = {part: np.array([v for v in given if isfinite(v)], np.float64) for part, given in parts.items()}
    everything = np.concatenate([*values.values(), []])
    if not len(everything):
        return EMPTY

    # The range: all but the far ends, and the limit within the picture.
    marks = [limit] if limit is not None else []
    low, high = (float(edge) for edge in np.quantile(everything, (0.005, 0.995)))
    low, high = min([low, *marks]), max([high, *marks])
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    edges = np.linspace(low, high, bins + 1)
    counts = {part: np.histogram(given.clip(low, high), edges)[0] for part, given in values.items()}
    top = int(np.sum(list(counts.values()), axis=0).max())
    width, height = 280, 120

    slot, drawn, base = width / bins, [], np.zeros(bins)
    for index, (part, found) in enumerate(counts.items()):
        for place in np.flatnonzero(found):
            tall = height * found[place] / top
            bottom = height - height * base[place] / top
            hover = tag("title", f"{part}, {number(edges[place])} to {number(edges[place + 1])}: {found[place]}")
            drawn.append(_bar(hover, slot * (place + 0.06), bottom - tall, slot * 0.88, tall, STACKED[index]))
        base += found
    drawn.append(tag("line", class_="grid-line", x1=0, x2=width, y1=height, y2=height))
    if limit is not None:
        x = f"{width * (limit - low) / (high - low):.1f}"
        drawn.append(tag("line", class_="front limit", x1=x, x2=x, y1=-4, y2=height))
    for end, value, anchor in ((0, low, "start"), (width, high, "end")):
        drawn.append(tag("text", f"{value:.3g}", class_="tick", x=end, y=height + 14, text_anchor=anchor))
    shown = [part for part, given in values.items() if len(given)]
    return _small(name, width, height, drawn, _legend(list(values), STACKED) if len(shown) > 1 else EMPTY)


def _px(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _py(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(across: Axis, up: Axis) -> Markup:
    """Grid lines, ticks and the names of both axes."""
    parts = []
    for tick in up.ticks:
        y, label = _py(up, tick), {"x": LEFT - 8, "y": f"{_py(up, tick) + 4:.1f}", "text_anchor": "end"}
        parts.append(tag("line", class_="grid-line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(tag("text", number(tick), class_="tick", **label))
    for tick in across.ticks:
        place = {"x": f"{_px(across, tick):.1f}", "y": HEIGHT - BOTTOM + 17}
        parts.append(tag("text", number(tick), class_="tick", **place, text_anchor="middle"))

    middle = (HEIGHT - BOTTOM + TOP) / 2
    below = {"x": (LEFT + WIDTH) / 2, "y": HEIGHT - 6}
    parts.append(tag("text", across.name, class_="axis", **below, text_anchor="middle"))
    turned = {"transform": f"rotate(-90 14 {middle})", "x": 14, "y": middle}
    parts.append(tag("text", up.name, class_="axis", **turned, text_anchor="middle"))
    return join(parts)


def _legend(kinds: Mapping[str, object] | Sequence[str], colours: Sequence[str] = PALETTE) -> Markup:
    if len(kinds) < 2:
        return EMPTY
    patches = (tag("i", "", style=f"background:{colours[index % len(colours)]}") for index in range(len(kinds)))
    entries = (tag("span", patch, kind) for patch, kind in zip(patches, kinds, strict=True))
    return tag("div", *entries, class_="legend")


def _card(body: Markup, what: str, kinds: Sequence[str]) -> Markup:
    least, view = f"min-width:{NARROW}px", f"0 0 {WIDTH} {HEIGHT}"
    svg = tag("svg", body, viewBox=view, style=least, role="img", aria_label=what)
    return tag("div", svg, _legend(kinds), class_="card chart", style="overflow-x:auto")
