"""A trace as a graph in Graphviz' language."""

from __future__ import annotations

from kpctl.trace_output.graph import BAD, CLIENT, ENDPOINT, GOOD, MORE, Arrow, Box, Graph

_COLOURS = {
    CLIENT: "#dbeafe",
    ENDPOINT: "#dcfce7",
    GOOD: "#bbf7d0",
    BAD: "#fecaca",
    MORE: "#fef9c3",
}


def dot(graph: Graph) -> str:
    """Return the graph in the DOT language, drawn from left to right."""
    lines = [
        "digraph trace {",
        "  rankdir=LR;",
        f"  label={_quoted(graph.title)}; labelloc=t;",
        '  node [shape=box, style="rounded,filled", fillcolor="#f3f4f6", fontname="monospace"];',
        '  edge [fontname="monospace"];',
        *(f"  {_box(box)}" for box in graph.boxes),
        *(f"  {_arrow(arrow)}" for arrow in graph.arrows),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _box(box: Box) -> str:
    label = _quoted("\n".join([box.title, *box.lines]))
    colour = _COLOURS.get(box.kind)
    return f"{box.name} [label={label}{f', fillcolor={_quoted(colour)}' if colour else ''}];"


def _arrow(arrow: Arrow) -> str:
    options = [f"label={_quoted(arrow.label)}"] if arrow.label else []
    if arrow.maybe or arrow.back:
        options.append("style=dashed")
    if arrow.back:
        options.append("constraint=false")
    return f"{arrow.start} -> {arrow.end}{f' [{chr(44).join(options)}]' if options else ''};"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
