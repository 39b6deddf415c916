"""Whatever a file holds, a reader reads it or refuses it with a UserError, in bounded memory.

One row a reader: a valid file of it, the function that opens it, and the file's name. Its bytes are
damaged by hypothesis (`mutations`); anything that is not a UserError fails.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged

from speechcwcl.apps.recordings import Cutting
from speechcwcl.apps.search import SearchIndex
from speechcwcl.corpora._formats import read_manifest as read_foreign
from speechcwcl.corpora.huggingface import HuggingFace
from speechcwcl.data.audio import audio_blocks, audio_info, load_audio
from speechcwcl.data.kaldi import check_datadir, read_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.stream_spec import read_stream
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.results import write_embeddings
from speechcwcl.evaluation.retrieval import evaluate_retrieval
from speechcwcl.evaluation.scores import evaluate_zeroshot
from speechcwcl.files import write_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.report.page import build_report
from speechcwcl.zeroshot.keywords import Keywords
from speechcwcl.zeroshot.protocol import Protocol, load_labels, load_protocol

GROWTH = 300  # MB by which one attempt may raise the peak of the whole test process


def sound(kind: str, subtype: str) -> bytes:
    stream = io.BytesIO()
    tone = 0.4 * np.sin(2 * np.pi * 330 * np.arange(4000) / 16000)
    soundfile.write(stream, tone, 16000, format=kind, subtype=subtype)
    return stream.getvalue()


def hear(path: Path) -> None:
    audio_info(path)
    load_audio(path)
    for _ in audio_blocks(path):
        pass


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_manifest(path: Path) -> None:
    manifest = Manifest(path)
    for number in range(len(manifest)):
        manifest[number]


def read_list(path: Path) -> None:
    (path.parent / "a.wav").write_bytes(sound("WAV", "PCM_16"))
    problems = Problems()
    list(read_foreign(path, problems=problems))
    problems.text().encode("utf-8")


def read_metadata(path: Path) -> None:
    (path.parent / "a.wav").write_bytes(sound("WAV", "PCM_16"))
    HuggingFace().prepare(path.parent, path.parent / "out", skip_bad=True)


CUT = {
    "id": "c", "start": 0, "duration": 0.1, "type": "MonoCut", "channel": 0,
    "supervisions": [{"start": 0, "duration": 0.1, "text": "yes", "custom": {"intent": "on"}}],
    "recording": {
        "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],
        "duration": 0.25, "transforms": [{"name": "Resample", "kwargs": {}}],
    },
}  # fmt: skip
WHISPER = {"audio": {"path": "a.wav", "start_time": 0, "end_time": 0.2}, "sentence": "yes"}
PROTOCOL = b"""name: mine
label_field: label
labels:
  on: [turn on, lamp on]
  off: turn off
