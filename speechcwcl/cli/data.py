"""Verbs that make sets: corpora, data folders, manifests, lists of other toolkits, shards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Format = Literal["csv", "jsonl", "speechbrain_csv", "speechbrain_json", "lhotse"]
_BY_SUFFIX = {"": "datadir", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}


def prepare(
    corpus: str,
    *keys: str,
    out: Path = Path("data"),
    data: list[str] | None = None,
    downloads: Path = Path("downloads"),
    sets: list[str] | None = None,
    skip_bad: bool = False,
    fake: Path | None = None,
) -> None:
    """Turn corpora into data folders: wav.scp, text, utt2spk, [segments], [utt2label], corpus.json.

    A set is a split of the corpus, or CORPUS/SPLIT for a split of another one; its data folder is
    OUT/<set>.

    `huggingface` takes any audio dataset: one of the hub (no code of it is run), or a parquet,
    arrow or audio folder (--data). It has options of its own: --dataset ORG/NAME, --config,
    --revision, the columns --audio, --text, --speaker, --id, --labels [FIELD=]COLUMN ...,
    --split SET=SPLIT ..., --limit N. Columns with usual names need not be named; --id none numbers
    the records. If a text is a list of several, one of them is drawn by a hash of the id. A set
    that does not fit on the disk can stay where it is: --stream SET ... checks its first rows and
    writes OUT/<set>/stream.json; `speechcwcl train --train OUT/<set>/stream.json` reads the set as
    it goes.

    Args:
        corpus: one of: CORPORA
        out: the data folders go here
        data (DIR): a copy that you have, or CORPUS=DIR for another corpus; left out: it is fetched
        downloads: what is fetched goes here
        sets: which sets; left out: every split
        skip_bad: leave bad utterances out and list them, instead of stopping
        fake (DIR): write a tiny synthetic copy in the corpus' layout there, and prepare that

    Example:
        speechcwcl prepare mini --out data
        speechcwcl prepare slurp --data /corpora/slurp --out data --sets train devel test_headset
        speechcwcl prepare librispeech --sets train-clean-100 slurp/test_headset --data slurp=/c/s
        speechcwcl prepare huggingface --sets train dev --dataset ORG/NAME --config en \\
            --text transcription --split dev=validation
        speechcwcl prepare huggingface --sets train dev --dataset ORG/NAME --stream train
    """
    from speechcwcl.corpora import prepare_sets

    made = prepare_sets(
        corpus, sets, list(keys), out=out, data=data or [], downloads=downloads, fake=fake,
        skip_bad=skip_bad,
    )  # fmt: skip
    for folder in made:
        print(f"wrote {folder}", flush=True)


_NAMES = [path.stem for path in Path(__file__).parents[1].glob("corpora/[!_]*.py")]
prepare.__doc__ = str(prepare.__doc__).replace("CORPORA", ", ".join(sorted({*_NAMES} - {"base"})))


def check(folders: list[Path], *, allow_pipe: bool = False) -> None:
    """Check data folders: ids, texts, segments and labels; say what is wrong, by file and line.

    Args:
        folders: data folders
        allow_pipe: accept commands in wav.scp
    """
    from speechcwcl.data.kaldi import check_datadir
    from speechcwcl.data.stream import check_stream
    from speechcwcl.data.stream_spec import NAME, read_stream

    for folder in folders:
        if (folder / NAME).exists():
            pieces = check_stream(read_stream(folder / NAME))
            print(f"{folder}: streamed, {pieces} piece(s); the first rows are sound")
            continue
        report = check_datadir(folder, allow_pipe=allow_pipe)
        report.problems.raise_if_any()
        print(report)


def format(
    datadir: Path,
    out: Path,
    *,
    nj: int = 1,
    min_duration: float = 0.1,
    max_duration: float = 30.0,
    skip_bad: bool = False,
    allow_pipe: bool = False,
) -> None:
    """Compile a data folder to `manifest.jsonl`, the only thing that training and evaluation read.

    Durations are measured in `--nj` processes. Utterances shorter or longer than the limits are
    left out, counted and listed.

    Args:
        datadir: data folder
        out: the manifest to write
        nj: number of processes
        min_duration: least seconds
        max_duration: most seconds
        skip_bad: leave unreadable audio out and list it, instead of stopping
        allow_pipe: run the commands in wav.scp, without a shell, and keep their audio beside OUT
    """
    from speechcwcl.data.compiling import compile_manifest
    from speechcwcl.files import copy_json

    summary = compile_manifest(
        datadir,
        out,
        nj=nj,
        min_duration=min_duration,
        max_duration=max_duration,
        skip_bad=skip_bad,
        allow_pipe=allow_pipe,
        bad_list=out.with_name("left_out.tsv"),
    )
    # travels with the manifest, so that reports can say what was heard
    copy_json(datadir / "corpus.json", out.with_name("corpus.json"))
    print(summary)


def convert(
    source: Path,
    out: Path,
    *,
    from_: Format | None = None,
    to: Literal["datadir", Format] | None = None,
    audio: str = "",
    text: str = "",
    speaker: str = "",
    id: str = "",
    labels: list[str] | None = None,
    root: str = "",
    skip_bad: bool = False,
) -> None:
    """Import and export utterances: csv, NeMo/Whisper jsonl, SpeechBrain csv/json, lhotse cuts.

    SOURCE is any of these, a data folder, or a compiled manifest.jsonl; OUT is any of these or a
    data folder, which `speechcwcl format` compiles. The format of SOURCE is found by looking at it.
    The format of OUT follows from its name: no suffix is a data folder, .csv and .tsv are csv,
    .jsonl is jsonl; for any other, say --to. Columns (or keys) with usual names are found; name the
    others. If a guessed column of ids repeats an id, lines are numbered instead (with --id none
    they always are). If a text is a list of several, one of them is drawn by a hash of the id.

    Args:
        source: what to read
        out: what to write
        from_: format of SOURCE
        to: format of OUT
        audio (COLUMN): holds the audio
        text (COLUMN): holds the text
        speaker (COLUMN): holds the speaker
        id (COLUMN): holds the id
        labels (FIELD=COLUMN): columns that hold labels
        root: where relative paths start; left out: SOURCE's folder
        skip_bad: leave out what is wrong and list it (DATADIR/bad.tsv, OUT.bad.tsv)

    Example:
        speechcwcl convert corpus.csv data/train --text sentence --labels label=intent room=place
        speechcwcl convert nemo_manifest.jsonl data/train --root /corpora/audio
        speechcwcl convert data/train cuts.jsonl.gz --to lhotse
        speechcwcl convert dump/train/manifest.jsonl train.csv --to speechbrain_csv
    """
    from speechcwcl.corpora._convert import export_manifest, import_datadir
    from speechcwcl.corpora._formats import FORMATS, Options
    from speechcwcl.data.kaldi import check_datadir
    from speechcwcl.data.rows import named_column
    from speechcwcl.errors import require

    kind = to or _BY_SUFFIX.get(out.suffix, "")
    require(bool(kind), f"{out}: which format? say --to ({', '.join(FORMATS)})")
    fields = dict(named_column(word, wanted="FIELD=COLUMN") for word in labels or [])
    options = Options(audio, text, speaker, id, fields, root)
    if kind == "datadir":
        require(not source.is_dir(), f"{source}: a data folder already")
        made = import_datadir(source, out, from_ or "", options=options, skip_bad=skip_bad)
        print(check_datadir(made))
    else:
        export_manifest(source, out, kind, from_ or "", options=options, skip_bad=skip_bad)
        print(f"wrote {out} ({kind})")


def shards(
    source: list[str],
    *,
    out: Path,
    per_shard: int = 1000,
    nj: int = 1,
    stream: bool = False,
    shuffle: int = 2000,
) -> None:
    """Pack a set's audio into WebDataset tar shards, and write the manifest that reads from them.

    It writes OUT/shards/shard-000000.tar ... and OUT/manifest.jsonl, which serves wherever a
    manifest does. The audio is stored as it is; segments of longer recordings are cut out as FLAC.
    The same command resumes after an interruption. From a folder of shards (yours, copied to
    another place, or anybody's WebDataset), only the manifest is written. With --stream the shards
    stay where they are, on the disk or the web (http, https and hf URLs): OUT/stream.json is
    written, and `speechcwcl train --train OUT/stream.json` reads them as it goes.

    Args:
        source: a manifest.jsonl, or a folder of shards; with --stream a folder, or paths and URLs
        out: the set's folder
        per_shard: utterances in a shard
        nj: number of processes
        stream: write OUT/stream.json for training, copy nothing
        shuffle: with --stream: clips that each rank holds in memory and mixes

    Example:
        speechcwcl shards dump/train/files/manifest.jsonl --out dump/train --nj 8
        speechcwcl shards /scratch/train/shards --out dump/train
        speechcwcl shards --stream "https://host/train-{000000..000999}.tar" --out data/train
    """
    from speechcwcl.data.shards import pack_set
    from speechcwcl.data.stream import NAME, stream_shards
    from speechcwcl.errors import require

    if stream:
        folder = stream_shards(source, out, shuffle)
        print(f"wrote {folder / NAME}: train --train {folder / NAME} --steps_per_epoch N")
        return
    require(len(source) == 1, f"{source[-1]}: one source at a time; several with --stream only")
    print(pack_set(Path(source[0]), out, per_shard=per_shard, nj=nj))
