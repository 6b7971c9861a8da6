"""A trace as a picture of its own: boxes in columns from left to right, light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from kpctl.trace_output.graph import Arrow, Box, Graph

# Pixels.
_LETTER, _LINE, _PADDING = 7.3, 17, 12
_GAP_X, _GAP_Y, _MARGIN, _HEAD = 72, 24, 24, 44
_LONGEST = 44  # letters of a line in a box

# Colours are written out: many viewers know no CSS variables.
_STYLE = """
  text { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
         font-size: 12px; fill: #1f2937; }
  .title { font-weight: bold; }
  .line, .label { fill: #4b5563; }
  .label { stroke: #ffffff; stroke-width: 4px; paint-order: stroke; }
  rect { stroke: #9ca3af; fill: #f3f4f6; }
  .ground { fill: #ffffff; stroke: none; }
  .client { fill: #dbeafe; } .endpoint { fill: #dcfce7; } .good { fill: #bbf7d0; }
  .bad { fill: #fecaca; } .more { fill: #fef9c3; }
  path { fill: none; stroke: #9ca3af; stroke-width: 1.5; }
  .maybe { stroke-dasharray: 6 4; }
  marker path { fill: #9ca3af; stroke: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e5e7eb; }
    .line, .label { fill: #b6bcc6; }
    .label { stroke: #111827; }
    rect { stroke: #6b7280; fill: #1f2937; }
    .ground { fill: #111827; }
    .client { fill: #1e3a5f; } .endpoint { fill: #14532d; } .good { fill: #166534; }
    .bad { fill: #7f1d1d; } .more { fill: #713f12; }
  }
"""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A box and where it is, in pixels."""

    box: Box
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Where arrows come and go."""
        return self.y + self.height / 2


def svg(graph: Graph) -> str:
    """Return a self-contained SVG document: no fonts, programs or pictures from elsewhere."""
    placed = _layout(graph)
    right = max(one.x + one.width for one in placed.values()) + _MARGIN
    width = max(right, len(graph.title) * _LETTER + 2 * _MARGIN)
    bottom = max(one.y + one.height for one in placed.values()) + _MARGIN
    height = bottom + (_LINE * 2 if any(arrow.back for arrow in graph.arrows) else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(graph.title)}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        f'<rect class="ground" width="{width:.0f}" height="{height:.0f}"/>',
        f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 4}">{escape(graph.title)}</text>',
        *(_arrow(arrow, placed, bottom) for arrow in graph.arrows),
        *(line for one in placed.values() for line in _drawn(one)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _layout(graph: Graph) -> dict[str, _Placed]:
    """Return each box's place: its column is the longest way to it from the client."""
    columns: dict[int, list[Box]] = {}
    depths = _depths(graph)
    for box in graph.boxes:
        columns.setdefault(depths[box.name], []).append(box)
    heights = {
        depth: sum(map(_height, boxes)) + _GAP_Y * (len(boxes) - 1)
        for depth, boxes in columns.items()
    }
    tallest = max(heights.values())
    placed: dict[str, _Placed] = {}
    x = float(_MARGIN)
    for depth in sorted(columns):
        width = max(map(_width, columns[depth]))
        y = _HEAD + _MARGIN / 2 + (tallest - heights[depth]) / 2
        for box in columns[depth]:
            placed[box.name] = _Placed(box, x, y, width, _height(box))
            y += _height(box) + _GAP_Y
        x += width + _GAP_X
    return placed


def _depths(graph: Graph) -> Mapping[str, int]:
    depths = {box.name: 0 for box in graph.boxes}
    forward = [arrow for arrow in graph.arrows if not arrow.back]
    for _ in graph.boxes:  # at most as many rounds as boxes, for there are no circles
        before = dict(depths)
        for arrow in forward:
            depths[arrow.end] = max(depths[arrow.end], depths[arrow.start] + 1)
        if depths == before:
            break
    return depths


def _lines(box: Box) -> list[str]:
    return [
        line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
        for line in (box.title, *box.lines)
    ]


def _width(box: Box) -> float:
    return max(map(len, _lines(box))) * _LETTER + 2 * _PADDING


def _height(box: Box) -> float:
    return len(_lines(box)) * _LINE + 2 * _PADDING - 4


def _drawn(one: _Placed) -> Iterator[str]:
    title, *lines = _lines(one.box)
    yield (
        f'<rect class="{one.box.kind}" x="{one.x:.1f}" y="{one.y:.1f}" rx="8" '
        f'width="{one.width:.1f}" height="{one.height:.1f}">'
        f"<title>{escape(chr(10).join([one.box.title, *one.box.lines]))}</title></rect>"
    )
    x, y = one.x + _PADDING, one.y + _PADDING + 9
    yield f'<text class="title" x="{x:.1f}" y="{y:.1f}">{escape(title)}</text>'
    for line in lines:
        y += _LINE
        yield f'<text class="line" x="{x:.1f}" y="{y:.1f}">{escape(line)}</text>'


def _arrow(arrow: Arrow, placed: Mapping[str, _Placed], bottom: float) -> str:
    start, end = placed[arrow.start], placed[arrow.end]
    kind = ' class="maybe"' if arrow.maybe or arrow.back else ""
    if arrow.back:
        x1, x2 = start.x + start.width / 2, end.x + end.width / 2
        path = f"M{x1:.1f} {start.y + start.height:.1f} V{bottom:.1f} H{x2:.1f} "
        path += f"V{end.y + end.height:.1f}"
        label_x, label_y = (x1 + x2) / 2, bottom - 5
    else:
        x1, x2 = start.x + start.width, end.x
        bend = (x2 - x1) / 2
        path = f"M{x1:.1f} {start.middle:.1f} C{x1 + bend:.1f} {start.middle:.1f} "
        path += f"{x2 - bend:.1f} {end.middle:.1f} {x2:.1f} {end.middle:.1f}"
        # Near its end, where arrows that leave one box are apart.
        label_x, label_y = x2 - bend * 0.8, end.middle - 6
    drawn = f'<path{kind} d="{path}" marker-end="url(#tip)"/>'
    if not arrow.label:
        return drawn
    return (
        f'{drawn}<text class="label" text-anchor="middle" x="{label_x:.1f}" '
        f'y="{label_y:.1f}">{escape(arrow.label)}</text>'
    )
