"""The page itself, in gradio: what stands where, and what happens on a click."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from speechcwcl.apps.demo import drawing
from speechcwcl.apps.demo.answer import Judge, classify, decide_all, read_clip
from speechcwcl.apps.demo.ask import Limits, fill_in, label_sets, parse_templates, template_sets
from speechcwcl.errors import UserError

CSS = Path(__file__).with_name("page.css")
FORGET_AFTER = 1800  # seconds that the embedding of a recording stays in memory
_MODEL = "model"  # one request at a time is with the models
_BEFORE = "Record or upload speech; the answer appears here."


@dataclass(frozen=True)
class Heard:
    """What is kept of a recording, in memory: enough to answer again with other labels.

    Attributes:
        vectors: its embedding by each model, (dim,) each.
    """

    vectors: list[np.ndarray]


def discard(path: str | None) -> None:
    """Delete an upload and the folder that gradio made for it."""
    if path is not None:
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
            Path(path).parent.rmdir()


class Desk:
    """What the page calls: each method takes what the components hold, returns what they show.

    Args:
        judges: the models.
        limits: what may be asked.
    """

    def __init__(self, judges: Sequence[Judge], limits: Limits):
        self.judges = list(judges)
        self.limits = limits

    def receive(
        self, path: str | None, labels: str, templates: str, unknown_below: float
    ) -> tuple[None, dict[str, Any], str, Heard | None]:
        """A new recording: embed it, delete its file, answer.

        Returns:
            The emptied recorder, the recording's card, the answer, what is kept.
        """
        try:
            clip = read_clip(path, self.limits)
            heard = Heard([judge.embed(clip.wav) for judge in self.judges])
        except UserError as error:
            return None, gr.update(value="", visible=False), drawing.error(str(error)), None
        finally:
            discard(path)
        answer = self.answer(heard, labels, templates, unknown_below)
        return None, gr.update(value=drawing.clip_card(clip), visible=True), answer, heard

    def answer(self, heard: Heard | None, labels: str, templates: str, unknown_below: float) -> str:
        """The answer to what is typed, for the recording that was heard last; or the error."""
        try:
            if heard is None:
                raise UserError("There is no recording. Record or upload one first.")
            verdicts = decide_all(
                self.judges, heard.vectors, labels, templates, unknown_below, self.limits
            )
        except UserError as error:
            return drawing.error(str(error))
        return drawing.answers(verdicts, parse_templates(templates), unknown_below)

    def refresh(
        self, heard: Heard | None, labels: str, templates: str, unknown_below: float
    ) -> str:
        """As :meth:`answer`, where nobody has asked: no recording is no error."""
        if heard is None:
            return drawing.hint(_BEFORE)
        return self.answer(heard, labels, templates, unknown_below)

    def endpoint(
        self, audio: str | None, labels: str, templates: str, unknown_below: float
    ) -> dict[str, Any]:
        """``/classify``: see :func:`speechcwcl.apps.demo.answer.classify`."""
        try:
            return classify(self.judges, audio, labels, templates, unknown_below, self.limits)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            discard(audio)


def build(judges: Sequence[Judge], limits: Limits, unknown_below: float = 0.0) -> gr.Blocks:
    """The page, ready to launch with :func:`look`."""
    desk = Desk(judges, limits)
    sets = label_sets(limits)
    labels, templates = fill_in(sets[0]) if sets else ("", "{}")
    with gr.Blocks(title="speechcwcl demo", analytics_enabled=False, fill_width=False) as page:
        _html(drawing.heading([(judge.name, judge.about) for judge in judges]))
        heard = gr.State(None, time_to_live=FORGET_AFTER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                audio = _recorder()
                clip = _html("", elem_id="cw-clip", visible=False)
                chosen = gr.Dropdown(
                    sets, value=sets[0] if sets else None, label="Label set", elem_id="cw-set"
                )
                typed = gr.Textbox(
                    labels,
                    label="Labels, one a line or separated by ;",
                    info="Several wordings of one label: lights on = turn on the light | lamp on",
                    lines=6,
                    max_lines=14,
                    elem_id="cw-labels",
                )
                with gr.Accordion("Templates and “unknown”", open=False):
                    template_box, below = _more(templates, unknown_below)
                button = gr.Button("Classify", variant="primary", elem_id="cw-go")
            with gr.Column(scale=6, min_width=300):
                answer = _html(drawing.hint(_BEFORE), elem_id="cw-answer")
        _html(_foot(limits))
        asked = [typed, template_box, below]
        gr.on(
            [audio.upload, audio.stop_recording],
            desk.receive,
            [audio, *asked],
            [audio, clip, answer, heard],
            **_quietly(answer),
        )
        button.click(desk.answer, [heard, *asked], answer, **_quietly(answer))
        again = (desk.refresh, [heard, *asked], answer)
        below.release(*again, **_quietly(answer))
        chosen.input(fill_in, chosen, [typed, template_box], **_quietly(typed)).then(
            *again, **_quietly(answer)
        )
        _endpoint(desk.endpoint, limits, unknown_below)
    page.queue(max_size=32, default_concurrency_limit=1)
    return page


def _html(value: str, **options: Any) -> gr.HTML:
    return gr.HTML(value, padding=False, apply_default_css=False, elem_classes="cw-html", **options)


def _recorder() -> gr.Audio:
    return gr.Audio(
        sources=["microphone", "upload"],
        type="filepath",
        label="Speech",
        editable=False,
        buttons=[],
        elem_id="cw-audio",
    )


def _more(templates: str, unknown_below: float) -> tuple[gr.Textbox, gr.Slider]:
    """Templates and the threshold: what most people leave as it is."""
    files = template_sets()
    pick = gr.Dropdown(list(files), value=None, label="Template set")
    box = gr.Textbox(
        templates,
        label="Templates, one a line",
        info="{} stands for the label; a label is the mean of its templates.",
        lines=3,
        max_lines=8,
        elem_id="cw-templates",
    )
    pick.input(files.get, pick, box, **_quietly(box))
    below = gr.Slider(
        0,
        1,
        value=unknown_below,
        step=0.01,
        label="Say “unknown” below this similarity",
        info="Cosine of the speech and the nearest label; 0 always answers.",
        elem_id="cw-unknown",
    )
    return box, below


def _quietly(shown_on: gr.components.Component) -> dict[str, Any]:
    """How the page's own events run: in turn, not offered to other programs."""
    return {
        "concurrency_id": _MODEL,
        "concurrency_limit": 1,
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": shown_on,
    }


