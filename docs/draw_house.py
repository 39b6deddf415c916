#!/usr/bin/env python3
"""Draw the rooms of speechcwcl and who imports whom, from the imports themselves.

  python docs/draw_house.py            # writes docs/house.svg
A room is a folder of the package (or a file at its top). Rooms stand above what they import. A
line that follows from others is left out: with `cli -> models -> data`, `cli -> data` says no more.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "speechcwcl"
WIDTH, HEIGHT, GAP_X, GAP_Y = 130, 36, 30, 44


def room_of(path: Path) -> str:
    """The room of a file: its top folder, or its own name at the top of the package."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported_modules(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("speechcwcl.")}


def read_house() -> dict[str, set[str]]:
    """Return the rooms, and those that each imports."""
    arrows: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found = {module.split(".")[1] for module in imported_modules(path)}
        arrows.setdefault(room_of(path), set()).update(found)
    arrows.pop("__init__")
    return {room: (to & set(arrows)) - {room} for room, to in arrows.items()}


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that a longer way leads along too."""

    def reached(room: str) -> set[str]:
        return arrows[room].union(*(reached(below) for below in arrows[room]))

    return {
        room: to - set().union(*(reached(below) for below in to)) for room, to in arrows.items()
    }


def floors_of(arrows: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room: one above the highest room that it imports."""
    floors: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in floors:
            floors[room] = 1 + max((floor(below) for below in arrows[room]), default=-1)
        return floors[room]

    for room in arrows:
        floor(room)
    return floors


def draw(arrows: dict[str, set[str]]) -> str:
    """The house as SVG, in colours that read on light and dark pages."""
    floors = floors_of(arrows)
    levels: dict[int, list[str]] = {}
    for room in sorted(floors):
        levels.setdefault(floors[room], []).append(room)
    top = max(levels)
    widest = max(len(rooms) for rooms in levels.values())
    full = widest * (WIDTH + GAP_X) + GAP_X
    place = {}
    for level, rooms in levels.items():
        left = (full - len(rooms) * (WIDTH + GAP_X) + GAP_X) / 2
        for number, room in enumerate(rooms):
            place[room] = (left + number * (WIDTH + GAP_X), 20 + (top - level) * (HEIGHT + GAP_Y))
    tall = 40 + top * (HEIGHT + GAP_Y) + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {tall}" role="img" '
        'font-family="sans-serif" text-anchor="middle">',
        "<title>Rooms of speechcwcl; a line goes down from a room to what it imports</title>",
    ]
    for room, below in sorted(reduced(arrows).items()):
        for other in sorted(below):
            (x1, y1), (x2, y2) = place[room], place[other]
            parts.append(
                f'<line x1="{x1 + WIDTH / 2:g}" y1="{y1 + HEIGHT}" x2="{x2 + WIDTH / 2:g}" '
                f'y2="{y2}" stroke="#888" stroke-opacity="0.55"/>'
            )
    for room, (x, y) in sorted(place.items()):
        middle = x + WIDTH / 2
        parts.append(
            f'<rect x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#dce6f2" '
            f'stroke="#46688f"/><text x="{middle:g}" y="{y + 23}" font-size="15" '
            f'fill="#10243d">{room}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the drawing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/house.svg", help="the SVG (default: %(default)s)"
    )
    options = parser.parse_args()
    options.out.write_text(draw(read_house()), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
