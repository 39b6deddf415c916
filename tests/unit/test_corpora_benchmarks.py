"""The corpora on which peers print numbers: Fluent Speech Commands, MInDS-14, Speech-MASSIVE."""

import re

import pytest

from speechcwcl.corpora import fluent_speech_commands, get_corpus, minds14
from speechcwcl.corpora._hf_disk import write_table
from speechcwcl.corpora.base import write_lines, write_spoken
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.errors import UserError
from speechcwcl.zeroshot.protocol import load_protocol

LANGUAGE = {"minds14": "de-DE", "speech_massive": "de-DE"}
PROTOCOL = {
    "fluent_speech_commands": "fsc_intent",
    "minds14": "minds14",
    "speech_massive": "slurp_intent",
}


def prepared(name, source, out, split, words=()):
    corpus = get_corpus(name)
    corpus.configure(list(words))
    (folder,) = corpus.prepare(source, out, [split])
    return list(read_datadir(folder))


@pytest.mark.parametrize("name", PROTOCOL)
def test_the_fake_is_read_and_its_labels_are_the_protocol_s(name, tmp_path):
    corpus = get_corpus(name)
    source = corpus.fake(tmp_path / "fake")
    split = corpus.splits[-1]
    got = prepared(name, source, tmp_path / "data", split)
    assert len(got) >= 4 and all(u.text for u in got)
    kept, _ = load_protocol(PROTOCOL[name]).assign(got)
    assert len(kept) == len(got)
    assert {field for u in got for field in u.labels} == set(corpus.label_fields)
    if name in LANGUAGE:
        words = ["--language", LANGUAGE[name]]
        other = prepared(name, source, tmp_path / "other", split, words)
        assert other and {u.text for u in other}.isdisjoint(u.text for u in got)
        with pytest.raises(UserError, match="no language 'xx-XX'.* there are"):
            prepared(name, source, tmp_path / "none", split, ["--language", "xx-XX"])


def test_fluent_speech_commands_bad_input(tmp_path):
    corpus = get_corpus("fluent_speech_commands")
    source = corpus.fake(tmp_path / "fake")
    root = source / "fluent_speech_commands_dataset"
    (root / "wavs/speakers/speaker2/test-0001.wav").unlink()
    table = root / "data/test_data.csv"
    lines = table.read_text().splitlines()
    lines[3] = lines[3].replace("a bit more volume", " ")
    lines[4] = lines[4].replace("wavs/", "../../")
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        prepared("fluent_speech_commands", source, tmp_path / "data", "test")
    text = str(caught.value)
    assert "test_data.csv:3: " in text and "test-0001.wav is not there" in text
    assert ":4: no transcription" in text and ":5: a recording's path must lie in the" in text
    assert not (tmp_path / "data/test").exists()
    (root / "data/test_data.csv").write_text("path,transcription\n")
    with pytest.raises(UserError, match="test_data.csv:1: no column"):
        prepared("fluent_speech_commands", source, tmp_path / "data", "test")


def fluent_of_the_hub(target):
    """The sentences of the fake in parquet, as SUPERB's `ic` has them."""
    said, slots = fluent_speech_commands._FAKE, fluent_speech_commands.SLOTS
    names = {slot: sorted({row[place] for row in said}) for place, slot in enumerate(slots, 1)}
    for place, split in enumerate(("train", "validation", "test")):
        rows = [
            {"file": f"{number}.wav", "speaker_id": f"speaker{place}", "text": text}
            | dict(zip(slots, found, strict=True))
            for number, (text, *found) in enumerate(said)
        ]
        write_table(target / "ic" / f"{split}-00000-of-00001.parquet", rows, "text", place, names)
    return target


def test_fluent_speech_commands_of_the_hub_is_read_as_the_archive(tmp_path):
    name = "fluent_speech_commands"
    archive = get_corpus(name).fake(tmp_path / "archive")
    hub = fluent_of_the_hub(tmp_path / "hub")
    corpus = get_corpus(name)
    assert {folder.name for folder in corpus.prepare(hub, tmp_path / "all")} == set(corpus.splits)
    for split in corpus.splits:
        ours = list(read_datadir(tmp_path / "all" / split))
        theirs = prepared(name, archive, tmp_path / "a", split)
        said = [(u.text, u.speaker, u.labels) for u in theirs]
        assert sorted(said, key=str) == sorted(
            ((u.text, u.speaker, u.labels) for u in ours), key=str
        )
    kept, _ = load_protocol("fsc_intent").assign(ours)
    assert len(kept) == len(ours) == 6
    with pytest.raises(UserError, match="no split 'dev'"):
        prepared(name, hub, tmp_path / "b", "dev")


