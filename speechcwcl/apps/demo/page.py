"""The page itself, in gradio: what stands where, and what happens on a click."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gradio as gr

from speechcwcl.apps.demo.answer import (
    Embedded,
    Judge,
    classify,
    decide_all,
    read_upload,
)
from speechcwcl.apps.demo.ask import (
    Limits,
    fill_in,
    label_sets,
    parse_labels,
    parse_templates,
    template_sets,
)
from speechcwcl.errors import UserError, closest
from speechcwcl.zeroshot.keywords import MOST_EXAMPLES

Heard = list[Embedded]  # a recording, embedded by each model
Examples = dict[str, list[Heard]]

FORGET_AFTER = 1800  # seconds that the embedding of a recording stays in memory
SHOWN = 8  # labels that are shown with a bar
_MODEL = "model"  # one request at a time is with the models
_BEFORE = "Record or upload speech; the answer appears here."
_HEADING = """# Classify speech by labels in your own words
Record or upload speech, type labels in plain words, and see which one the speech is closest to.
The model was never trained on your labels."""
_FOOT = (
    "At most {0.seconds:g} s, {0.megabytes:g} MB and {0.labels} labels. A recording is deleted "
    "from the server within two minutes; its embedding stays in memory for at most "
    f"{FORGET_AFTER // 60} minutes, so that you can try other labels."
)


class Desk:
    """What the page calls: each method takes what the components hold, returns what they show.

    What is shown is a message, then for each model its labels with their scores
    (`gradio.Label`) and the table of cosines by template (`gradio.Dataframe`).
    """

    def __init__(self, judges: Sequence[Judge], limits: Limits):
        self.judges = list(judges)
        self.limits = limits

    def receive(self, path: str | None, *typed: Any) -> tuple[Any, ...]:
        """A new recording: embed it, answer as `answer`.

        Returns:
            The embeddings, by which it can be asked about again; then what is shown.
        """
        try:
            upload = read_upload(path, self.limits)
            heard = [judge.embed(upload.wav) for judge in self.judges]
        except UserError as error:
            return None, *self._nothing(str(error))
        silent = " It is nearly silent: is the microphone on?" if upload.silent else ""
        about = f"{_plain(upload.name)}, {upload.seconds:.1f} s.{silent}"
        return heard, *self.answer(heard, *typed, about=about)

    def keep(
        self, heard: Heard | None, label: str, labels: str, examples: Examples
    ) -> tuple[Examples, str]:
        """Keep the recording that was heard last as an example of a label.

        Returns:
            The examples, and what is said about them.
        """
        try:
            if heard is None:
                raise UserError("There is no recording. Record or upload one first.")
            names = list(parse_labels(labels, self.limits, 1.0))
            label = label.strip()
            if label not in names:
                raise UserError(f"There is no label {label!r}{closest(label, names)}.")
            if len(examples.get(label, [])) >= MOST_EXAMPLES:
                raise UserError(f"{label!r} has {MOST_EXAMPLES} examples; more are not kept.")
        except UserError as error:
            return examples, f"**That did not work.** {_plain(str(error))}"
        kept = {**examples, label: [*examples.get(label, []), heard]}
        return kept, "Examples: " + ", ".join(f"{_plain(n)} {len(x)}" for n, x in kept.items())

    def answer(
        self,
        heard: Heard | None,
        labels: str,
        templates: str,
        far: float,
        examples: Examples | None = None,
        *,
        about: str = "",
    ) -> tuple[Any, ...]:
        """The answer to what is typed, for the recording that was heard last; or the error."""
        try:
            if heard is None:
                raise UserError("There is no recording. Record or upload one first.")
            asked = (labels, templates, far, self.limits, examples)
            said = decide_all(self.judges, heard, *asked)
        except UserError as error:
            return self._nothing(str(error))
        notes = [about, *(_note(answer) for answer in said)]
        if len(said) > 1:
            same = len({answer["answer"] for answer in said}) == 1
            notes.append("The models agree." if same else "The models disagree.")
        shown = [part for answer in said for part in _shown(answer, parse_templates(templates))]
        return "\n\n".join(filter(None, notes)), *shown

    def refresh(self, heard: Heard | None, *typed: Any) -> tuple[Any, ...]:
        """As `answer`, where nobody has asked: no recording is no error."""
        if heard is None:
            return _BEFORE, *self._nothing("")[1:]
        return self.answer(heard, *typed)

    def _nothing(self, error: str) -> tuple[Any, ...]:
        message = f"**That did not work.** {_plain(error)}"
        return message, *[gr.update(value=None, visible=False)] * (2 * len(self.judges))

    def endpoint(
        self, audio: str | None, labels: str, templates: str, far: float
    ) -> dict[str, Any]:
        """`/classify`: see `speechcwcl.apps.demo.answer.classify`."""
        try:
            return classify(self.judges, audio, labels, templates, far, self.limits)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error


def _note(said: dict[str, Any]) -> str:
    if said["answer"] is not None:
        return ""
    best = said["labels"][0]
    return f"unknown: the nearest label, {_plain(best['label'])}, does not reach its threshold."


def _plain(text: str) -> str:
    """Text of a visitor, which Markdown shall show as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#+-.!|~&$" else c for c in text)


