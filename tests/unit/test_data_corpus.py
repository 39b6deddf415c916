"""The corpus base class and the registry."""

import sys
import types

import numpy as np
import pytest

import speechcwcl.corpora as corpora
from speechcwcl.corpora import CORPORA, Corpus, get_corpus
from speechcwcl.data.audio import write_audio
from speechcwcl.data.kaldi import Utterance, check_datadir, read_corpus, read_datadir
from speechcwcl.errors import UserError


class Words(Corpus):
    name = "words"
    title = "Words for tests"
    licence = "CC0-1.0"
    url = "https://example.org/words"
    splits = ("train", "test")
    label_fields = ("label",)

    def utterances(self, source, split, problems):
        listing = self.file(source / f"{split}.txt")
        for number, line in enumerate(listing.read_text().splitlines(), 1):
            path = source / f"{line}.wav"
            if path.exists():
                yield Utterance(f"{split}-{line}", str(path), line, labels={"label": line})
            else:
                problems.add(f"{listing}:{number}: no audio file {path}")

    def fake(self, target, seed=0):
        rng = np.random.default_rng(seed)
        for word in ("yes", "no"):
            write_audio(target / f"{word}.wav", 0.1 * rng.standard_normal(8000))
        for split in self.splits:
            (target / f"{split}.txt").write_text("yes\nno\n")
        return target


def test_prepare_makes_a_data_folder_a_split(tmp_path):
    source = Words().fake(tmp_path / "source")
    folders = Words().prepare(source, tmp_path / "data")
    assert folders == [tmp_path / "data" / "train", tmp_path / "data" / "test"]
    assert [u.id for u in read_datadir(folders[1])] == ["test-no", "test-yes"]
    facts = read_corpus(folders[0])
    assert facts["split"] == "train" and facts["licence"] == "CC0-1.0" and facts["utterances"] == 2
    assert Words().prepare(source, tmp_path / "one", ["test"]) == [tmp_path / "one" / "test"]


def test_broken_items_stop_unless_they_are_skipped_and_listed(tmp_path):
    source = Words().fake(tmp_path / "source")
    (source / "train.txt").write_text("yes\nmaybe\nno\n")
    with pytest.raises(UserError, match=r"train.txt:2: no audio file .*maybe.wav"):
        Words().prepare(source, tmp_path / "data")
    assert not (tmp_path / "data" / "train").exists()
    train, test = Words().prepare(source, tmp_path / "data", skip_bad=True)
    assert len(read_datadir(train)) == 2 and read_corpus(train)["skipped"] == 1
    assert "maybe.wav" in (train / "bad.tsv").read_text()
    assert not (test / "bad.tsv").exists() and "skipped" not in read_corpus(test)
    Words().fake(source)
    Words().prepare(source, tmp_path / "data")
    assert not (train / "bad.tsv").exists()


def test_wrong_folders_and_splits_are_explained(tmp_path):
    source = Words().fake(tmp_path / "source")
    with pytest.raises(UserError, match="no such folder; where is Words for tests"):
        Words().prepare(tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(UserError, match=r"no split 'trian' \(closest: 'train'\)"):
        Words().prepare(source, tmp_path / "data", ["trian"])
    (source / "test.txt").rename(source / "tset.txt")
    with pytest.raises(UserError, match=r"test.txt: not there \(closest: 'tset.txt'\); is this"):
        Words().prepare(source, tmp_path / "data", ["test"])
    with pytest.raises(UserError, match=r"get it from https://example.org/words .*--data"):
        Words().download(tmp_path)


def test_the_registry_finds_modules_by_name_and_imports_them_late(monkeypatch):
    module = types.ModuleType("speechcwcl.corpora.my_words")
    Mine = type("Mine", (Words,), {"__module__": module.__name__})
    module.Mine, module.Words = Mine, Words  # what it merely imports does not count
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(corpora, "CORPORA", ("my_words", *CORPORA))
    assert isinstance(get_corpus("my-words"), Mine)
    with pytest.raises(UserError, match=r"no corpus 'my_word' \(closest: 'my_words'\)"):
        get_corpus("my_word")


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_has_its_facts_and_prepares_its_fake(name, tmp_path):
    corpus = get_corpus(name)
    assert corpus.name == name and corpus.title and corpus.licence and corpus.splits
    folders = corpus.prepare(corpus.fake(tmp_path / "fake"), tmp_path / "data")
    assert folders and {folder.name for folder in folders} <= set(corpus.splits)
    reports = [check_datadir(folder) for folder in folders]
    assert all(not report.problems and report.utterances > 0 for report in reports)
    assert set(corpus.label_fields) <= {name for report in reports for name in report.fields}
