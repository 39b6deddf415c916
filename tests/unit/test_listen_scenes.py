"""The scenes of the listening benchmark, and how events are judged."""

from pathlib import Path

import numpy as np
import pytest

from speechcwcl.apps.listen.listener import Event

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"


@pytest.fixture
def scenes(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import listen_scenes

    return listen_scenes


def test_synthetic_speech_goes_where_the_truth_says(scenes, repository):
    clips = scenes.mini_clips(repository / "egs/mini/corpus", "test", 5, 2, seed=3)
    assert [clip.word is None for clip in clips] == [False] * 5 + [True] * 2
    wav, said = scenes.scene(clips, seed=1)
    again, _ = scenes.scene(clips, seed=1)
    assert np.array_equal(wav, again) and len(said) == 7
    assert sorted(item.text for item in said) == sorted(clip.text for clip in clips)
    assert all(a.end < b.start for a, b in zip(said, said[1:], strict=False))
    power = wav.astype(np.float64) ** 2
    inside = np.zeros(len(wav), dtype=bool)
    for item in said:
        inside[int(item.start * 16000) : int(item.end * 16000)] = True
    assert power[inside].mean() > 50 * power[~inside].mean()


def test_events_are_judged(scenes):
    said = [
        scenes.Said("stop", "stop", 1.0, 1.5),
        scenes.Said(None, "please stop that", 3.0, 5.0),
        scenes.Said("go", "go", 7.0, 7.4),
        scenes.Said("left", "left", 9.0, 9.4),
    ]

    def judge(*events):
        return scenes.score(
            [Event(start, start + 0.4, label, 0.9, start + 1) for start, label in events],
            said, ["stop", "go"],
        )  # fmt: skip

    counts = judge((1.1, "stop"), (7.0, "go"))
    assert (counts.right, counts.false, counts.words) == (2, 0, 2) and counts.f1 == 1
    assert counts.delays == pytest.approx((0.6, 0.6))
    assert judge((1.0, "stop"), (1.2, "stop")).false == 1, "twice for one word"
    assert judge((1.0, "go")).false == 1 and judge((9.0, "go")).false == 1
    assert judge((2.5, "stop")).false == 0, "the sentence has it"
    assert judge((3.5, "go")).false == 1
    assert judge((1.85, "stop")).right == 0
    assert judge().recall == 0 and judge().precision == 0


def test_groups_cover_every_word_once(scenes):
    said = [scenes.Said(word, word, i, i + 0.5) for i, word in enumerate("abcdefghijklmnopqrstu")]
    found = list(scenes.groups(said, 10))
    assert len(found) == 2 and sorted(sum(found, [])) == list("abcdefghijklmnopqrstu")


def test_a_section_is_replaced_or_put_at_the_end(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(TOOLS))
    from bench_page import write_section

    page = tmp_path / "README.md"
    page.write_text("# Benchmarks\n\ntext\n")
    write_section("a", "## A", "one", page)
    write_section("b", "## B", "two", page)
    write_section("a", "## A", "three", page)
    assert page.read_text() == (
        "# Benchmarks\n\ntext\n\n## A\n\n<!-- a -->\nthree\n<!-- /a -->\n\n"
        "## B\n\n<!-- b -->\ntwo\n<!-- /b -->\n"
    )
