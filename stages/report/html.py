"""HTML building blocks of the report: one self-contained page, no script, no font and no picture from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from stages.core.images import encode_png, read_image

PALETTE = ("#4f6df5", "#e2643d", "#1f9d7a", "#a45bd0", "#c99a16", "#d2478b")
JPEG_ABOVE = 90_000  # bytes of PNG from which a picture goes in as JPEG at quality 92
SMOOTHED = 12  # points that the smoothed curve averages over, at most

CSS = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#1b1c1f;--soft:#63666d;--line:#e6e3dc;--accent:#3f5be0;
--good:#14795a;--good-bg:#e3f4ec;--bad:#a8401d;--bad-bg:#fbe9e1;
--shadow:0 1px 2px rgba(30,25,10,.05),0 8px 24px rgba(30,25,10,.05)}
@media (prefers-color-scheme:dark){:root{--paper:#131417;--card:#1c1e22;--ink:#eceae5;--soft:#9b9ea6;--line:#2e3137;
--accent:#8ea2ff;--good:#6fd3ae;--good-bg:#17322a;--bad:#f09a77;--bad-bg:#3a231a;--shadow:none}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Liberation Sans",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:56px 28px 96px}
header{margin-bottom:36px}
.eyebrow{color:var(--accent);font-size:13px;font-weight:650;letter-spacing:.08em;text-transform:uppercase;
margin:0 0 6px}
h1{font-size:clamp(30px,5.4vw,48px);line-height:1.08;letter-spacing:-.025em;margin:0 0 12px;font-weight:720}
h2{font-size:24px;letter-spacing:-.015em;line-height:1.2;margin:0 0 6px;font-weight:680}
h3{font-size:15px;font-weight:650;margin:28px 0 10px}
p{margin:0 0 14px;max-width:70ch}
.lede{color:var(--soft);font-size:18px;margin:0}
.note{color:var(--soft);font-size:14px;margin:0 0 18px}
section{margin-top:64px}
a{color:var(--accent)}
code,pre{font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;overflow-x:auto;
margin:0 0 14px}
code{overflow-wrap:anywhere}
img{display:block;max-width:100%;height:auto}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;box-shadow:var(--shadow)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(172px,1fr));gap:14px;margin-top:32px}
.tile{padding:16px 18px}
.tile .what{color:var(--soft);font-size:13px;line-height:1.35;min-height:2.7em}
.tile .value{font-size:30px;font-weight:690;letter-spacing:-.02em;font-variant-numeric:tabular-nums;line-height:1.3}
.tile .value small{font-size:15px;font-weight:500;letter-spacing:0;color:var(--soft);margin-left:3px}
.badge{display:inline-block;font-size:12px;font-weight:600;border-radius:99px;padding:1px 9px;background:var(--line)}
.badge.good{background:var(--good-bg);color:var(--good)}.badge.bad{background:var(--bad-bg);color:var(--bad)}
.people{display:grid;grid-template-columns:repeat(auto-fill,minmax(440px,1fr));gap:18px}
.person{padding:12px}
.columns{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:8px}
figure{margin:0}
.columns figcaption,.caption{color:var(--soft);font-size:12px;line-height:1.3;margin-top:6px}
.columns img,.shots img{width:100%;border-radius:7px}
.sheet{padding:12px;overflow-x:auto}
.sheet img{border-radius:6px;margin:0 auto}
.sheet.wide img{width:100%}
.sheet+.sheet{margin-top:18px}.sheets .sheet+.sheet{margin-top:0}
.sheet figcaption{color:var(--soft);font-size:13px;margin-top:10px}
.sheets{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px;align-items:start}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(196px,1fr));gap:14px}
.curve{padding:12px 14px 10px}
.curve .name{display:flex;justify-content:space-between;gap:8px;font-size:13px;font-weight:620;overflow-wrap:anywhere}
.curve .name b{font-variant-numeric:tabular-nums;font-weight:500;color:var(--soft);white-space:nowrap}
.curve .name i{display:block;font-style:normal;font-size:11px;font-weight:600}
.curve svg{display:block;width:100%;height:84px;margin:8px 0 4px;overflow:visible}
.curve .ends{display:flex;justify-content:space-between;color:var(--soft);font-size:11px;
white-space:nowrap;font-variant-numeric:tabular-nums}
.grid-line{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke}
.raw,.smooth{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round}
.raw{stroke-width:1;opacity:.28}.smooth{stroke-width:2}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px}
.chart{padding:14px 16px 12px}.chart svg{display:block;width:100%;height:auto}.chart+.chart{margin-top:18px}
.charts .chart+.chart{margin-top:0}.chart .name{font-size:13px;font-weight:620;margin-bottom:8px}
.chart text{fill:var(--soft);font-size:12px}.chart.small text{font-size:10.5px}
.chart .tag{fill:var(--ink);paint-order:stroke;stroke:var(--card);stroke-width:4px}.chart+.sheet{margin-top:18px}
.chart .axis{font-weight:600}.chart .line{fill:none;stroke-width:2;stroke-linejoin:round}
.chart .front{fill:none;stroke:var(--soft);stroke-width:1.4;stroke-dasharray:4 4}
.chart .ring{fill:none;stroke:var(--ink);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--soft);font-size:12px;margin-top:8px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.scroll{overflow-x:auto;border-radius:14px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:12px;letter-spacing:.02em}
th,td{padding:7px 14px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.num,th.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td .why{color:var(--soft);font-size:13px;display:block}
table.line td:nth-child(3),table.line td:nth-child(4):not(:last-child){white-space:nowrap}
h2+.card{margin-top:16px}h2+pre{margin-top:16px}
td .kind{color:var(--soft);font-size:12px;display:inline-block;width:58px}
details{border-bottom:1px solid var(--line);padding:10px 0}
summary{cursor:pointer;font-weight:600;font-size:14px}
details pre{margin-top:12px}
.shots{display:grid;gap:6px}
td .shots{grid-template-columns:repeat(6,52px)}
footer{margin-top:72px;padding-top:18px;border-top:1px solid var(--line);color:var(--soft);font-size:13px}
@media (max-width:620px){main{padding:32px 16px 64px}section{margin-top:48px}.people{grid-template-columns:1fr;gap:12px}
.person{padding:10px}.columns{gap:6px}.curves{grid-template-columns:1fr 1fr;gap:10px}.curve{padding:10px}
.tiles{grid-template-columns:1fr 1fr;gap:10px}.tile{padding:12px 14px}.tile .value{font-size:25px}
table.stack thead{display:none}table.stack td{display:block;border:0;padding:2px 14px}
table.stack td.num{text-align:left;font-weight:650}
table.stack tr{display:block;border-bottom:1px solid var(--line);padding:9px 0}table.stack td:empty{display:none}
table.line td:not(:first-child):not(:last-child){display:inline-block;padding-right:0}}
@media print{.card{box-shadow:none}section{break-inside:avoid-page}}
"""


