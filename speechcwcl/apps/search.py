"""Search a folder of recordings with a model: what `speechcwcl search` does."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from speechcwcl.apps.recordings import Cutting
from speechcwcl.apps.search_index import Hit, SearchIndex, Update, nearest_texts
from speechcwcl.errors import UserError, require
from speechcwcl.models.aligner import Aligner


def build(
    folder: Path, index: Path, model: str, window: float, hop: float, device: str = "cpu"
) -> tuple[SearchIndex, Aligner]:
    """Begin an index of a folder, or open the one that is there; [`update`][] fills it.

    Args:
        folder: of recordings.
        index: folder of the index.
        model: a model folder or hub id.
        window: seconds, see `Cutting`.
        hop: seconds.
        device: for the model.
    """
    require(folder.is_dir(), f"{folder}: no such folder of recordings")
    cutting = Cutting(window, hop)
    aligner = Aligner.from_pretrained(model, device=device)
    path = Path(model).expanduser()
    opened = SearchIndex.create(
        index,
        folder,
        dim=aligner.dim,
        identity=aligner.identity,
        model=str(path.resolve()) if path.is_dir() else model,
        cutting=cutting,
    )
    return opened, aligner


def open_with_model(
    index: Path, model: str | None = None, device: str = "cpu"
) -> tuple[SearchIndex, Aligner]:
    """Open an index and its model; `model` says where the model is now, if it moved.

    Raises:
        UserError: no such index, its model is gone, or another model was given.
    """
    opened = SearchIndex.open(index)
    name = model or opened.meta["model"]
    if not model and Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(f"{index}: its model {name} is gone; say where it is with --model")
    aligner = Aligner.from_pretrained(name, device=device)
    opened.check_model(aligner.identity, name)
    return opened, aligner


def update(index: SearchIndex, aligner: Aligner) -> Update:
    """Bring an index up to date, with a progress bar; waits while another process does it."""
    with tqdm(desc="embed", unit="file", dynamic_ncols=True, disable=None) as bar:
        return index.update(
            aligner, begin=lambda count: bar.reset(total=count), step=bar.update, waiting=_waiting
        )


def _waiting() -> None:
    print("another process is updating this index; waiting for it", file=sys.stderr)


def find_speech(
    index: SearchIndex,
    aligner: Aligner,
    texts: Iterable[str],
    audio: Sequence[Path] | None = None,
    top_k: int = 10,
) -> Iterator[tuple[str, list[Hit]]]:
    """Yield each question (a text or an audio file) with the pieces nearest to it."""
    for text in texts:
        yield text, index.search(aligner.encode_text([text]), top_k)[0]
    for path in audio or []:
        yield str(path), index.search(aligner.encode_speech([path]), top_k)[0]


def find_texts(
    index: SearchIndex,
    aligner: Aligner,
    texts: Sequence[str],
    audio: Sequence[Path] | None = None,
    top_k: int = 1,
) -> Iterator[tuple[str, float | None, float | None, list[tuple[str, float]]]]:
    """Yield the texts nearest to each file of `audio`, or to each piece of the index.

    Yields:
        Path, start and end in seconds (None for a whole file), pairs of text and cosine.
    """
    vectors = aligner.encode_text(texts)
    if audio:
        for path in audio:
            speech = aligner.encode_speech([path])[0]
            yield str(path), None, None, nearest_texts(speech, vectors, texts, top_k)
        return
    for hit, pairs in index.texts_of(vectors, texts, top_k):
        yield hit.path, hit.start, hit.end, pairs
