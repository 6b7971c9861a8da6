"""A trace as a flowchart in Mermaid's language, which Git hosts draw."""

from __future__ import annotations

from kpctl.trace_output.graph import BAD, CLIENT, ENDPOINT, GOOD, MORE, Arrow, Box, Graph

_CLASSES = {
    CLIENT: "fill:#dbeafe,stroke:#3b82f6,color:#111",
    ENDPOINT: "fill:#dcfce7,stroke:#22c55e,color:#111",
    GOOD: "fill:#bbf7d0,stroke:#16a34a,color:#111",
    BAD: "fill:#fecaca,stroke:#dc2626,color:#111",
    MORE: "fill:#fef9c3,stroke:#ca8a04,color:#111",
}


def mermaid(graph: Graph) -> str:
    """Return the flowchart, from left to right; the verdict is its title."""
    lines = [
        "---",
        f"title: {_title(graph.title)}",
        "---",
        "flowchart LR",
        *(f"  {_box(box)}" for box in graph.boxes),
        *(f"  {_arrow(arrow)}" for arrow in graph.arrows),
    ]
    used = {box.kind for box in graph.boxes}
    lines += [f"  classDef {kind} {style}" for kind, style in _CLASSES.items() if kind in used]
    return "\n".join(lines) + "\n"


def _title(text: str) -> str:
    """Return a YAML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _box(box: Box) -> str:
    label = "<br/>".join(_escaped(line) for line in [box.title, *box.lines])
    return f'{box.name}["{label}"]' + (f":::{box.kind}" if box.kind in _CLASSES else "")


def _arrow(arrow: Arrow) -> str:
    line = "-.->" if arrow.maybe or arrow.back else "-->"
    label = f'|"{_escaped(arrow.label)}"|' if arrow.label else ""
    return f"{arrow.start} {line}{label} {arrow.end}"


def _escaped(text: str) -> str:
    """Return text with what has a meaning in labels as entity codes."""
    codes = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}
    return "".join(codes.get(letter, letter) for letter in text)
