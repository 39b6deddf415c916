"""The losses: CWCL exact at any batch size, its relatives, and the objective that adds them up."""

from speechcwcl.losses.bank import TextBank, build_text_bank
from speechcwcl.losses.baselines import clip, contrastive, cosine, siglip, supcon
from speechcwcl.losses.cwcl import cwcl, cwcl_plain
from speechcwcl.losses.gather import gather_rows
from speechcwcl.losses.objective import ContrastiveObjective, LossOutput, build_loss
from speechcwcl.losses.relational import relational
from speechcwcl.losses.scale import LogitScale
from speechcwcl.losses.weighting import WEIGHTINGS, Weighting

__all__ = [
    "WEIGHTINGS",
    "ContrastiveObjective",
    "LogitScale",
    "LossOutput",
    "TextBank",
    "Weighting",
    "build_loss",
    "build_text_bank",
    "clip",
    "contrastive",
    "cosine",
    "cwcl",
    "cwcl_plain",
    "gather_rows",
    "relational",
    "siglip",
    "supcon",
]
