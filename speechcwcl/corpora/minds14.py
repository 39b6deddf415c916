"""MInDS-14: 14 intents of bank customers in 14 languages, over the telephone (8 kHz)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from speechcwcl.corpora._hf_disk import write_table
from speechcwcl.corpora.base import Listing
from speechcwcl.corpora.huggingface import ByLanguage
from speechcwcl.data.rows import read_table
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import require

INTENTS = (
    "abroad", "address", "app_error", "atm_limit", "balance", "business_loan", "card_issues",
    "cash_deposit", "direct_debit", "freeze", "high_value_payment", "joint_account",
    "latest_transactions", "pay_bill",
)  # fmt: skip


class Minds14(ByLanguage):
    """PolyAI/minds14 of the hub (`<locale>/train-*.parquet`), or the archive of its owner.

    The archive holds `text/<locale>.csv` (path, transcription, English transcription, intent) and
    `audio/`. There is one split, `train`, of which every clip is scored. `--language` chooses the
    locale, en-US by default.
    """

    name = "minds14"
    title = "MInDS-14"
    licence = "CC-BY-4.0"
    url = "https://huggingface.co/datasets/PolyAI/minds14"
    version = "the hub's parquet, or MInDS-14.zip of 2021"
    synthetic_speech = False
    splits = ("train",)
    label_fields = ("label",)

    def __init__(self, language: str = "en-US") -> None:
        super().__init__(
            "PolyAI/minds14",
            config=language,
            audio="audio",
            text="transcription",
            id="none",
            labels="intent_class",
        )

    def opened(self, source: Path) -> tuple[Path, bool]:
        """See `HuggingFace.opened`."""
        place = source / "MInDS-14" if (source / "MInDS-14").is_dir() else source
        return (place, True) if (place / "text").is_dir() else super().opened(place)

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the recordings, of the archive or of what was written out of parquet."""
        if not (source / "text").is_dir():
            yield from super().utterances(source, split, problems)
            return
        table, listing = self.file(source / "text" / f"{self.config}.csv"), Listing()
        for number, row in read_table(table, (), problems):
            require(len(row) > 2, f"{table}:1: path, transcription, ..., intent expected")
            path, text, *_, intent = row.values()  # the owner's header has had several wordings
            audio = source / "audio" / path
            if ".." in Path(path).parts or not listing.has(audio):
                problems.add(f"{table}:{number}: {listing.missing(audio)}")
            elif not text.strip():
                problems.add(f"{table}:{number}: no transcription")
            else:
                key = "_".join(Path(path).with_suffix("").as_posix().replace("/", "-").split())
                labels = {"label": intent.strip().lower()}
                yield Utterance(key, str(audio), text, labels=labels)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """The hub's parquet, two languages."""
        for place, (locale, said) in enumerate(_FAKE.items()):
            rows = [
                {"path": f"{locale}/{number}.wav", "transcription": text, "intent_class": intent}
                for number, (text, intent) in enumerate(said)
            ]
            file = Path(target) / locale / "train-00000-of-00001.parquet"
            write_table(file, rows, "transcription", seed + 50 * place, {"intent_class": INTENTS})
        return Path(target)


_FAKE = {
    "en-US": [
        ("how do I use my card in spain", "abroad"),
        ("we have moved to another street", "address"),
        ("how much is left on my account", "balance"),
        ("somebody stole my card please block it", "freeze"),
        ("I want to settle an invoice", "pay_bill"),
    ],
    "de-DE": [
        ("wie zahle ich in spanien", "abroad"),
        ("wir sind umgezogen", "address"),
        ("wie viel ist auf meinem konto", "balance"),
    ],
}
