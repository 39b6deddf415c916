"""The field's harness: any model here, ours or a peer, scored by mteb (its MAEB tasks on audio).

```python
import mteb
from speechcwcl.integrations.mteb import MtebEncoder

mteb.evaluate(MtebEncoder("en-tiny"), mteb.get_task("FSDD"))
```

Audio is decoded by this package, so that neither torchcodec nor FFmpeg is needed.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speechcwcl.data import remote
from speechcwcl.data.audio import decode_audio, load_audio
from speechcwcl.errors import UserError, closest, first_line, require
from speechcwcl.files import atomic_write, read_text
from speechcwcl.models.peers import open_model
from speechcwcl.zeroshot.classifier import unit_rows

try:
    import datasets
    import mteb
    from mteb.abstasks import AbsTask
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.similarity_functions import ScoringFunction
except ImportError as error:
    raise UserError(f"mteb is not installed ({error}): pip install 'speechcwcl[mteb]'") from error

FOLDER = "mteb"  # of its results, in an experiment folder
_PARTS = ("corpus", "queries", "qrels")


class MtebEncoder(AbsEncoder):
    """A model behind mteb's interface: audio, text, or both in one row (the mean of the two).

    Args:
        model: a name for `open_model`, or what has `encode_speech` and `encode_text`.
        name: how results call it; mteb wants `organisation/name`.
        prompts: words before a text, by task name, task type, `query` or `document` (mteb's
            order of precedence); with `{}` in them the text goes there.
    """

    def __init__(
        self,
        model: Any = "en-tiny",
        *,
        name: str | None = None,
        prompts: dict[str, str] | None = None,
        device: str | None = "cpu",
    ) -> None:
        named = isinstance(model, str | Path)
        self.model = open_model(model, device=device) if named else model
        short = name or (Path(str(model)).name if named else type(self.model).__name__)
        self.model_prompts = self.validate_task_to_prompt_name(prompts)
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": short if "/" in short else f"speechcwcl/{short}",
                "revision": str(getattr(self.model, "identity", "unknown"))[:12],
                "modalities": ["audio", "text"],
                "embed_dim": getattr(self.model, "dim", None),
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
                "use_instructions": False,
            }
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        show_progress_bar: bool = True,
        **options: Any,
    ) -> np.ndarray:
        """(rows, dim) float32 unit norm; see mteb.

        Args:
            inputs: batches that hold `audio`, `text`, or both.
        """
        prompt = self.get_prompt_name(task_metadata, prompt_type)
        before = (self.model_prompts or {}).get(prompt or "", "")
        before = before if "{}" in before else f"{before}{{}}"
        title = f"{task_metadata.name} {hf_subset} {hf_split}"
        rows = []
        for batch in tqdm(_undecoded(inputs), desc=title, disable=not show_progress_bar):
            found = []
            if "audio" in batch:
                found.append(self._encode_audio(batch["audio"]))
            if "text" in batch:
                texts = [before.replace("{}", text).strip() or "." for text in batch["text"]]
                found.append(self.model.encode_text(texts))
            require(bool(found), f"task {task_metadata.name}: neither audio nor text in its data")
            rows.append(unit_rows(np.mean(found, axis=0)))
        return np.concatenate(rows).astype(np.float32)

    def _encode_audio(self, items: Sequence[Any]) -> np.ndarray:
        clips = [_samples(item) for item in items]
        if len({rate for _, rate in clips}) == 1:
            return self.model.encode_speech([wav for wav, _ in clips], sample_rate=clips[0][1])
        alone = [self.model.encode_speech([wav], sample_rate=rate) for wav, rate in clips]
        return np.concatenate(alone)


def _samples(item: Any) -> tuple[np.ndarray, int]:
    """A clip as mteb hands it over -> (samples,) of one channel, and their rate in Hz."""
    if isinstance(item, str):
        return load_audio(item), 16000
    if isinstance(item, Mapping) and "array" not in item:
        name, data = item.get("path"), item.get("bytes")
        require(bool(data or name), "a clip of the task has neither samples nor a file")
        return (decode_audio(data, name or "clip") if data else load_audio(str(name))), 16000
    wav = np.asarray(item["array"], dtype=np.float32)
    if wav.ndim == 2:  # channels are few, samples many
        wav = wav.mean(axis=int(wav.shape[1] < wav.shape[0]))
    return wav, int(item["sampling_rate"])


def _undecoded(loader: Any) -> Any:
    """The same batches, with audio as bytes: `datasets` would want torchcodec to decode it."""
    data: Any = getattr(loader, "dataset", None)
    features = getattr(data, "features", None) or {}
    audio = [name for name, kind in features.items() if isinstance(kind, datasets.Audio)]
    if not audio:
        return loader
    from torch.utils.data import DataLoader

    for name in audio:
        data = data.cast_column(name, datasets.Audio(decode=False))
    return DataLoader(data, batch_size=loader.batch_size, collate_fn=loader.collate_fn)


def find_task(name: str) -> AbsTask:
    """The task of that name."""
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        known = [task.metadata.name for task in mteb.get_tasks()]
        why = f"mteb {mteb.__version__} has no task {name!r}{closest(name, known)}"
        raise UserError(why) from error
    if others := sorted(set(task.metadata.modalities) - {"audio", "text"}):
        raise UserError(f"task {name}: of {', '.join(others)}; models here take audio and text")
    return task


def load_task(task: AbsTask, data: Path | None = None) -> AbsTask:
    """Load a task's data, from a folder or, without one, from the hub.

    The folder is laid out as the task's dataset is on the hub (parquet, or audio in folders), or
    is a `DatasetDict` as `save_to_disk` writes it; with a folder for each language of a task
    that has several; of retrieval it holds `corpus`, `queries` and `qrels`, each a folder
    or a `.parquet`. What mteb does with data of the hub is done with it too.

    Raises:
        UserError: the data are not there, cannot be fetched, or are not those of the task.
    """
    name, home = task.metadata.name, task.metadata.dataset["path"]
    try:
        if data is None:
            task.load_data()
        else:
            _load_folder(task, data)
    except UserError:
        raise
    except Exception as error:
        why = _why(error)
        if data is None:
            raise UserError(
                f"task {name}: its data ({home}) are not here and cannot be fetched ({why}); give "
                f"--data DIR with a folder {name} in it"
            ) from error
        raise UserError(f"task {name}: {data}: not the data of this task: {why}") from error
    return task


def _why(error: Exception) -> str:
    """A KeyError of mteb's says the name of a column or split, and nothing else."""
    return f"there is no {error}" if type(error) is KeyError else first_line(error)


