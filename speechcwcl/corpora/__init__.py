"""Corpora by name. A new corpus is one module in this folder; nothing is registered by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from speechcwcl.corpora.base import Corpus
from speechcwcl.errors import UserError, closest

CORPORA: tuple[str, ...] = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and m.name[0] != "_")
)
"""Names of the corpora: the modules of this package (`base` and `_helpers` aside)."""

__all__ = ["CORPORA", "Corpus", "get_corpus"]


def get_corpus(name: str) -> Corpus:
    """The corpus of that name; its module is imported only now.

    Args:
        name: one of `CORPORA`; hyphens may stand for underscores.

    Raises:
        UserError: there is no such corpus.
    """
    module_name = name.lower().replace("-", "_")
    if module_name not in CORPORA:
        raise UserError(
            f"no corpus {name!r}{closest(module_name, CORPORA)}; there are {', '.join(CORPORA)}"
        )
    module = importlib.import_module(f"{__name__}.{module_name}")
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Corpus) and member.__module__ == module.__name__
    ]
    concrete = [member for member in found if not inspect.isabstract(member)]
    if len(concrete) != 1:
        raise TypeError(f"{module.__name__} must define one Corpus, not {len(concrete)}")
    return concrete[0]()
