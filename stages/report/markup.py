"""HTML building blocks of the report: one self-contained page, no script, no font and no picture from elsewhere.

Finished markup is a `markupsafe.Markup`; whatever else is put into an element is text and is escaped there. So a name
or a measure that holds `<` cannot become markup by being forgotten.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from stages.core.images import encode_png, read_image
from stages.core.mark import marked, origin

PALETTE = ("#4f6df5", "#e2643d", "#1f9d7a", "#a45bd0", "#c99a16", "#d2478b")
JPEG_ABOVE = 90_000  # bytes of PNG from which a picture goes in as JPEG at quality 92
SMOOTHED = 12  # points that the smoothed curve averages over, at most
EMPTY = Markup("")
VOID = ("img", "wbr")  # elements of HTML that have no end
DRAWN = ("line", "polyline", "circle", "rect")  # elements of SVG that mostly have no content


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; texts among its children and attributes are escaped.

    Args:
        name: of the element. It is trusted, as are the attributes' names.
        children: markup or text.
        attributes: `class_` is class, `aria_label` is aria-label; None leaves one out.
    """
    given = EMPTY.join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), value)
        for key, value in attributes.items()
        if value is not None
    )
    if name in (*VOID, *DRAWN) and not children:
        return Markup("<{}{}{}>").format(Markup(name), given, "/" if name in DRAWN else "")
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, join(children))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Markup and texts one after another, the texts escaped."""
    return Markup(between).join(escape(part) for part in parts)


@lru_cache
def style_sheet() -> str:
    """The page's CSS; it lies beside this file."""
    return Path(__file__).with_name("report.css").read_text()


def page(title: str, *body: Markup, css: str = "") -> Markup:
    """A whole HTML document around `body`; `css` is added to the style sheet."""
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        "<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{}\n</main>\n</body>\n</html>\n"
    )
    return Markup(text).format(title, Markup(style_sheet() + css), join((part for part in body if part), "\n"))


def header(title: str, lede: str, *below: Markup) -> Markup:
    """A page's head: what made it, its title, and a line on what it holds."""
    return tag(
        "header", tag("p", "tristyle", class_="eyebrow"), tag("h1", title), tag("p", lede, class_="lede"), *below
    )


def section(eyebrow: str, title: str, *parts: Markup) -> Markup:
    """A titled section; empty when none of `parts` holds anything, so that a missing stage leaves no heading."""
    content = join((part for part in parts if part), "\n")
    if not content:
        return EMPTY
    return tag("section", "\n", tag("p", eyebrow, class_="eyebrow"), "\n", tag("h2", title), "\n", content)


def heading(title: str, body: Markup) -> Markup:
    """`body` under a small heading; empty when there is nothing to head."""
    return tag("h3", title) + body if body else EMPTY


def note(text: str) -> Markup:
    """A line of explanation under a heading."""
    return tag("p", text, class_="note")


def picture(source: Path | np.ndarray, alt: str, of: Path | None = None) -> Markup:
    """An `<img>` with its bytes inside, marked as synthetic where the file is that it shows.

    Args:
        source: a PNG file of the project's own, or uint8 [H, W, 3] RGB. Large ones are re-encoded as JPEG.
        alt: what it shows, for who cannot see it.
        of: the file that an array was made of.
    """
    data = source.read_bytes() if isinstance(source, Path) else encode_png(source)
    said, kind = origin(data if isinstance(source, Path) else of.read_bytes() if of else b""), "png"
    if len(data) > JPEG_ABOVE or not data.startswith(b"\x89PNG"):
        data, kind = _jpeg(read_image(source) if isinstance(source, Path) else source), "jpeg"
    if said and not origin(data):
        data = marked(data, said)
    encoded = base64.b64encode(data).decode()
    return tag("img", src=Markup(f"data:image/{kind};base64,{encoded}"), alt=alt)  # noqa: S704 - base64


def _jpeg(image: np.ndarray) -> bytes:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), options)[1].tobytes())


def fit(image: np.ndarray, width: int) -> np.ndarray:
    """uint8 [H, W, 3] brought near `width` px: enlarged by a whole factor (cubic; browsers do it badly), or shrunk."""
    import cv2

    factor = width / image.shape[1]
    if 0.5 < factor < 1.5:
        return image
    scale = round(factor) if factor > 1 else factor
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA))


def figure(source: Path | np.ndarray, alt: str, caption: str = "", style: str = "", of: Path | None = None) -> Markup:
    """A captioned picture on a card; see `picture`."""
    text = tag("figcaption", caption) if caption else EMPTY
    return tag("figure", picture(source, alt, of), text, class_=f"card sheet {style}")


def gallery(sources: Sequence[np.ndarray], alt: str, caption: str, least: int = 64, of: Path | None = None) -> Markup:
    """Pictures on one captioned card, as many to a row as fit at `least` CSS px; empty when there are none.

    One of the files that they were made of speaks for all, see `picture`.
    """
    if not len(sources):
        return EMPTY
    shots = (picture(source, f"{alt} {index + 1}", of) for index, source in enumerate(sources))
    columns = f"grid-template-columns:repeat(auto-fill,minmax({least}px,1fr))"
    shown = tag("div", *shots, class_="shots", style=columns)
    return tag("figure", shown, tag("figcaption", caption), class_="card sheet")