def _load_folder(task: Any, data: Path) -> None:
    """Fill a task from a folder, by mteb's own loading where the task brings its own."""
    retrieval = all(list(data.glob(f"{part}*")) for part in _PARTS)
    own = type(task).load_data is not AbsTask.load_data and not retrieval
    facts = {**task.metadata.dataset, "path": str(data)}
    if own:
        task.metadata = task.metadata.model_copy(update={"dataset": facts})
        task.load_data()
    else:
        task.dataset = {}
        for subset in task.hf_subsets:
            place = data / subset if (data / subset).is_dir() else data
            task.dataset[subset] = _retrieval(task, place) if retrieval else _read(place)
            if not retrieval:
                _name_labels(task, task.dataset[subset])
        if not task.metadata.is_multilingual and not retrieval:
            task.dataset = task.dataset["default"]
        if not retrieval:
            task.dataset_transform()
        task.data_loaded = True
    rows = sum(len(table) for table in _tables(task.dataset, set(task.eval_splits)))
    facts["revision"] = f"local, {rows} rows"  # a result tells that its data are not the hub's
    task.metadata = task.metadata.model_copy(update={"dataset": facts})


def _read(folder: Path) -> Any:
    """A DatasetDict of a folder; audio in folders is read here, as `datasets` needs torchcodec."""
    if (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(folder))
    if any(folder.rglob("*.parquet")):
        return datasets.load_dataset(str(folder))
    splits = {split: remote.local_records(folder, split) for split in remote.local_splits(folder)}
    tables = {split: datasets.Dataset.from_list(list(r.rows(0))) for split, r in splits.items()}
    return datasets.DatasetDict(tables)


