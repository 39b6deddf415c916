"""One small set as parquet, audio folder, shards, and shards behind a local web server."""

import contextlib
import functools
import http.server
import threading

import pyarrow
import pyarrow.parquet

from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import write_datadir
from speechcwcl.data.shards import write_shards
from speechcwcl.data.utterance import Utterance

WORDS = [
    "on", "off", "up", "down", "left", "right", "stop", "go", "yes", "no", "one", "two", "three",
    "four", "five", "six", "seven", "eight", "nine", "ten", "red", "green", "blue", "on",
]  # fmt: skip
KINDS = ("parquet", "folder", "shards")
AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def make_set(root):
    """`root/parquet` (three files), `root/folder`, `root/shards` (five); the audio files."""
    files = []
    for number, word in enumerate(WORDS):
        path = root / "folder" / f"c{number:02d}.flac"
        write_spoken(path, word, seed=number, seconds=0.3 + 0.03 * (number % 7))
        files.append(path)
    lines = [f"{path.name},{word}" for path, word in zip(files, WORDS, strict=True)]
    (root / "folder/metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    for at in range(3):
        part = slice(8 * at, 8 * at + 8)
        clips = [{"bytes": path.read_bytes(), "path": path.name} for path in files[part]]
        table = {"audio": pyarrow.array(clips, type=AUDIO), "text": WORDS[part]}
        (root / "parquet").mkdir(exist_ok=True)
        name = f"train-{at:05d}-of-00003.parquet"
        pyarrow.parquet.write_table(pyarrow.table(table), root / "parquet" / name)
    utterances = [
        Utterance(path.stem, str(path), word, "s") for path, word in zip(files, WORDS, strict=True)
    ]
    data = write_datadir(root / "data", utterances, corpus={})
    manifest = root / "dump/train/manifest.jsonl"
    compile_manifest(data, manifest, progress=False)
    write_shards(manifest, root / "shards", per_shard=5, progress=False)
    return files


@contextlib.contextmanager
def web_server(folder):
    """Serve a folder; gives the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