templates: ["{}", "please {}"]
"""
UTTERANCE = {"id": "a", "audio": "a.wav", "text": "yes", "speaker": "s", "duration": 0.25}
READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "wav": ("a.wav", sound("WAV", "PCM_16"), hear),
    "float wav": ("a.wav", sound("WAV", "FLOAT"), hear),
    "flac": ("a.flac", sound("FLAC", "PCM_16"), hear),
    "ogg": ("a.ogg", sound("OGG", "VORBIS"), hear),
    "opus": ("a.opus", sound("OGG", "OPUS"), hear),
    "mp3": ("a.mp3", sound("MP3", "MPEG_LAYER_III"), hear),
    "aiff": ("a.aiff", sound("AIFF", "PCM_16"), hear),
    "manifest": ("manifest.jsonl", lines(UTTERANCE, {**UTTERANCE, "id": "b"}), read_manifest),
    "stream": (
        "stream.json",
        lines({"version": 1, "shards": ["a-{000..003}.tar"], "shuffle": 100}),
        read_stream,
    ),
    "protocol": ("mine.yaml", PROTOCOL, load_protocol),
    "labels": ("labels.yaml", b"on: [turn on, lamp on]\noff: turn off\n", load_labels),
    "csv": ("a.csv", b'id,audio,text,start,label\n1,a.wav,"yes, no",0,on\n', read_list),
    "tsv": ("a.tsv", b"audio\ttext\tlabel_x\na.wav\tyes\ton\n", read_list),
    "nemo": (
        "a.jsonl",
        lines({"audio_filepath": "a.wav", "text": ["yes", "no"], "offset": 0, "duration": 0.1}),
        read_list,
    ),
    "whisper": ("a.jsonl", lines(WHISPER), read_list),
    "cuts": ("a.jsonl", lines(CUT), read_list),
    "packed cuts": ("a.jsonl.gz", gzip.compress(lines(CUT)), read_list),
    "speechbrain csv": ("a.csv", b"ID,wav,start,stop,wrd\nu,a.wav,0,800,yes\n", read_list),
    "speechbrain json": (
        "a.json",
        lines({"u": {"wav": {"file": "a.wav", "start": 0, "stop": 800}, "words": "yes"}}),
        read_list,
    ),
    "metadata.csv": ("metadata.csv", b"file_name,text\na.wav,yes\n", read_metadata),
    "metadata.jsonl": ("metadata.jsonl", lines({"file_name": "a.wav", "text": "x"}), read_metadata),
    "keywords": (
        "keywords.json",
        lines(
            {
                "format": "speechcwcl-keywords",
                "version": 3,
                "labels": ["a"],
                "rows": [[1, 0]],
                "model": "m",
                "mean": [0],
                "tail": [1],
                "level": 2.0,
            }
        ),
        Keywords.load,
    ),
}


def test_the_seeds_are_sound(tmp_path):
    for name, (file, seed, read) in READERS.items():
        if name == "manifest":
            continue  # short of some keys on purpose: refused in words
        path = tmp_path / name / file  # a folder each: some readers look at all that is there
        path.parent.mkdir()
        path.write_bytes(seed)
        read(path)


def attempt(call: Callable[[], object]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        call()
    except UserError as error:
        assert str(error).strip()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH * 1024


@pytest.mark.parametrize("reader", READERS)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(reader, data):
    file, seed, read = READERS[reader]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(data.draw(damaged(seed)))
        attempt(lambda: read(path))


DATADIR = {
    "wav.scp": b"a a.wav\nb a.wav\n",
    "text": b"a yes\nb turn left\n",
    "utt2spk": b"a s1\nb s2\n",
    "segments": b"a a 0 0.1\nb b 0.1 0.2\n",
    "utt2label": b"a on\nb off\n",
    "corpus.json": lines({"name": "x", "version": "1", "licence": "CC0", "split": "train"}),
}


@pytest.mark.parametrize("table", DATADIR)
@given(data=st.data())
def test_a_data_folder_with_a_damaged_table(table, data):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in DATADIR.items():
            (Path(folder) / name).write_bytes(content)
        (Path(folder) / "a.wav").write_bytes(sound("WAV", "PCM_16"))
        (Path(folder) / table).write_bytes(data.draw(damaged(DATADIR[table])))
        attempt(lambda: read_datadir(folder))
        attempt(lambda: check_datadir(folder))


@pytest.fixture(scope="module")
def model(tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "model"
    Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).save_pretrained(folder)
    return folder


@given(data=st.data())
def test_a_damaged_model_folder(model, data):
    name = data.draw(st.sampled_from(sorted(p.name for p in model.iterdir() if p.is_file())))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model"
        shutil.copytree(model, copy)
        (copy / name).write_bytes(data.draw(damaged((model / name).read_bytes())))
        attempt(lambda: Aligner.from_pretrained(copy))


class Toy:
    dim = 4

    def encode_speech(self, audio):
        return np.eye(4, dtype=np.float32)[: len(audio)]


@given(data=st.data())
def test_a_damaged_index(data):
    with tempfile.TemporaryDirectory() as folder:
        root, index = Path(folder) / "rec", Path(folder) / "index"
        root.mkdir()
        (root / "a.wav").write_bytes(sound("WAV", "PCM_16"))
        made = SearchIndex.create(index, root, dim=4, identity="i", model="m", cutting=Cutting())
        made.update(Toy())
        name = data.draw(st.sampled_from(["index.json", "index.npz"]))
        (index / name).write_bytes(data.draw(damaged((index / name).read_bytes())))
        question = np.eye(4, dtype=np.float32)[:1]
        attempt(lambda: SearchIndex.open(index).search(question))
        attempt(lambda: SearchIndex.open(index).update(Toy()))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment folder as training and evaluation leave it, with few utterances."""
    run = tmp_path_factory.mktemp("exp") / "run"
    protocol = Protocol("mine", {"on": ("yes",), "off": ("no", "never")}, ("{}", "say {}"))
    said = [
        Utterance(f"u{n}", "gone.wav", f"word {n % 3}", f"s{n % 2}", labels={"label": label})
        for n, label in enumerate(["on", "off"] * 3)
    ]

    def encode(texts):
        return np.stack([np.cos(np.arange(1, 9) * len(text)) for text in texts])

    speech = encode([u.text * n for n, u in enumerate(said, 1)])
    write_embeddings(run / "eval/test", [u.id for u in said], speech, {"name": "x", "version": "1"})
    evaluate_zeroshot(speech, said, protocol, encode, run / "eval/test/mine")
    evaluate_retrieval(speech, [u.text for u in said], encode, run / "eval/test/retrieval")
    write_json(run / "hparams.json", {"seed": 1, "loss": {"cwcl": 1}})
    write_json(run / "env.json", {"command": ["train", "x"], "versions": {"torch": "2"}})
    (run / "metrics.jsonl").write_bytes(
        lines(*({"epoch": n, "train": {"loss": 1 / n}, "seconds": 2.5} for n in (1, 2)))
    )
    return run


@given(data=st.data())
def test_a_damaged_experiment_folder(experiment, data):
    names = sorted(p.relative_to(experiment).as_posix() for p in experiment.rglob("*.*"))
    name = data.draw(st.sampled_from(names))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(experiment, copy)
        (copy / name).write_bytes(data.draw(damaged((experiment / name).read_bytes())))
        attempt(lambda: build_report([copy], Path(folder) / "out"))
