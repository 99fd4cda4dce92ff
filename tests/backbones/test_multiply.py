"""Gates as products: exact where a gate is 0 or 1."""

import pytest
import torch

from metas_peft.backbones.multiply import blend

TYPES = [torch.float64, torch.float32, torch.bfloat16]


def random(seed, dtype):
    """Numbers of very different size, for which x + (y - x) is not y."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-12, 12, (5, 7), generator=generator)
    return (torch.randn(5, 7, generator=generator, dtype=torch.float64) * 2.0**exponents).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("z", [0.0, 1.0])
def test_blend_at_its_ends_is_one_of_the_two_bit_for_bit_and_so_are_its_gradients(dtype, z):
    x, y, g = random(0, dtype), random(1, dtype), random(2, dtype)
    assert not torch.equal(x + (y - x), y)
    x.requires_grad_()
    y.requires_grad_()
    gate = torch.tensor(z, requires_grad=True)
    out = blend(x, y, gate)
    assert torch.equal(out, y if z else x)
    out.backward(g)
    kept, other = (y, x) if z else (x, y)
    assert torch.equal(kept.grad, g)
    assert torch.equal(other.grad, torch.zeros_like(g))


@pytest.mark.parametrize("z", [0.25, 0.5, 0.9])
def test_blend_between_has_the_gradients_of_the_plain_sum(z):
    x, y, g = (random(seed, torch.float64) for seed in range(3))
    slopes = []
    for function in (blend, lambda x, y, z: x + z * (y - x)):
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_(), torch.tensor(z, dtype=torch.float64)
        function(*leaves[:2], leaves[2].requires_grad_()).backward(g)
        slopes.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*slopes, strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
