"""The losses: CWCL exact at any batch size, its relatives, and the objective that adds them up."""

from speechcwcl.losses.bank import TextBank
from speechcwcl.losses.cwcl import clip, contrastive, cwcl, cwcl_plain, supcon
from speechcwcl.losses.distillation import cosine, relational
from speechcwcl.losses.inputs import gather_rows, world_size
from speechcwcl.losses.objective import ContrastiveObjective, LogitScale, LossOutput
from speechcwcl.losses.register import TERMS, build_loss, load_losses, term
from speechcwcl.losses.siglip import siglip
from speechcwcl.losses.weighting import WEIGHTINGS, Weighting

__all__ = [
    "TERMS",
    "WEIGHTINGS",
    "ContrastiveObjective",
    "LogitScale",
    "LossOutput",
    "TextBank",
    "Weighting",
    "build_loss",
    "clip",
    "contrastive",
    "cosine",
    "cwcl",
    "cwcl_plain",
    "gather_rows",
    "load_losses",
    "relational",
    "siglip",
    "supcon",
    "term",
    "world_size",
]