def minds14_of_its_owner(target):
    """The archive of its owner, one language, a few synthetic clips."""
    lines = ["filepath,text_asr,text_translated,intent_class"]
    for number, (text, intent) in enumerate(minds14._FAKE["en-US"]):
        name = f"en-US~{intent.upper()}/{number:04d}.wav"
        write_spoken(target / "MInDS-14" / "audio" / name, text, number)
        lines.append(f'{name},"{text}","{text}",{intent.upper()}')
    write_lines(target / "MInDS-14" / "text" / "en-US.csv", lines)
    return target


def test_the_archive_of_minds14_is_read_as_the_hub_s_dataset(tmp_path):
    archive = minds14_of_its_owner(tmp_path / "archive")
    hub = get_corpus("minds14").fake(tmp_path / "hub")
    ours = prepared("minds14", archive, tmp_path / "a", "train")
    theirs = prepared("minds14", hub, tmp_path / "b", "train")
    texts = {(u.text, u.labels["label"]) for u in ours}
    assert texts == {(u.text, u.labels["label"]) for u in theirs} and len(texts) == 5
    next((archive / "MInDS-14/audio").rglob("*.wav")).unlink()
    with pytest.raises(UserError, match=r"en-US.csv:\d: .* is not there"):
        prepared("minds14", archive, tmp_path / "c", "train")


def test_common_voice_takes_several_languages_at_once(tmp_path):
    corpus = get_corpus("common_voice")
    corpus.configure(["--languages", "en", "de"])
    source = corpus.fake(tmp_path / "fake")
    (folder,) = corpus.prepare(source, tmp_path / "data", ["dev"])
    got = list(read_datadir(folder))
    assert len(got) == 10 and {u.labels["language"] for u in got} == {"en", "de"}
    corpus.configure(["--languages", "en", "dex"])
    with pytest.raises(UserError, match=r"no language 'dex' \(closest: 'de'\); there are: de, en"):
        corpus.prepare(source, tmp_path / "other", ["dev"])


def test_a_protocol_carries_texts_by_language(tmp_path):
    english, german = load_protocol("minds14"), load_protocol("minds14@de")
    assert german.name == "minds14.de" and german.ids == english.ids == list(minds14.INTENTS)
    assert german.labels["balance"][0] == "mein Kontostand" and german.hash != english.hash
    with pytest.raises(UserError, match=r"no texts in 'ed' \(closest: 'de'\)"):
        load_protocol("minds14@ed")
    path = tmp_path / "rooms.yaml"
    path.write_text("name: r\nlabels:\n  a: one\n  b: two\nlanguages:\n  de:\n    a: eins\n")
    with pytest.raises(UserError, match="rooms.yaml:.*languages"):
        load_protocol(path)
    path.write_text(path.read_text() + "    b: zwei\n")
    assert load_protocol(f"{path}@de").texts == {"a": "eins", "b": "zwei"}


@pytest.mark.parametrize("name", ["slurp_intent", "slurp_scenario", "minds14"])
def test_texts_of_other_languages_are_not_the_english_ones(name):
    english = load_protocol(name)
    for language in ("de", "fr") if name == "minds14" else ("de", "fr", "es"):
        other = load_protocol(f"{name}@{language}")
        assert other.ids == english.ids
        for label, texts in other.labels.items():
            assert len(texts) >= 2 and not set(texts) & set(english.labels[label]), label


def test_texts_of_fluent_speech_commands_name_their_slots():
    protocol = load_protocol("fsc_intent")
    assert len(protocol.ids) == 31
    for label, texts in protocol.labels.items():
        assert len(texts) == 2 and all(re.fullmatch("[A-Za-z ]+", text) for text in texts), label
        place = label.rsplit("_", 1)[1]
        if place != "none":
            spoken = {"washroom": ("washroom", "bathroom")}.get(place, (place,))
            assert all(any(word in text for word in spoken) for text in texts), label
