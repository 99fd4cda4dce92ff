"""Places the controller's tree on a plane, for drawing."""

from collections.abc import Mapping
from dataclasses import dataclass

from metas_peft.control.tree import FEATURE_UNITS, FEATURES, LEAF, Controller
from metas_peft.report.words import percent, significant

_NAMES = {"token_entropy_nats": "token entropy", "position": "position"}
WIDTH, HEIGHT, ROW, GAP = 166, 50, 104, 20


@dataclass(frozen=True)
class Box:
    """A node: centre x, top y, and up to two lines of text."""

    x: float
    y: float
    title: str
    subtitle: str
    is_leaf: bool
    fill: str


@dataclass(frozen=True)
class Edge:
    """From the foot of one box to the head of another."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """Boxes and edges with the size of the whole and of one box."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float
    box_width: float = WIDTH
    box_height: float = HEIGHT


def draw_tree(controller: Controller, usage: Mapping[str, float]) -> Drawing:
    """Leaves side by side in order, each split above the middle of its two sides.

    Args:
        controller: Tree and names of the members.
        usage: Share of the inputs by member's name, where it is known.
    """
    tree = controller.tree
    names = controller.names or tuple(subnet.key for subnet in controller.members)
    boxes: list[Box] = []
    edges: list[Edge] = []
    leaves = 0
    used = tree.members_used

    def place(node: int, depth: int) -> float:
        nonlocal leaves
        y = depth * ROW + 2.0
        if tree.feature[node] == LEAF:
            x = leaves * (WIDTH + GAP) + WIDTH / 2 + 2.0
            leaves += 1
            member = tree.member[node]
            share = usage.get(names[member])
            same = sum(m == member and f == LEAF for m, f in zip(tree.member, tree.feature, strict=True))
            told = "" if share is None else f"{percent(share, 0)} of inputs" + (f", {same} leaves" if same > 1 else "")
            boxes.append(Box(x, y, f"member {names[member]}", told, True, _tint(used.index(member), len(used))))
            return x
        left, right = place(tree.left[node], depth + 1), place(tree.right[node], depth + 1)
        x = (left + right) / 2
        name = FEATURES[tree.feature[node]]
        unit = FEATURE_UNITS[name]
        limit = f"≤ {significant(tree.threshold[node])}" + (f" {unit}" if unit != "1" else " of max. length")
        boxes.append(Box(x, y, f"{_NAMES[name]}", limit + "?", False, ""))
        for child, label in ((left, "yes"), (right, "no")):
            edges.append(Edge(x, y + HEIGHT, child, y + ROW, label))
        return x

    place(0, 0)
    return Drawing(tuple(boxes), tuple(edges), leaves * (WIDTH + GAP) - GAP + 4, tree.depth * ROW + HEIGHT + 4)


def _tint(rank: int, count: int) -> str:
    """Light blue for the first member in use, deeper for later ones; dark text stays readable on all."""
    share = rank / max(1, count - 1)
    pale, deep = (240, 247, 252), (158, 205, 236)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(pale, deep, strict=True))