def _retrieval(task: Any, folder: Path) -> dict[str, Any]:
    """Split -> corpus, queries and relevant documents."""

    def table(part: str, split: str) -> Any:
        if (folder / part).is_dir():
            found = _read(folder / part)
            return found[split] if split in found else found[next(iter(found))]
        files = sorted(str(path) for path in folder.glob(f"{part}*.parquet"))
        require(bool(files), f"{folder}: no {part}.parquet and no folder {part}")
        return datasets.load_dataset("parquet", data_files=files, split="train")

    found = {}
    for split in task.eval_splits:
        relevant: dict[str, dict[str, int]] = {}
        for row in table("qrels", split):
            query, document = str(row["query-id"]), str(row["corpus-id"])
            relevant.setdefault(query, {})[document] = int(row["score"])
        top = None
        if list(folder.glob("top_ranked*")):
            ranked = table("top_ranked", split)
            top = {str(row["query-id"]): list(map(str, row["corpus-ids"])) for row in ranked}
        queries = table("queries", split)
        asked = [n for n, key in enumerate(queries["id"]) if str(key) in relevant]
        found[split] = {
            "corpus": table("corpus", split),
            "queries": queries.select(asked),
            "relevant_docs": relevant,
            "top_ranked": top,
        }
    return found


def _name_labels(task: Any, found: Any) -> None:
    """Number the labels of a zero-shot task as its candidates are, where they are names.

    `datasets` numbers the folders of an audio folder by the alphabet, and mteb takes a number
    as the place among the candidates: without this, scores would be wrong and nobody the wiser.
    """
    if not hasattr(task, "get_candidate_labels"):
        return
    column = task.label_column_name
    places = {text.casefold(): n for n, text in enumerate(task.get_candidate_labels())}
    for split, table in found.items():
        kind = table.features.get(column)
        values = table[column] if kind is not None else []
        if isinstance(kind, datasets.ClassLabel):
            names = [kind.names[value].casefold() for value in values]
        elif values and isinstance(values[0], str):
            names = [value.casefold() for value in values]
        else:
            continue
        if isinstance(kind, datasets.ClassLabel) and not set(names) & set(places):
            continue  # the hub's own numbers, under other names
        if unknown := sorted(set(names) - set(places)):
            raise UserError(
                f"task {task.metadata.name}: {split} has the label {unknown[0]!r}"
                f"{closest(unknown[0], places)}, which is none of its {len(places)} candidates; "
                "leave such clips out"
            )
        table = table.remove_columns(column).add_column(column, [places[name] for name in names])
        found[split] = table


def _tables(found: Any, splits: set[str], scored: bool = False) -> Iterator[Any]:
    """The tables of a task's data that stand below one of the splits."""
    if isinstance(found, datasets.Dataset):
        yield from [found] if scored else []
    elif isinstance(found, Mapping):
        for key, inner in found.items():
            yield from _tables(inner, splits, scored or key in splits)


def evaluate_tasks(
    expdir: Path,
    names: Sequence[str],
    *,
    data: Path | None = None,
    model: str | Path | None = None,
    device: str | None = "cpu",
    remote_code: bool = False,
) -> Iterator[str]:
    """Score a model on tasks; `expdir/mteb/<task>.json` is mteb's own result.

    Args:
        data: holds a folder for each task, or is the folder of the only one; None: the hub.
    """
    tasks = [find_task(name) for name in names]  # all names before any work
    places = [_place(data, task.metadata.name, len(tasks) == 1) for task in tasks]
    opened = open_model(model or expdir / "model", device=device, remote_code=remote_code)
    encoder = MtebEncoder(opened, name=Path(str(model or expdir.resolve().name)).name)
    logging.getLogger("mteb").setLevel(logging.ERROR)
    for task, place in zip(tasks, places, strict=True):
        name = task.metadata.name
        load_task(task, place)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = mteb.evaluate(encoder, task, cache=None, co2_tracker=False)
        except (ValueError, KeyError, TypeError) as error:  # a split or a column is missing
            raise UserError(f"task {name}: its data cannot be scored: {_why(error)}") from error
        (scored,) = result.task_results
        with tempfile.TemporaryDirectory() as folder:
            scored.to_disk(Path(folder) / "scores.json")
            with atomic_write(expdir / FOLDER / f"{name}.json") as stream:
                stream.write(read_text(Path(folder) / "scores.json"))
        score, metric = scored.get_score(), task.metadata.main_score
        yield f"{name}: {metric} {100 * score:.1f} % ({task.metadata.revision})"


def _place(data: Path | None, name: str, alone: bool) -> Path | None:
    """The folder of a task below `--data`."""
    if data is None:
        return None
    require(data.is_dir(), f"--data {data}: no such folder")
    if (data / name).is_dir():
        return data / name
    there = sorted(path.name for path in data.iterdir() if path.is_dir())
    require(
        alone,
        f"--data {data}: no folder {name}{closest(name, there)}; each task needs one of its name",
    )
    return data
