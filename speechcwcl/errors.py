"""The one class of user errors, and the wording that they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something that the user can put right; printed as one line, exit code 2, no traceback.

    Args:
        message: what is wrong, where (file and line number when there is one) and what to do.
    """


def closest(name: str, options: Iterable[str]) -> str:
    """Return `" (closest: 'x')"` for the option most like `name`, or an empty string."""
    found = difflib.get_close_matches(str(name), [str(o) for o in options], n=1, cutoff=0.5)
    return f" (closest: {found[0]!r})" if found else ""


def first_line(error: BaseException) -> str:
    """The first line of what a library says, or the error's name where it says nothing."""
    return (str(error).strip().splitlines() or [repr(error)])[0]


def summarise(problems: Sequence[str], limit: int = 10) -> str:
    """Join problems one a line: the first `limit`, then how many there are in all."""
    lines = list(problems[:limit])
    if len(problems) > limit:
        lines.append(f"... and {len(problems) - limit} more ({len(problems)} in all)")
    return "\n".join(lines)


def require(condition: bool, message: str) -> None:
    """Raise `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)
