"""RESULTS.md, the terminal table and report.html, read as text."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from report_runs import encode_text, heard, make_run

from speechcwcl.data.audio import write_audio
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.results import ScoreFolder
from speechcwcl.evaluation.scores import evaluate_zeroshot
from speechcwcl.files import write_json
from speechcwcl.report.figures import RUN_COLOURS, Budget, choose_examples, embed_audio
from speechcwcl.report.markdown import results_table
from speechcwcl.report.page import build_report
from speechcwcl.report.runs import RunDir, gather_tests, open_runs
from speechcwcl.zeroshot.protocol import Protocol

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Collects tags with their attributes; checks that they are nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    exp = tmp_path_factory.mktemp("exp")
    runs = [make_run(exp, "cwcl", noise=1.5), make_run(exp, "clip", noise=2.0, seed=5)]
    results, page = build_report(runs, exp / "out", title="mini & more")
    return runs, results.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(made):
    return Outline(made[2])


def percent_of(run, test, protocol):
    return f"{100 * ScoreFolder.open(run / 'eval' / test / protocol).scores['top1']:.1f} %"


def test_the_figures_of_both_runs_stand_in_all_three(made):
    runs, results, page = made
    table = results_table(runs)
    for run in runs:
        for kind in ("words", "intents"):
            value = percent_of(run, f"test_{kind}", f"mini_{kind}")
            assert value in results
            assert value in page
            assert value in table
    assert percent_of(runs[0], "test_words", "mini_words") != percent_of(
        runs[1], "test_words", "mini_words"
    )


def test_speakers_stand_by_both_runs(made, outline):
    runs, _, page = made
    assert outline.texts.count("Every speaker, the hardest first") == 2  # words and intents
    table = page.split("Every speaker, the hardest first")[1].split("</table>")[0]
    rows = re.findall(r"<tr><th.*?>(speaker \d)</th><td.*?>(\d+)</td>(.*?)</tr>", table, re.S)
    shares = [[float(x) for x in re.findall(r">(\d+) ?.?%<", row)] for _, _, row in rows]
    assert len(rows) == 6 and all(len(row) == 2 for row in shares)
    means = [sum(row) for row in shares]
    assert all(a <= b + 2 for a, b in zip(means, means[1:], strict=False))
    found = ScoreFolder.open(runs[0] / "eval/test_intents/mini_intents").per_speaker
    assert sum(int(row["support"]) for row in found) == 210


def test_terminal_table(made):
    lines = results_table(made[0]).splitlines()
    assert lines[0].split()[:6] == ["test", "n", "classes", "chance", "text", "bound"]
    assert lines[0].endswith("clip")
    assert re.fullmatch(
        r"test_intents: mini_intents +210 +35 +2\.9 % +100\.0 %"
        r"(  +\d+\.\d % \[\d+\.\d, \d+\.\d\]){2}",
        lines[2],
    )
    assert "test_sentences: retrieval, R@1" in lines[4]
    assert len(lines) == 5
    ends = {
        line.index(cell) + len(cell)
        for line, cell in zip(lines[0:3:2], ("chance", "2.9 %"), strict=True)
    }
    assert len(ends) == 1, "the columns are not aligned"


def test_results_md_tells_command_seed_versions_and_synthetic_speech(made):
    results = made[1]
    assert "# mini & more" in results
    assert "(synthetic speech)" in results
    assert "`speechcwcl train cwcl.yaml`" in results
    assert "torch 2.11.0" in results
    assert "| cwcl | cwcl | 1 | 6 |" in results
    for line in results.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_the_page_fetches_nothing(outline, made):
    for _, attrs in outline.tags:
        for name in ("src", "href", "poster", "data", "action", "srcset"):
            value = attrs.get(name, "#")
            assert value.startswith(("#", "data:")), value
    assert not re.search(r"@import|url\((?!#)", made[2])
    (policy,) = [a for a in outline.all("meta") if a.get("http-equiv")]
    assert "default-src 'none'" in policy["content"]


def test_the_page_is_accessible(outline, made):
    assert outline.all("html") == [{"lang": "en"}]
    for attrs in outline.all("svg"):
        assert attrs.get("role") == "img" or attrs.get("aria-hidden") == "true"
    drawn = [a for a in outline.all("svg") if a.get("role") == "img"]
    titles = re.findall(r"<svg[^>]*role=\"img\"[^>]*><title>([^<]+)</title>", made[2])
    assert len(titles) == len(drawn) >= 8
    assert made[2].count("<table") == made[2].count("<thead")
    assert all(a.get("scope") in ("col", "row") for a in outline.all("th"))
    assert all(a.get("aria-label") for a in outline.all("audio"))
    ids = [a["id"] for _, a in outline.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    anchors = {a["href"][1:] for a in outline.all("a")}
    assert anchors <= set(ids)


def test_the_players_hold_audio_that_can_be_decoded(outline):
    players = outline.all("audio")
    assert 6 <= len(players) <= 18
    address = players[0]["src"]
    assert address.startswith("data:audio/flac;base64,")
    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))
    assert (rate, len(wav)) == (16000, 8000)
    assert abs(wav).max() > 0.05


def test_the_players_show_right_disputed_and_wrong_clips(made):
    runs = open_runs(made[0])
    (test,) = [t for t in gather_tests(runs) if t.protocol == "mini_words"]
    clips = choose_examples(test, Budget(0))
    assert {clip.kind for clip in clips} == {"right", "split", "wrong"}
    for clip in clips:
        marks = [tops[0][2] for tops in clip.tops.values()]
        assert clip.kind == ("right" if all(marks) else "split" if any(marks) else "wrong")
        assert clip.source == ""  # no room was given
        for tops in clip.tops.values():
            assert [score for _, score, _ in tops] == sorted((t[1] for t in tops), reverse=True)
            assert all(good == (text == clip.label) for text, _, good in tops)
    rights = [clip.label for clip in clips if clip.kind == "right"]
    assert len(set(rights)) == len(rights) == 3


def test_similarity_panels_share_one_scale_and_lie_side_by_side(made, outline):
    images = [a for a in outline.all("image") if a.get("href", "").startswith("data:image/png")]
    assert len(images) == 4  # two tests, two runs
    assert len({a["href"] for a in images}) == 4
    assert made[2].count('class="scale"') == 2


def test_training_terms_each_have_a_drawing(made, outline):
    captions = re.findall(r"<figcaption>([^<]+?) ?(?:<span|</figcaption>)", made[2])
    images = {a["alt"].split(" by epoch: ")[0]: a["src"] for a in outline.all("img")}
    for term in ("loss", "cwcl", "cl", "clip", "accuracy", "score"):
        assert term in captions
        kind, _, content = images[term].partition(";base64,")
        assert kind == "data:image/svg+xml"
        drawing = base64.b64decode(content).decode()
        assert any(colour in drawing for colour in RUN_COLOURS[:2])
    assert sorted(captions[-len(images) :]) == sorted(images)


def test_the_same_runs_give_the_same_bytes(made, tmp_path):
    results, page = build_report(made[0], tmp_path, title="mini & more")
    assert results.read_text(encoding="utf-8") == made[1]
    assert page.read_text(encoding="utf-8") == made[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["RESULTS.md", "report.html"]


def test_size(made):
    assert len(made[2].encode()) < 1_500_000


def test_text_from_data_cannot_become_markup(tmp_path):
    evil = "<script>alert(1)</script>\"'&|`[x](http://e.org)"
    labels = {f"a{evil}": (f"a {evil}",), f"b{evil}": (f"b {evil}",), "c": ("<b>c</b>",)}
    protocol = Protocol("evil", labels, ("{}", "<i>{}</i>"), description=evil)
    names = list(labels)
    said = [
        Utterance(f"u{i}<u>", "", f"say {evil} {i}", labels={"label": names[i % 3]})
        for i in range(12)
    ]
    run = tmp_path / "<s>run"
    folder = run / "eval" / "se<t" / "evil"
    speech = heard([u.text for u in said], 0.5, 0)
    evaluate_zeroshot(speech, said, protocol, encode_text, folder)
    write_json(
        folder.parent / "corpus.json", {"name": evil, "synthetic_speech": False, "<k>": evil}
    )
    write_json(run / "hparams.json", {"loss": evil, "seed": 3})
    write_json(run / "env.json", {"command": f"run {evil}", "versions": {"<v>": evil}})
    (run / "metrics.jsonl").write_text('{"epoch": 1, "train": {"<loss>": 1.0}}\n')
    _, page = build_report([run], tmp_path / "out", title=evil)
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    assert len(outline.all("script")) == 1
    assert {tag for tag, _ in outline.tags}.isdisjoint({"u", "s", "k", "v"})
    assert "alert(1)" not in text.split("<script>")[-1]
    assert any("<script>alert(1)</script>" in shown for shown in outline.texts)
    assert "recorded speech" in text
    markdown = (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    bare = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", markdown))  # neither escaped nor code
    assert "alert(1)" in bare
    assert "<" not in bare
    assert "](" not in bare


def test_runs_that_cannot_be_compared_are_marked(tmp_path):
    one = make_run(tmp_path, "one", noise=1, protocols=("mini_words",), each=2, audio=False)
    two = make_run(tmp_path, "two", noise=1, protocols=("mini_words",), each=3, audio=False)
    results, page = build_report([one, two], tmp_path / "out")
    says = "the runs were scored on different utterances"
    assert says in page.read_text(encoding="utf-8")
    assert says in results.read_text(encoding="utf-8")


def test_one_run_with_scores_only(tmp_path):
    run = make_run(tmp_path, "bare", noise=1, protocols=("mini_words",), each=2, audio=False)
    for name in ("metrics.jsonl", "env.json", "hparams.json"):
        (run / name).unlink()
    _, page = build_report([run], tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "the recording is not embedded" in text
    assert 'id="training"' not in text
    assert "difference to" not in text


def test_a_run_that_lacks_a_test_gets_a_dash(tmp_path):
    one = make_run(tmp_path, "one", noise=1, each=2, audio=False)
    two = make_run(tmp_path, "two", noise=1, protocols=("mini_words",), each=2, audio=False)
    table = results_table([one, RunDir.open(two, "renamed")])
    lines = {line.split()[0] + line.split()[1]: line for line in table.splitlines()}
    assert lines["test_intents:mini_intents"].endswith("–")
    assert not lines["test_words:mini_words"].endswith("–")
    assert table.splitlines()[0].endswith("renamed")
    build_report([one, two], tmp_path / "out")


def test_more_runs_than_colours(tmp_path):
    one = make_run(tmp_path, "one", noise=1, protocols=("mini_words",), each=2, epochs=1)
    _, page = build_report([RunDir.open(one, f"run{i}") for i in range(7)], tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert all(f"run{i}" in text for i in range(7))
    assert len(text) < 5_000_000


def test_clips_are_cut_and_missing_ones_left_out(tmp_path):
    path = str(tmp_path / "long.flac")
    write_audio(path, np.random.default_rng(0).normal(0, 0.1, 16000 * 10).astype(np.float32))

    def embedded(budget=10**7, **row):
        address, cut = embed_audio(row, Budget(budget))
        data = base64.b64decode(address.partition(",")[2])
        return (len(soundfile.read(io.BytesIO(data))[0]) if data else 0), cut

    assert embedded(audio=path, start="", end="") == (8 * 16000, True)
    assert embedded(audio=path, start="1.5", end="2.0") == (8000, False)
    assert embedded(audio=path, start="", end="", budget=1000) == (0, False)
    assert embedded(audio=str(tmp_path / "gone.flac")) == (0, False)
    assert embedded(audio="") == (0, False)


def test_cards_of_other_sets_come_from_the_dump_folder(tmp_path):
    run = make_run(tmp_path, "one", noise=1, protocols=("mini_words",), each=2, audio=False)
    card = {"name": "mini", "licence": "Apache-2.0", "synthetic_speech": True, "utterances": 2100}
    write_json(tmp_path / "dump" / "train" / "corpus.json", card)
    results, page = build_report([run], tmp_path / "out", dumpdir=tmp_path / "dump")
    assert "| train | mini |" in results.read_text(encoding="utf-8")
    assert "2100" in page.read_text(encoding="utf-8")


def test_out_is_a_file_or_no_run(tmp_path):
    run = make_run(tmp_path, "one", noise=1, protocols=("mini_words",), each=2, audio=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a folder is needed"):
        build_report([run], tmp_path / "file")
    with pytest.raises(UserError, match="at least one"):
        build_report([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
