"""`set:protocol` pairs, as `--evals` and `--valid` take them, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speechcwcl.cache.embed import FOLDER, embed_manifest, feature_cache, stored_encoder
from speechcwcl.cache.features import FeatureCache
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, require
from speechcwcl.evaluation.probe import ProbeSet, evaluate_probe, probe_rows
from speechcwcl.evaluation.results import read_embeddings, text_table, write_embeddings
from speechcwcl.evaluation.retrieval import evaluate_retrieval, retrieval_scores
from speechcwcl.evaluation.scores import accuracy, build_classifier, evaluate_zeroshot
from speechcwcl.evaluation.spotting import evaluate_spotting, spotting_line
from speechcwcl.files import atomic_write, read_json, sha256_json, write_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.models.peers import Peer, open_model
from speechcwcl.stages import also_reads
from speechcwcl.zeroshot.classifier import EncodeText
from speechcwcl.zeroshot.enrolment import background_of
from speechcwcl.zeroshot.protocol import Protocol, load_protocol

RETRIEVAL = "retrieval"
INPUTS = "inputs.json"  # which model embedded which manifest
_BLOCK = 64  # clips that a peer embeds between two files


def parse_evals(pairs: Sequence[str]) -> list[tuple[str, str]]:
    """`["test:mini_words", "test:retrieval"]` -> `[("test", "mini_words"), ...]`."""
    found = []
    for pair in pairs:
        name, colon, protocol = pair.partition(":")
        require(
            bool(name and colon and protocol),
            f"{pair!r}: expected SET:PROTOCOL, such as test:mini_words or test:{RETRIEVAL}",
        )
        found.append((name, protocol))
    return found


def read_protocol(name: str) -> Protocol | None:
    """The protocol of that name or file; None for retrieval, which needs none."""
    if name == RETRIEVAL:
        return None
    protocol = load_protocol(name)
    also_reads(protocol.path)
    if Path(protocol.templates_name).suffix:  # a file, not the name of one of the package's
        also_reads(protocol.templates_name)
    return protocol


def eval_folder(expdir: Path, name: str) -> Path:
    """Where the results of a set go; a set of another corpus has a slash in its name."""
    return expdir / "eval" / name.replace("/", ".")


def manifest_of(dumpdir: Path, name: str) -> Manifest:
    """The compiled manifest of a set."""
    path = dumpdir / name / "manifest.jsonl"
    require(path.exists(), f"{path}: no such manifest; compile it first (stage 2)")
    return Manifest(path)


def embed_set(aligner: Aligner | Peer, expdir: Path, dumpdir: Path, name: str) -> np.ndarray:
    """Embed the utterances of a set and write `expdir/eval/<set>/`.

    Returns:
        (n, dim) unit-norm float32, in the order of the manifest.
    """
    manifest = manifest_of(dumpdir, name)
    folder = eval_folder(expdir, name)
    if isinstance(aligner, Peer):
        speech = _heard_by(aligner, manifest, folder)
    else:
        cache = _frozen_features(aligner.speech_encoder, manifest, dumpdir / name)
        speech = embed_manifest(aligner, manifest, cache, progress=f"embed {name}")
    card = dumpdir / name / "corpus.json"
    corpus = read_json(card, dict) if card.exists() else None
    write_embeddings(folder, manifest.ids, speech, corpus)
    write_json(folder / INPUTS, {"model": aligner.identity, "manifest": manifest.state})
    return speech


def _heard_by(peer: Peer, manifest: Manifest, folder: Path) -> np.ndarray:
    """The embeddings of a peer; blocks are kept until all are there, so that a cut-off run goes on.

    Transcribing takes half a second a clip.
    """
    key = sha256_json([peer.identity, manifest.state])[:12]
    parts = []
    for start in tqdm(range(0, len(manifest), _BLOCK), desc=f"{peer.name}: {folder.name}"):
        part = folder / f".{key}-{start}.npy"
        if not part.exists():
            stop = min(start + _BLOCK, len(manifest))
            rows = peer.encode_speech([manifest[i].load() for i in range(start, stop)])
            with atomic_write(part, "wb") as stream:
                np.save(stream, rows, allow_pickle=False)
        parts.append(part)
    speech = np.concatenate([np.load(part, allow_pickle=False) for part in parts])
    for part in parts:
        part.unlink()
    return speech


def evaluate_sets(
    expdir: Path,
    evals: Sequence[tuple[str, str]],
    dumpdir: Path,
    *,
    model: str | Path | None = None,
    probe: str | None = None,
    device: str | None = "cpu",
    remote_code: bool = False,
    examples: Path | None = None,
    spoken: bool = False,
) -> Iterator[str]:
    """Score the embeddings of sets; the score folders are written as it goes.

    Args:
        model: see `open_model`; `expdir/model` by default. A peer embeds what is missing.
        probe: a set whose labels a linear probe and few shots learn from, for each protocol.
        examples, spoken: for protocols of spotting; see `enrol`.
    """
    aligner = open_model(model or expdir / "model", device=device, remote_code=remote_code)
    encode_text: EncodeText = aligner.encode_text
    scale = aligner.logit_scale.item() if isinstance(aligner, Aligner) else None
    if isinstance(aligner, Aligner):
        encode_text = stored_encoder(aligner, dumpdir / FOLDER)
    prober = Prober(aligner, expdir, dumpdir) if probe else None
    for name, word in evals:
        protocol = read_protocol(word)
        manifest, folder = manifest_of(dumpdir, name), eval_folder(expdir, name)
        _refuse(aligner, protocol, name, bool(examples or spoken))
        if protocol and protocol.task == "spotting":
            out, cache = folder / protocol.name, dumpdir / name / "windows"
            asked = (list(manifest), protocol, out, cache, examples, spoken)
            spotted = evaluate_spotting(aligner, *asked)
            yield f"{name}: {protocol.name} {spotting_line(spotted)}"
            continue
        utterances = list(manifest)
        if isinstance(aligner, Peer):
            speech = _embedded(aligner, expdir, dumpdir, name)
        else:
            speech = _embeddings_of(folder, manifest, aligner)
        if protocol is None:
            yield _retrieved(name, speech, utterances, encode_text, folder)
            continue
        out = folder / protocol.name
        ordinary = background_of(aligner) if protocol.unknown else None
        scores = evaluate_zeroshot(speech, utterances, protocol, encode_text, out, ordinary, scale)
        yield f"{name}: {protocol.name} top-1 {100 * scores['top1']:.1f} %"
        if prober and probe:
            sides = (prober.labelled(probe, protocol), prober.labelled(name, protocol))
            classifier = build_classifier(protocol, encode_text)
            header, rows = probe_rows(evaluate_probe(*sides, classifier, out))
            yield text_table([header, *rows])


def _retrieved(
    name: str,
    speech: np.ndarray,
    utterances: Sequence[Utterance],
    encode_text: EncodeText,
    folder: Path,
) -> str:
    texts, ids = [u.text or "" for u in utterances], [u.id for u in utterances]
    ranked = evaluate_retrieval(speech, texts, encode_text, folder / RETRIEVAL, ids=ids)
    return f"{name}: speech -> text R@1 {100 * ranked['speech_to_text']['R@1']:.1f} %"


def _refuse(model: Aligner | Peer, protocol: Protocol | None, name: str, enrol: bool) -> None:
    """Models of others have no windows of ordinary speech; only keywords are enrolled."""
    spotting = protocol is not None and protocol.task == "spotting"
    if enrol and not spotting:
        what = f"{name}:{protocol.name if protocol else RETRIEVAL}"
        raise UserError(
            f"{what}: examples and spoken are for protocols of spotting; score it apart"
        )
    if isinstance(model, Peer) and protocol and (spotting or protocol.unknown):
        raise UserError(f"protocol {protocol.name!r}: only models of speechcwcl find thresholds")


class Prober:
    """The vectors that a linear probe sees; each set is embedded once."""

    def __init__(self, aligner: Aligner | Peer, expdir: Path, dumpdir: Path) -> None:
        self.aligner, self.expdir, self.dumpdir = aligner, expdir, dumpdir
        self.encoder = None
        if isinstance(aligner, Aligner):  # the speech encoder as it was before training, frozen
            was = aligner.speech_encoder
            self.encoder = was
            if was.freeze != "all":
                options = {**was.options(), "freeze": "all", "lora": None}
                encoder = SpeechEncoder.from_pretrained(was.source, **options)
                self.encoder = encoder.to(was.device).eval()
        self._vectors: dict[str, dict[str, np.ndarray]] = {}

    def labelled(self, name: str, protocol: Protocol) -> ProbeSet:
        """The utterances of a set that the protocol gives a class."""
        utterances = list(manifest_of(self.dumpdir, name))
        kept, columns = protocol.assign(utterances)
        return ProbeSet(
            name,
            [utterances[i].id for i in kept],
            [utterances[i].speaker for i in kept],
            columns,
            {kind: rows[kept] for kind, rows in self.vectors(name).items()},
        )

    def vectors(self, name: str) -> dict[str, np.ndarray]:
        """Kind -> (utterances, dim): the model's embeddings, the frozen encoder's mean frames."""
        if name not in self._vectors:
            found = {"embedding": _embedded(self.aligner, self.expdir, self.dumpdir, name)}
            if self.encoder is not None:
                manifest = manifest_of(self.dumpdir, name)
                cache = feature_cache(self.encoder, manifest, self.dumpdir / name)
                frames = (np.asarray(cache.get(i), np.float32) for i in range(len(manifest)))
                found["encoder"] = np.stack([f.mean(axis=0).reshape(-1) for f in frames])
            self._vectors[name] = found
        return self._vectors[name]


def make_validator(
    pairs: Sequence[tuple[str, str]], dumpdir: Path
) -> tuple[Callable[[Aligner], Callable[[Aligner], dict[str, float]]], dict[str, Manifest]]:
    """A function that, given the aligner, makes the function that scores it after each epoch; and
    the manifests of the sets.

    Label embeddings and feature caches are made once; an epoch costs only the trained part.
    The mean over the pairs is `score`: zero-shot top-1 accuracy, or retrieval R@1. Without pairs
    every epoch scores the same.
    """
    protocols = [(name, word, read_protocol(word)) for name, word in pairs]
    manifests = {name: manifest_of(dumpdir, name) for name, _ in pairs}

    def prepare(aligner: Aligner) -> Callable[[Aligner], dict[str, float]]:
        encoder = aligner.speech_encoder
        caches = {n: _frozen_features(encoder, m, dumpdir / n) for n, m in manifests.items()}
        encode_text = stored_encoder(aligner, dumpdir / FOLDER)
        score = {
            (name, word): _scorer(list(manifests[name]), protocol, encode_text)
            for name, word, protocol in protocols
        }

        def validate(model: Aligner) -> dict[str, float]:
            speech = {n: embed_manifest(model, m, caches[n]) for n, m in manifests.items()}
            scores = {f"{n}:{word}": score[n, word](speech[n]) for n, word in score}
            return {"score": float(np.mean([*scores.values()] or [0.0])), **scores}

        return validate

    return prepare, manifests


def _scorer(
    utterances: list[Utterance], protocol: Protocol | None, encode_text: EncodeText
) -> Callable[[np.ndarray], float]:
    """(utterances, dim) speech embeddings -> top-1 accuracy, or R@1 without a protocol."""
    if protocol is None:
        texts = [u.text or "" for u in utterances]
        text = encode_text(texts)
        return lambda speech: retrieval_scores(speech, text, texts)["speech_to_text"]["R@1"]
    fit = protocol.task == "classify" and not protocol.unknown
    require(fit, f"protocol {protocol.name!r} cannot choose checkpoints: it needs thresholds")
    classifier = build_classifier(protocol, encode_text)
    kept, wanted = protocol.assign(utterances)
    return lambda speech: accuracy(speech[kept], classifier, wanted)


def _embedded(model: Aligner | Peer, expdir: Path, dumpdir: Path, name: str) -> np.ndarray:
    """The embeddings of a set, made now where there are none of this model and manifest."""
    try:
        return _embeddings_of(eval_folder(expdir, name), manifest_of(dumpdir, name), model)
    except UserError:
        return embed_set(model, expdir, dumpdir, name)


def _embeddings_of(folder: Path, manifest: Manifest, aligner: Aligner | Peer) -> np.ndarray:
    path = folder / "speech.npy"
    require(
        path.exists(),
        f"{path}: no embeddings of this set yet; run `speechcwcl embed-speech` (stage 7)",
    )
    found, speech = read_embeddings(folder)
    now = {"manifest": manifest.state, "model": aligner.identity}
    kept = read_json(folder / INPUTS, dict) if (folder / INPUTS).exists() else {}
    other = [name for name in now if kept.get(name, now[name]) != now[name]]
    if found != manifest.ids:  # a folder of an older version has its ids only
        other.insert(0, "manifest")
    require(
        not other,
        f"{folder}: the embeddings are of another {' and '.join(dict.fromkeys(other))}; run "
        "`speechcwcl embed-speech` (stage 7) again",
    )
    return speech


def _frozen_features(
    encoder: SpeechEncoder, manifest: Manifest, folder: Path
) -> FeatureCache | None:
    """None where the encoder is trained from the waveform on."""
    return feature_cache(encoder, manifest, folder) if encoder.cacheable else None
