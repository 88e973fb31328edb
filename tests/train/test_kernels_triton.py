"""The Triton kernels in Triton's interpreter, against those of plain torch.

A process of its own, as Triton reads the setting when it is imported; small, as an entry takes milliseconds there.
"""

import os
import subprocess
import sys

import pytest
import torch


@pytest.mark.slow
def test_triton_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "error", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def products() -> None:
    from glassworks.train.kernels import Pattern, named

    counts, indices = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 4, 0, 1, 4, 3])
    values, bags, rows = torch.randn(6), torch.randn(4, 6), torch.randn(5, 6)
    ours, plain = (Pattern.from_counts(counts, indices, 5, named(name)) for name in ("triton", "torch"))
    torch.testing.assert_close(ours.total(values, rows, bags.clone()), plain.total(values, rows, bags.clone()))
    torch.testing.assert_close(ours.total_transposed(values, bags), plain.total_transposed(values, bags))
    torch.testing.assert_close(ours.dots(bags, rows), plain.dots(bags, rows))


def step() -> None:
    from glassworks.train.selection import Largest, encode

    x, w_enc, w_dec = torch.randn(3, 5), torch.randn(9, 5).requires_grad_(), torch.randn(9, 6).requires_grad_()
    found = []
    for name in ("triton", "torch"):
        os.environ["GLASSWORKS_KERNELS"] = name
        (selected,) = encode(x, w_enc, torch.zeros(9), [Largest(2)])
        loss = selected.decode(selected.pre.relu(), w_dec).square().sum()
        found.append(torch.autograd.grad(loss, (w_enc, w_dec)))
    torch.testing.assert_close(*found)


if __name__ == "__main__":
    import glassworks.train.kernels.triton_kernels as tiles

    tiles.WIDE = 4  # so that these few columns take several tiles
    products()
    step()