def tile(what: str, value: str, unit: str = "", verdict: bool | None = None, target: str = "") -> Markup:
    """A number in large type; with a `target` a badge says whether it was reached."""
    badge = EMPTY
    if target:
        mark, style = {None: ("", ""), True: ("✓ ", "good"), False: ("✗ ", "bad")}[verdict]
        badge = tag("span", mark, target, class_=f"badge {style}")
    number = tag("div", value, tag("small", unit), class_="value")
    return tag("div", tag("div", what, class_="what"), number, badge, class_="card tile")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = (), style: str = "") -> Markup:
    """A table; empty without rows.

    Args:
        head: titles of the columns.
        rows: cells, markup or text.
        numeric: columns that are right-aligned.
        style: what becomes of a row on a phone: "" stays a row, "stack" a block, "stack line" a block of three lines.
    """

    def cell(name: str, column: int, value: str) -> Markup:
        return tag(name, value, class_="num" if column in numeric else None)

    body = [tag("tr", *(cell("td", column, value) for column, value in enumerate(row))) for row in rows]
    if not body:
        return EMPTY
    top = tag("thead", tag("tr", *(cell("th", column, name) for column, name in enumerate(head))))
    content = tag("table", top, "\n", tag("tbody", join(body, "\n")), class_=style)
    return tag("div", content, class_="card scroll")


def folded(summary: str, *body: Markup) -> Markup:
    """What is shown on a click at `summary`."""
    return tag("details", tag("summary", summary), *body)


def number(value: float) -> str:
    """A number in at most four significant digits; whole numbers with thin thousands separators."""
    if value != value:
        return "n/a"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}"


def text(value: object) -> str:
    """A measure or setting as plain text: numbers short, anything else as it is."""
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested dicts as one level with dotted keys; lists stay as they are."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, object] = {}
    for key, item in value.items():
        found |= flat(item, f"{prefix}.{key}" if prefix else key)
    return found


def curves(log: Sequence[Mapping[str, float | str]]) -> Markup:
    """Small multiples of everything in a log.jsonl: one chart a scalar, one colour a training phase.

    The thin line is what was logged, the thick one its running mean. A positive scalar that spans more than two decades
    is drawn on a logarithmic scale.
    """
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in log:
        for name, value in row.items():
            if name not in ("phase", "images") and isinstance(value, (int, float)):
                points = series.setdefault((str(row.get("phase", "")), name), [])
                points.append((float(row.get("images", 0)), float(value)))
    phases = list(dict.fromkeys(phase for phase, _ in series))
    charts = [
        _curve(phase.rpartition("/")[2], name, points, PALETTE[phases.index(phase) % len(PALETTE)])
        for (phase, name), points in sorted(series.items(), key=lambda item: phases.index(item[0][0]))
    ]
    drawn = join(charts)
    return tag("div", drawn, class_="curves") if drawn else EMPTY


def _curve(phase: str, name: str, points: list[tuple[float, float]], colour: str) -> Markup:
    """One chart as inline SVG on a 100 x 100 field that stretches with the card."""
    xs, ys = np.array(points).T
    good = np.isfinite(ys)
    xs, ys = xs[good], ys[good]
    if len(xs) < 2:
        return EMPTY
    logarithmic = bool(ys.min() > 0 and ys.max() > 100 * ys.min())
    heights = np.log10(ys) if logarithmic else ys
    low, high = float(heights.min()), float(heights.max())
    spread, length = (high - low) or 1.0, float(xs[-1] - xs[0]) or 1.0

    def path(values: np.ndarray) -> str:
        steps = np.unique(np.linspace(0, len(values) - 1, min(len(values), 240)).round().astype(int))
        across, down = 100 * (xs - xs[0]) / length, 100 - 100 * (values - low) / spread
        return " ".join(f"{across[step]:.1f},{down[step]:.1f}" for step in steps)

    window = max(1, min(SMOOTHED, len(heights) // 4))
    weights = np.full(window, 1 / window)  # centred; at the ends the mean of what there is
    smooth = np.convolve(heights, weights, "same") / np.convolve(np.ones_like(heights), weights, "same")

    last = number(float(10 ** smooth[-1] if logarithmic else smooth[-1]))
    label = f"{name}: {number(float(ys[0]))} at first, {number(float(ys[-1]))} at last"
    span = f"{number(float(ys.min()))} – {number(float(ys.max()))}{', log' if logarithmic else ''}"
    title = tag("span", tag("i", phase, style=f"color:{colour}"), name.lstrip("_"))
    drawing = tag(
        "svg",
        *(tag("line", class_="grid-line", x1=0, x2=100, y1=y, y2=y) for y in (0, 50, 100)),
        tag("polyline", class_="raw", stroke=colour, points=path(heights)),
        tag("polyline", class_="smooth", stroke=colour, points=path(smooth)),
        viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=label,
    )  # fmt: skip
    ends = tag("div", tag("span", span), tag("span", f"{xs[-1] / 1000:.3g}k images"), class_="ends")
    return tag("div", tag("div", title, tag("b", last), class_="name"), drawing, ends, class_="card curve")
