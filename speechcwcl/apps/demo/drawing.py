"""The page's pieces as HTML: the recording, the ranked bars, the heat table, errors.

Whatever comes from people (labels, file names) is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from speechcwcl.apps.demo.answer import Clip, Ranked, Verdict

SHOWN = 8  # labels that are shown before "all labels" is opened
_SILENT = 0.01  # a peak below this share of full scale


def error(message: str) -> str:
    """What went wrong, in the place of the answer."""
    return f'<div class="cw-error" role="alert"><b>That did not work.</b> {escape(message)}</div>'


def hint(message: str) -> str:
    """What to do next."""
    return f'<div class="cw-hint">{escape(message)}</div>'


def heading(abouts: Sequence[tuple[str, dict]]) -> str:
    """The top of the page: what it is, and which models answer."""
    chips = "".join(
        f'<li><span class="cw-dot cw-c{number % 4}"></span><b>{escape(name)}</b>'
        f"<span>{_encoders(about)}</span></li>"
        for number, (name, about) in enumerate(abouts)
    )
    return (
        '<header class="cw-head"><h1>Classify speech by labels in your own words</h1>'
        "<p>Record or upload speech, type labels in plain words, and see which one the speech is "
        "closest to. The model was never trained on your labels.</p>"
        f'<ul class="cw-models">{chips}</ul></header>'
    )


def _encoders(about: dict) -> str:
    return (
        f"speech: {escape(about['speech_encoder'])} · text: {escape(about['text_encoder'])} · "
        f"{about['dim']} dimensions"
    )


def clip_card(clip: Clip) -> str:
    """The recording: name, length, waveform, player; a warning where it is silent."""
    warning = (
        '<p class="cw-warn">This recording is nearly silent. Is the microphone on?</p>'
        if clip.peak < _SILENT
        else ""
    )
    return (
        f'<figure class="cw-clip"><figcaption><b>{escape(clip.name)}</b>'
        f"<span>{clip.seconds:.1f} s</span></figcaption>{waveform(clip)}"
        f'<audio controls preload="auto" src="{clip.address()}"></audio>{warning}</figure>'
    )


def waveform(clip: Clip) -> str:
    """The recording as a filled outline, scaled to its peak."""
    low, high = clip.envelope() / max(clip.peak, _SILENT)
    columns = len(high)
    edge = [f"{x},{1 - y:.3f}" for x, y in enumerate(high)]
    edge += [f"{x},{1 - low[x] + 0.01:.3f}" for x in reversed(range(columns))]
    return (
        f'<svg class="cw-wave" viewBox="0 0 {max(1, columns - 1)} 2" preserveAspectRatio="none" '
        f'role="img"><title>waveform, {clip.seconds:.1f} s</title>'
        f'<line x1="0" x2="{columns}" y1="1" y2="1"/><polygon points="{" ".join(edge)}"/></svg>'
    )


def answers(
    verdicts: Sequence[Verdict], templates: Sequence[str], unknown_below: float = 0.0
) -> str:
    """What the models say, side by side."""
    cards = "".join(
        _card(number, verdict, templates, unknown_below) for number, verdict in enumerate(verdicts)
    )
    agreement = ""
    if len(verdicts) > 1:
        said = {verdict.answer for verdict in verdicts}
        agreement = "The models agree." if len(said) == 1 else "The models disagree."
        agreement = f'<p class="cw-agree">{agreement}</p>'
    return f'<div class="cw-answers" role="status">{agreement}{cards}</div>'


def _card(number: int, verdict: Verdict, templates: Sequence[str], unknown_below: float) -> str:
    best = verdict.ranked[0]
    if verdict.answer is None:
        says = (
            '<p class="cw-says cw-unknown">unknown</p>'
            f'<p class="cw-note">The nearest label, “{escape(best.label)}”, has the similarity '
            f"{best.cosine:.2f}, below {unknown_below:.2f}.</p>"
        )
    else:
        says = f'<p class="cw-says">{escape(verdict.answer)}</p>'
    return (
        f'<section class="cw-card cw-m{number % 4}"><h2><span class="cw-dot cw-c{number % 4}">'
        f"</span>{escape(verdict.model)}</h2>{says}"
        f"{_bars(verdict.ranked)}{heat_table(verdict.ranked, templates)}</section>"
    )


def _bars(ranked: Sequence[Ranked]) -> str:
    first = "".join(map(_bar, ranked[:SHOWN]))
    html = f'<ol class="cw-bars" aria-label="labels by score">{first}</ol>'
    if len(ranked) > SHOWN:
        rest = "".join(map(_bar, ranked[SHOWN:]))
        html += (
            f"<details><summary>{len(ranked) - SHOWN} more labels</summary>"
            f'<ol class="cw-bars" start="{SHOWN + 1}">{rest}</ol></details>'
        )
    return html


def _bar(row: Ranked) -> str:
    return (
        f'<li><span class="cw-label" title="{escape(row.label)}">{escape(row.label)}</span>'
        f'<span class="cw-track"><span style="width:{100 * row.score:.2f}%"></span></span>'
        f'<span class="cw-value">{100 * row.score:.1f} %</span></li>'
    )


def heat_table(ranked: Sequence[Ranked], templates: Sequence[str]) -> str:
    """Similarity of the speech to each label (rows) in each template (columns).

    Shades run from the lowest to the highest similarity of the whole table.
    """
    values = np.array([[row.cosine, *row.by_template] for row in ranked])
    low, high = float(values.min()), float(values.max())
    several = len(templates) > 1
    head = ("<th>all</th>" if several else "") + "".join(map(_column, templates))
    rows = []
    for row, numbers in zip(ranked, values, strict=True):
        cells = "".join(
            f'<td style="--h:{(v - low) / max(high - low, 1e-9):.2f}">{round(v, 2) + 0.0:.2f}</td>'
            for v in (numbers if several else numbers[1:])
        )
        rows.append(f'<tr><th title="{escape(row.label)}">{escape(row.label)}</th>{cells}</tr>')
    more = len(rows) > SHOWN
    return (
        '<div class="cw-heat"><h3>Similarity by template <span>cosine</span></h3>'
        f'<div class="cw-scroll{" cw-tall" if more else ""}" tabindex="0"><table><thead><tr>'
        f"<th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _column(template: str) -> str:
    spoken = "label" if template == "{}" else template.replace("{}", "…")
    long = ' class="cw-long"' if len(spoken) > 14 else ""
    return f"<th{long}>{escape(spoken)}</th>"
