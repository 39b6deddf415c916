"""What the losses cost: products, memory, and the helpers that keep both low."""

import subprocess
import sys

import losses_reference as reference
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechcwcl.losses import clip, cwcl, siglip
from speechcwcl.losses.kernel import fits_range, pair_sums
from speechcwcl.losses.weighting import gram


@pytest.mark.parametrize(("rows", "dim"), [(1, 3), (255, 5), (256, 40), (301, 7)])
def test_gram(rows, dim):
    x = reference.rows(rows, dim)
    assert torch.allclose(gram(x), x @ x.T, atol=1e-14)
    assert torch.allclose(gram(x), gram(x).T, atol=1e-14)
    assert torch.allclose(gram(x.T), x.T @ x, atol=1e-12)


def test_range_of_the_unshifted_exponentials():
    """tau 0.01 needs the shift in float32; scale 60 does not and must still be exact."""
    assert not fits_range(100.0, 4096, torch.float32)
    assert fits_range(60.0, 4096, torch.float32)
    speech = reference.rows(50, 6, torch.float32)
    for sign in (-1.0, 1.0):  # own partner at the bottom and at the top of the range
        for other in (sign * speech, sign * speech[:1].expand(50, -1)):
            p, wide = speech.clone().requires_grad_(), speech.double().requires_grad_()
            found, _ = pair_sums(p, other, 60.0)
            expected, _ = pair_sums(wide, other.double(), 60.0)
            for name in ("rows", "columns"):
                assert torch.allclose(found[name].double(), expected[name], rtol=1e-5, atol=1e-4)
                pair = [
                    torch.autograd.grad(v[name].mean(), x, retain_graph=True)
                    for v, x in ((found, p), (expected, wide))
                ]
                assert reference.worst(*pair) < 1e-5


class _Watch(TorchDispatchMode):
    """Records the largest storage that any operation returns, and the size of the products."""

    def __init__(self):
        super().__init__()
        self.bytes = self.multiplied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            left, right = [a for a in args if isinstance(a, torch.Tensor)][-2:]
            self.multiplied += left.shape[0] * left.shape[1] * right.shape[1]
        return out


def test_products_of_a_small_batch():
    """Three of N x N x dim for CWCL and two for CLIP, forward and backward, with frozen text."""
    speech, text = reference.pairs(48, 32, torch.float32)
    for loss, products in ((cwcl, 3), (clip, 2)):
        with _Watch() as seen:
            loss(speech, text, 20.0).backward()
        assert seen.multiplied == products * 48 * 48 * 32


@pytest.mark.parametrize("loss", [cwcl, clip, siglip])
def test_no_matrix_of_all_pairs_is_formed(loss):
    speech, text = reference.pairs(1024, 8, torch.float32)
    options = {} if loss is siglip else {"memory": 0}
    with _Watch() as largest:
        loss(speech, text, 20.0, chunk=64, **options).backward()
    assert largest.bytes <= 64 * 1024 * 4
    with _Watch() as largest:  # the instrument sees one when there is one
        reference.contrastive(speech, text, 20.0).backward()
    assert largest.bytes >= 1024 * 1024 * 4


_PEAK = """
import resource, sys, torch
from speechcwcl.losses import build_loss
torch.set_num_threads(2)
n, d = int(sys.argv[1]), int(sys.argv[2])
p = torch.nn.functional.normalize(torch.randn(n, d), dim=1).requires_grad_()
q = torch.nn.functional.normalize(torch.randn(n, d), dim=1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = torch.nn.functional.normalize(torch.randn(64, d), dim=1).requires_grad_()
build_loss("cwcl", diagnostics_every=0)(small, small.detach()).total.backward()
before = peak()
build_loss("cwcl", diagnostics_every=0)(p, q).total.backward()
print(peak() - before)
"""


@pytest.mark.slow
def test_peak_memory_of_a_batch_of_32768():
    """Forward and backward within 1 GB over the inputs (the plain formula needs over 10 GB)."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, "32768", "384"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2**30
