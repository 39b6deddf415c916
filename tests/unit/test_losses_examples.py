"""The example in every docstring of the losses runs and shows what it says."""

import doctest
import importlib
import pkgutil

import pytest

import speechcwcl.losses
from speechcwcl.training import cached_gradients

MODULES = [f"speechcwcl.losses.{m.name}" for m in pkgutil.iter_modules(speechcwcl.losses.__path__)]


@pytest.mark.parametrize("name", [*MODULES, cached_gradients.__name__])
def test_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module)
    assert failed == 0


def test_every_loss_has_an_example():
    for name in ("cwcl", "contrastive", "clip", "supcon", "siglip", "cosine", "relational"):
        found = getattr(speechcwcl.losses, name).__doc__
        for part in ("Args:", "Returns:", "Example:", ">>>", "Source:"):
            assert part in found or (part == "Source:" and "Source" in found), (name, part)