def page(title: str, body: str) -> str:
    """A whole HTML document around `body`."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(eyebrow: str, title: str, *parts: str) -> str:
    """A titled section; "" when none of `parts` holds anything, so that a missing stage leaves no empty heading."""
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    return f'<section>\n<p class="eyebrow">{escape(eyebrow)}</p>\n<h2>{escape(title)}</h2>\n{content}\n</section>'


def note(text: str) -> str:
    """A line of explanation under a heading."""
    return f'<p class="note">{escape(text)}</p>'


def picture(source: Path | np.ndarray, alt: str) -> str:
    """An `<img>` with its bytes inside.

    Args:
        source: a PNG file of the project's own, or uint8 [H, W, 3] RGB. Large ones are re-encoded as JPEG.
    """
    data = source.read_bytes() if isinstance(source, Path) else encode_png(source)
    kind = "png"
    if len(data) > JPEG_ABOVE or not data.startswith(b"\x89PNG"):
        data, kind = _jpeg(read_image(source) if isinstance(source, Path) else source), "jpeg"
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{escape(alt, quote=True)}">'


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


def figure(source: Path | np.ndarray, alt: str, caption: str = "", style: str = "") -> str:
    """A captioned picture on a card."""
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="card sheet {style}">{picture(source, alt)}{text}</figure>'


def gallery(sources: Sequence[np.ndarray], alt: str, caption: str, least: int = 64) -> str:
    """Pictures on one captioned card, as many to a row as fit at `least` CSS px; "" when there are none."""
    if not len(sources):
        return ""
    shots = "".join(picture(source, f"{alt} {index + 1}") for index, source in enumerate(sources))
    columns = f"grid-template-columns:repeat(auto-fill,minmax({least}px,1fr))"
    return (
        f'<figure class="card sheet"><div class="shots" style="{columns}">{shots}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def tile(what: str, value: str, unit: str = "", verdict: bool | None = None, target: str = "") -> str:
    """A number in large type; with a `target` a badge says whether it was reached."""
    badge = ""
    if target:
        mark, style = {None: ("", ""), True: ("✓ ", "good"), False: ("✗ ", "bad")}[verdict]
        badge = f'<span class="badge {style}">{mark}{escape(target)}</span>'
    return (
        f'<div class="card tile"><div class="what">{escape(what)}</div>'
        f'<div class="value">{escape(value)}<small>{escape(unit)}</small></div>{badge}</div>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = (), style: str = "") -> str:
    """A table from ready HTML cells. Columns in `numeric` are right-aligned.

    Args:
        style: what becomes of a row on a phone: "" stays a row, "stack" a block, "stack line" a block of three lines.
    """

    def mark(column: int) -> str:
        return ' class="num"' if column in numeric else ""

    body = "\n".join(
        "<tr>" + "".join(f"<td{mark(column)}>{cell}</td>" for column, cell in enumerate(row)) + "</tr>" for row in rows
    )
    if not body:
        return ""
    top = "".join(f"<th{mark(column)}>{escape(name)}</th>" for column, name in enumerate(head))
    content = f"<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody>"
    return f'<div class="card scroll"><table class="{style}">{content}</table></div>'


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


def curves(log: Sequence[Mapping[str, float | str]]) -> str:
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
    drawn = "".join(charts)
    return f'<div class="curves">{drawn}</div>' if drawn else ""


def _curve(phase: str, name: str, points: list[tuple[float, float]], colour: str) -> str:
    """One chart as inline SVG on a 100 x 100 field that stretches with the card."""
    xs, ys = np.array(points).T
    good = np.isfinite(ys)
    xs, ys = xs[good], ys[good]
    if len(xs) < 2:
        return ""
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
    lines = "".join(f'<line class="grid-line" x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (0, 50, 100))
    label = escape(f"{name}: {number(float(ys[0]))} at first, {number(float(ys[-1]))} at last")
    scale = ", log" if logarithmic else ""
    return (
        f'<div class="card curve"><div class="name"><span><i style="color:{colour}">{escape(phase)}</i>'
        f"{escape(name.lstrip('_'))}</span>"
        f"<b>{number(float(10 ** smooth[-1] if logarithmic else smooth[-1]))}</b></div>"
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{label}">{lines}'
        f'<polyline class="raw" stroke="{colour}" points="{path(heights)}"/>'
        f'<polyline class="smooth" stroke="{colour}" points="{path(smooth)}"/></svg>'
        f'<div class="ends"><span>{number(float(ys.min()))} – {number(float(ys.max()))}{scale}</span>'
        f"<span>{xs[-1] / 1000:.3g}k images</span></div></div>"
    )