def _endpoint(function: Callable[..., Any], limits: Limits, unknown_below: float) -> None:
    """Offer ``/classify`` to gradio's clients; nothing of it is seen on the page."""
    with gr.Group(visible=False):
        gr.Button().click(
            function,
            [
                gr.Audio(type="filepath", label="audio"),
                gr.Textbox(label="labels"),
                gr.Textbox("{}", label="templates"),
                gr.Number(unknown_below, label="unknown_below"),
            ],
            gr.JSON(label="answer"),
            api_name="classify",
            api_description=f"Classify a recording (at most {limits.seconds:g} s) by labels, one a "
            "line; `answer` is null for unknown.",
            concurrency_id=_MODEL,
            concurrency_limit=1,
        )


def _foot(limits: Limits) -> str:
    return (
        f'<p class="cw-foot">At most {limits.seconds:g} s, {limits.megabytes:g} MB and '
        f"{limits.labels} labels. A recording is deleted from the server as soon as it is "
        f"embedded; its embedding stays in memory for at most {FORGET_AFTER // 60} minutes, so "
        "that you can try other labels.</p>"
    )


def look() -> dict[str, Any]:
    """Theme and style for ``launch``: fonts of the reader's system, nothing from the network."""
    sans = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="zinc", radius_size="lg", font=sans, font_mono=mono
    )
    theme.set(
        body_background_fill="#fbfaf7",
        body_background_fill_dark="#15171b",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1c1f25",
        block_border_width="1px",
        block_border_color="#e3e0d9",
        block_border_color_dark="#31363f",
        button_primary_background_fill="#2f6cab",
        button_primary_background_fill_dark="#3a7bbd",
        button_primary_background_fill_hover="#275d95",
        button_primary_background_fill_hover_dark="#4a8acb",
        button_primary_text_color="#ffffff",
        input_background_fill="#f6f4ef",
        input_background_fill_dark="#262a32",
        block_info_text_color="#5d646e",
        block_info_text_color_dark="#9aa2ae",
    )
    return {"theme": theme, "head": f"<style>{CSS.read_text(encoding='utf-8')}</style>"}
