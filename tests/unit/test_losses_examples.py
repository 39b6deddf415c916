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


@pytest.mark.parametrize(
    "name", ["cwcl", "contrastive", "clip", "supcon", "siglip", "cosine", "relational"]
)
def test_every_loss_has_an_example(name):
    """Registered losses are wrapped, so doctest does not find them by itself."""
    found = getattr(speechcwcl.losses, name).__doc__
    test = doctest.DocTestParser().get_doctest(found, vars(speechcwcl.losses), name, None, None)
    assert len(test.examples) > 1
    assert doctest.DocTestRunner().run(test).failed == 0
    for part in ("Args:", "Returns:", "Examples:", "Source:"):
        assert part in found
