"""Corpora by name. A new corpus is one module in this folder; nothing is registered by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechcwcl.corpora.base import Corpus
from speechcwcl.errors import UserError, closest, require
from speechcwcl.stages import also_reads

CORPORA: tuple[str, ...] = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and m.name[0] != "_")
)
"""Names of the corpora: the modules of this package (`base` and `_helpers` aside)."""

__all__ = ["CORPORA", "Corpus", "get_corpus", "prepare_sets"]


def get_corpus(name: str) -> Corpus:
    """The corpus of that name; its module is imported only now.

    Args:
        name: one of `CORPORA`; hyphens may stand for underscores.
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


def prepare_sets(
    name: str,
    sets: Sequence[str] | None,
    options: list[str],
    *,
    out: Path,
    data: list[str],
    downloads: Path,
    fake: Path | None,
    skip_bad: bool,
) -> Iterator[Path]:
    """Make data folders of a corpus, as `speechcwcl prepare` does, one after the other."""
    own = get_corpus(name)
    own.configure(options)
    places = _given_places(data, own.name)
    for name, splits in _by_corpus(sets or own.splits, own.name).items():
        corpus = own if name == own.name else get_corpus(name)
        corpus.check_splits(splits)
        if fake:
            source = corpus.fake(fake / corpus.name)
        else:
            source = places.get(corpus.name) or corpus.download(downloads / corpus.folder, splits)
        if source.is_dir() and not source.is_relative_to(downloads):
            also_reads(source)
        also_reads(inspect.getfile(type(corpus)))  # the reader: a recipe of one's own is edited
        folder = out if name == own.name else out / name
        yield from corpus.prepare(source, folder, splits, skip_bad=skip_bad)


def _by_corpus(sets: Sequence[str], own: str) -> dict[str, list[str]]:
    """`["train", "slurp/test"]` -> `{own: ["train"], "slurp": ["test"]}`."""
    found: dict[str, list[str]] = {}
    for name in sets:
        corpus, slash, split = name.partition("/")
        found.setdefault(corpus if slash else own, []).append(split if slash else name)
    return found


def _given_places(words: list[str], own: str) -> dict[str, Path]:
    """`["/a", "slurp=/b"]` -> `{own: /a, "slurp": /b}`."""
    places: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or name not in CORPORA:
            name, folder = own, word
        require(Path(folder).exists(), f"--data {word}: no such folder")
        require(name not in places, f"--data {word}: a folder of {name} was given already")
        places[name] = Path(folder)
    return places
