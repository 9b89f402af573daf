"""SVG pictures of the nodes that `blocks.trace` finds: boxes and arrows from top to bottom, panels side by side.

Layers that follow one another share a lane. Normalisation and activation touch the layer before them, or the layer
after them in a block that begins with normalisation. Text stays text, and the same nodes always give the same file.
"""
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from scripts.publish.blocks import Node

COLORS = {"conv": "#cfe2f7", "dense": "#e2d5f0", "pool": "#cfeccf", "norm": "#fdecb3", "activation": "#fbd5c1",
          "concat": "#e6e6e6", "pad": "#e6e6e6", "module": "#d9e7ee"}
AFTER = {"norm": ("conv", "dense", "norm", "activation"),  # the kinds that each of these touches if it follows them
         "activation": ("conv", "dense", "pool", "norm", "activation")}
TRACKS = ("#444", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")  # colours of lines that go round boxes
# Pixels: a line of text, its padding; between boxes, lanes, panels, and parallel lines; the width of a letter.
LINE, PAD, GAP, LANE, MARGIN, TRACK, LETTER = 17, 5, 26, 30, 26, 14, 6.9


class Panel(NamedTuple):
    """A column of the picture."""
    title: str
    nodes: Sequence[Node]


class _Box(NamedTuple):
    """Nodes that touch, by number, and their place; the row is a half where two rows have room for them."""
    nodes: list[int]
    lane: int
    row: float


class _Place(NamedTuple):
    """A rectangle, in pixels."""
    left: float
    right: float
    top: float
    bottom: float

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


def draw(panels: Sequence[Panel]) -> str:
    """Return the picture as the text of an .svg file with a white background."""
    parts, x, height = [], MARGIN, 0
    for panel in panels:
        body, width, bottom = _panel(panel, x)
        parts += body
        x, height = x + width + MARGIN, max(height, bottom)
    x, height = round(x), round(height + MARGIN)
    name = escape("; ".join(panel.title for panel in panels))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{height}" viewBox="0 0 {x} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13" text-anchor="middle">',
        f"<title>{name}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{x}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text: (28, 28, 6) -> '28x28x6'."""
    return "x".join(map(str, shape))


def _panel(panel: Panel, left: float) -> tuple[list[str], float, float]:
    """Return a panel's SVG elements, its width, and its lower end."""
    nodes = [*panel.nodes, Node("output", "", panel.nodes[-1].shape, [len(panel.nodes) - 1])]
    texts = [shape_text(node.shape) if node.kind in ("input", "output") else node.label for node in nodes]
    boxes = _arrange(nodes)
    lanes = max(box.lane for box in boxes) + 1
    # The common input and the common end of many branches are as wide as all of them.
    wide = {n for n, box in enumerate(boxes) if lanes > 2 and nodes[box.nodes[0]].kind in ("input", "output", "concat")}
    widths = [max([60.0] + [LETTER * len(line) + 16 for n, box in enumerate(boxes) if box.lane == lane and n not in wide
                            for i in box.nodes for line in texts[i].split("\n")]) for lane in range(lanes)]
    starts = [left + sum(widths[:lane]) + LANE * lane for lane in range(lanes)]
    right = starts[-1] + widths[-1]
    heights = [sum(_height(nodes[i], texts[i], n in wide) for i in box.nodes) for n, box in enumerate(boxes)]
    tops = _vertical(boxes, heights)
    places = [_Place(left, right, top, top + height) if n in wide else
              _Place(starts[box.lane], starts[box.lane] + widths[box.lane], top, top + height)
              for n, (box, top, height) in enumerate(zip(boxes, tops, heights, strict=True))]
    out = []
    for n, (box, place) in enumerate(zip(boxes, places, strict=True)):
        top = place.top
        for i in box.nodes:
            bottom = top + _height(nodes[i], texts[i], n in wide)
            out += _shape(nodes[i].kind, texts[i], place._replace(top=top, bottom=bottom), n in wide)
            top = bottom
    arrows, extent = _arrows(nodes, boxes, places, wide, lanes == 1)
    title = LETTER * 1.1 * len(panel.title)
    width = max(extent - left, title)
    middle = max((left + right) / 2, left + title / 2)
    heading = f'<text x="{middle:.0f}" y="{MARGIN}" font-weight="bold">{escape(panel.title)}</text>'
    return [heading, *out, *arrows], width, max(place.bottom for place in places)


def _arrange(nodes: Sequence[Node]) -> list[_Box]:
    """Return the boxes of nodes that touch, each with its lane and row."""
    users = [[j for j, other in enumerate(nodes) if i in other.inputs] for i in range(len(nodes))]
    before = len(nodes) > 1 and nodes[1].kind == "norm"  # pre-activation
    groups: list[list[int]] = []
    group = {}
    for i, node in enumerate(nodes):
        j = node.inputs[0] if len(node.inputs) == 1 else None
        follows = nodes[j].kind if j is not None and users[j] == [i] else None
        if before:  # a layer touches what comes before it
            joins = follows in AFTER and node.kind in (*AFTER, "conv", "dense")
        else:
            joins = follows in AFTER.get(node.kind, ())
        if joins:
            group[i] = group[j]
            groups[group[j]].append(i)
        else:
            group[i] = len(groups)
            groups.append([i])
    inputs = [sorted({group[j] for i in members for j in nodes[i].inputs} - {g}) for g, members in enumerate(groups)]
    early = []
    for sources in inputs:
        early.append(1 + max((early[g] for g in sources), default=-1))
    late = [max(early)] * len(groups)
    for g in reversed(range(len(groups))):
        for source in inputs[g]:
            late[source] = min(late[source], late[g] - 1)
    lanes, taken = [], set()
    for g, sources in enumerate(inputs):
        main = max(sources, key=lambda s: (early[s], -s), default=None)
        lane = lanes[main] if main is not None else 0
        if len(sources) > 1:
            lane = min(lanes[s] for s in sources)
        while (lane, early[g]) in taken:
            lane += 1
        taken |= {(lane, row) for row in range(early[g], late[g] + 1)}
        lanes.append(lane)
    return [_Box(*box) for box in zip(groups, lanes, [(a + b) / 2 for a, b in zip(early, late, strict=True)],
                                      strict=True)]


def _vertical(boxes: Sequence[_Box], heights: Sequence[float]) -> list[float]:
    """Return the top of each box: rows below one another, as high as their highest box."""
    rows = sorted({int(box.row) for box in boxes} | {int(box.row + 0.5) for box in boxes})
    high = {row: max([h for box, h in zip(boxes, heights, strict=True) if box.row == row], default=0) for row in rows}
    middle, y = {}, MARGIN + 10.0
    for row in rows:
        middle[row] = y + high[row] / 2
        y += high[row] + GAP
    return [(middle[int(box.row)] + middle[int(box.row + 0.5)]) / 2 - height / 2
            for box, height in zip(boxes, heights, strict=True)]


def _height(node: Node, text: str, wide: bool) -> float:
    """Return the height of a node."""
    if node.kind == "add":
        return 22
    height = LINE * (text.count("\n") + 1) + (0 if node.kind in ("input", "output") else PAD)
    if node.kind == "concat" and not wide:  # room for the arrows that come in at the side
        return max(height, 9 * (len(node.inputs) + 1))
    return height


def _shape(kind: str, text: str, place: _Place, wide: bool) -> list[str]:
    """Return the SVG elements of a node."""
    (x, y), (left, right, top, bottom), out = place.middle, place, []
    if kind == "add":
        return [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="11" fill="#fff" stroke="#444"/>',
                f'<text x="{x:.0f}" y="{y + 5:.0f}" font-size="16">+</text>']
    if kind in COLORS:
        out = [f'<rect x="{left:.0f}" y="{top:.0f}" width="{right - left:.0f}" height="{bottom - top:.0f}" rx="3" '
               f'fill="{COLORS[kind]}" stroke="#444"/>']
    elif wide and kind == "input":
        out = [f'<path d="M{left:.0f} {bottom:.0f}H{right:.0f}" stroke="#444" stroke-width="1.3"/>']
    lines, color = text.split("\n"), "" if kind in COLORS else ' fill="#555"'
    first = y - LINE * len(lines) / 2 + 13
    return out + [f'<text x="{x:.0f}" y="{first + LINE * n:.0f}"{color}>{escape(line)}</text>'
                  for n, line in enumerate(lines)]


def _arrows(nodes: Sequence[Node], boxes: Sequence[_Box], places: Sequence[_Place], wide: set[int],
            shapes: bool) -> tuple[list[str], float]:
    """Return the arrows from every node to those that use it, and how far right they reach.

    Args:
      wide: numbers of the boxes that reach over all lanes.
      shapes: write the shapes of the arrays beside the arrows.
    """
    home = {i: n for n, box in enumerate(boxes) for i in box.nodes}
    links = [(i, j, home[i], home[j]) for j, node in enumerate(nodes) for i in node.inputs if home[i] != home[j]]
    round_about = [link for link in links if _blocked(boxes, *link[2:]) and not {*link[2:]} & wide]
    starts = sorted({i for i, *_ in round_about}, reverse=True)  # the first goes farthest out
    right = max(place.right for place in places)
    out, entered = [], dict.fromkeys(range(len(boxes)), 0)
    for link in links:
        i, j, source, target = link
        a, b = places[source], places[target]
        (x, y), (to_x, to_y) = a.middle, b.middle
        leave, enter = _edge(nodes[i], a), _edge(nodes[j], b)
        if link in round_about:
            track, entered[target] = starts.index(i), entered[target] + 1
            if nodes[j].kind != "add":
                to_y = b.top + (b.bottom - b.top) * entered[target] / (len(nodes[j].inputs) + 1)
            if nodes[i].kind != "input":
                y = a.bottom - 3  # below where others come in
            out_x = right + TRACK * (track + 1)
            out.append(_line([(leave, y), (out_x, y), (out_x, to_y), (enter, to_y)], TRACKS[track % len(TRACKS)]))
        elif source in wide:
            out.append(_line([(to_x, a.bottom), (to_x, b.top)]))
        elif target in wide or boxes[source].lane == boxes[target].lane:
            out.append(_line([(x, a.bottom), (x, b.top)]))
            if shapes and nodes[i].kind != "input" and nodes[j].kind != "output":
                out.append(f'<text x="{x - 7:.0f}" y="{(a.bottom + b.top) / 2 + 3:.0f}" font-size="11" fill="#555" '
                           f'text-anchor="end">{shape_text(nodes[i].shape)}</text>')
        elif boxes[source].lane < boxes[target].lane:  # out at the side and down
            out.append(_line([(leave, y), (to_x, y), (to_x, b.top)]))
        else:  # down and in at the side
            out.append(_line([(x, a.bottom), (x, to_y), (enter, to_y)]))
    return out, right + TRACK * len(starts)


def _blocked(boxes: Sequence[_Box], source: int, target: int) -> bool:
    """Return whether another box lies on the straight way down from one box to another in its lane."""
    a, b = boxes[source], boxes[target]
    return a.lane == b.lane and any(box.lane == a.lane and a.row < box.row < b.row for box in boxes)


def _edge(node: Node, place: _Place) -> float:
    """Return where a line meets the right side of a node."""
    x = place.middle[0]
    if node.kind == "add":
        return x + 11
    return x + LETTER * len(shape_text(node.shape)) / 2 + 4 if node.kind == "input" else place.right


def _line(points: Sequence[tuple[float, float]], color: str = TRACKS[0]) -> str:
    """Return an arrow through some points."""
    path = "L".join(f"{x:.0f} {y:.0f}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.3" marker-end="url(#arrow)"/>'