def _shown(said: dict[str, Any], templates: Sequence[str]) -> tuple[Any, Any]:
    if said["answer"] is None:
        scores: Any = "unknown"
    else:
        scores = {row["label"]: row["score"] for row in said["labels"]}
        scores |= {"unknown": said["unknown"]} if said["unknown"] else {}
    heads = ["label", "all", *(t.replace("{}", "…") for t in templates)]
    table = [
        [row["label"], *(f"{value:.2f}" for value in (row["cosine"], *row["by_template"]))]
        for row in said["labels"]
    ]
    return (
        gr.update(value=scores, visible=True),
        gr.update(value={"headers": heads, "data": table}, visible=True),
    )


def build(judges: Sequence[Judge], limits: Limits, far: float = 0.0) -> gr.Blocks:
    """The page, ready to launch with `theme`."""
    desk = Desk(judges, limits)
    sets = label_sets(limits)
    labels, templates = fill_in(sets[0]) if sets else ("", "{}")
    with gr.Blocks(title="speechcwcl demo", analytics_enabled=False) as page:
        gr.Markdown(_HEADING, elem_id="cw-head")
        heard = gr.State(None, time_to_live=FORGET_AFTER)
        examples = gr.State({}, time_to_live=FORGET_AFTER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                audio = gr.Audio(
                    sources=["microphone", "upload"],
                    type="filepath",
                    label="Speech",
                    editable=False,
                    buttons=[],
                    elem_id="cw-audio",
                )
                chosen = gr.Dropdown(sets, value=sets[0] if sets else None, label="Label set")
                typed = gr.Textbox(
                    labels,
                    label="Labels, one a line or separated by ;",
                    info="Several wordings of one label: lights on = turn on the light | lamp on",
                    lines=6,
                    max_lines=14,
                    elem_id="cw-labels",
                )
                with gr.Accordion("Templates and “unknown”", open=False):
                    template_box, unknown = _more(templates, far)
                with gr.Accordion("Your own examples", open=False, elem_id="cw-own"):
                    example_of, keep, forget, kept = _own_examples()
                button = gr.Button("Classify", variant="primary", elem_id="cw-go")
            with gr.Column(scale=6, min_width=300, elem_id="cw-answer"):
                shown = _answers(judges)
        gr.Markdown(_FOOT.format(limits))
        asked = [heard, typed, template_box, unknown, examples]
        quietly = functools.partial(_quietly, shown[0])
        gr.on(
            [audio.upload, audio.stop_recording],
            desk.receive,
            [audio, *asked[1:]],
            [heard, *shown],
            **quietly(),
        )
        button.click(desk.answer, asked, shown, **quietly())
        unknown.input(desk.refresh, asked, shown, **quietly())
        keep.click(
            desk.keep, [heard, example_of, typed, examples], [examples, kept], **_quietly(kept)
        ).then(desk.refresh, asked, shown, **quietly())
        forget.click(lambda: ({}, ""), None, [examples, kept], **_quietly(kept)).then(
            desk.refresh, asked, shown, **quietly()
        )
        chosen.input(fill_in, chosen, [typed, template_box], **_quietly(typed)).then(
            desk.refresh, asked, shown, **quietly()
        )
        _endpoint(desk, limits, far)
    page.queue(max_size=32, default_concurrency_limit=1)
    return page


def _answers(judges: Sequence[Judge]) -> list[gr.components.Component]:
    """The message, and for each model, side by side, its labels and its table."""
    shown: list[gr.components.Component] = [gr.Markdown(_BEFORE, elem_id="cw-message")]
    with gr.Row(equal_height=False):
        for judge in judges:
            about = judge.about
            with gr.Column(min_width=280):
                shown.append(
                    gr.Label(
                        label=judge.name,
                        num_top_classes=SHOWN,
                        visible=False,
                        elem_classes="cw-label",
                    )
                )
                encoders = f"speech: {about['speech_encoder']}, text: {about['text_encoder']}"
                shown.append(
                    gr.Dataframe(
                        label=f"Cosine by template ({encoders}, {about['dim']} dimensions)",
                        interactive=False,
                        max_height=320,
                        visible=False,
                        elem_classes="cw-table",
                    )
                )
    return shown


def _more(templates: str, far: float) -> tuple[gr.Textbox, gr.Dropdown]:
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
    shares = sorted({0.01, 0.05, 0.2, far} - {0.0})
    unknown = gr.Dropdown(
        [("all: “unknown” is never the answer", 0.0), *((f"{100 * s:g} %", s) for s in shares)],
        value=far,
        label="How many other words may get a label",
        info="The fewer, the more often a label itself is answered with “unknown”.",
        elem_id="cw-unknown",
    )
    return box, unknown


def _own_examples() -> tuple[gr.Textbox, gr.Button, gr.Button, gr.Markdown]:
    """Recordings that stand beside a label's words."""
    label = gr.Textbox(
        label="The recording above is an example of this label",
        info="One of the labels; the classifier then is the mean of its words and its examples.",
        elem_id="cw-example",
    )
    with gr.Row():
        keep = gr.Button("Keep as example", elem_id="cw-keep")
        forget = gr.Button("Forget all examples", elem_id="cw-forget")
    return label, keep, forget, gr.Markdown("", elem_id="cw-kept")


def _quietly(shown_on: gr.components.Component) -> dict[str, Any]:
    """How the page's own events run: in turn, not offered to other programs."""
    return {
        "concurrency_id": _MODEL,
        "concurrency_limit": 1,
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": shown_on,
    }


def _endpoint(desk: Desk, limits: Limits, far: float) -> None:
    """Offer `/classify` to gradio's clients; nothing of it is seen on the page."""
    with gr.Group(visible=False):
        gr.Button().click(
            desk.endpoint,
            [
                gr.Audio(type="filepath", label="audio"),
                gr.Textbox(label="labels"),
                gr.Textbox("{}", label="templates"),
                gr.Number(far, label="far"),
            ],
            gr.JSON(label="answer"),
            api_name="classify",
            api_description=f"Classify a recording (at most {limits.seconds:g} s) by labels, one a "
            "line; `answer` is null for unknown.",
            concurrency_id=_MODEL,
            concurrency_limit=1,
        )


def theme() -> gr.themes.Base:
    """Fonts of the reader's system, nothing from the network."""
    sans = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return gr.themes.Soft(primary_hue="blue", neutral_hue="zinc", font=sans, font_mono=mono)
