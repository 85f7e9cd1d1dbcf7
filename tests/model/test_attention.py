import pytest
import torch

from starkiln.model import attention as attention_module
from starkiln.model.attention import attention, shared_prefix_attention


def plain(q, k, v):
    """The textbook: float64, one head and one query at a time."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.empty_like(q)
    new, seen = q.size(2), k.size(2)
    for b, h, t in torch.cartesian_prod(*[torch.arange(n) for n in q.shape[:3]]).tolist():
        kv = h if k.size(1) > 1 else 0
        visible = seen - new + t + 1
        scores = k[b, kv, :visible] @ q[b, h, t] / q.size(-1) ** 0.5
        out[b, h, t] = scores.softmax(0) @ v[b, kv, :visible]
    return out


def tensors(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize(("new", "seen"), [(9, 9), (1, 1), (1, 9), (4, 9)])
def test_equals_the_textbook(kv_heads, new, seen):
    q, k, v = tensors((2, 4, new, 8), (2, kv_heads, seen, 8), (2, kv_heads, seen, 8))
    torch.testing.assert_close(attention(q, k, v).double(), plain(q, k, v), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_gradients_equal_the_textbook(kv_heads):
    shapes = (2, 4, 7, 8), (2, kv_heads, 7, 8), (2, kv_heads, 7, 8)
    ours = [x.requires_grad_() for x in tensors(*shapes)]
    twin = [x.detach().clone().requires_grad_() for x in ours]
    weight = tensors((2, 4, 7, 8))[0]
    (attention(*ours) * weight).sum().backward()
    (plain(*twin) * weight).sum().backward()
    for a, b in zip(ours, twin, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=2e-6)


@pytest.mark.parametrize("length", [2, 9, 1024, 1025])
def test_bfloat16_is_as_near_as_sdpa(length):
    """Folded heads (up to 1,024) and SDPA err alike against float32, gradients included."""
    shapes = (1, 3, length, 16), (1, 1, length, 16), (1, 1, length, 16)
    exact = [x.requires_grad_() for x in tensors(*shapes)]
    half = [x.detach().bfloat16().requires_grad_() for x in exact]
    other = [x.detach().clone().requires_grad_() for x in half]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    wide = [other[0], *(x.expand(-1, 3, -1, -1) for x in other[1:])]
    outs = [attention(*exact), attention(*half), sdpa(*wide, is_causal=True)]
    for out in outs:
        out.float().square().sum().backward()
    for ours, theirs, true in zip(
        [outs[1], *(x.grad for x in half)],
        [outs[2], *(x.grad for x in other)],
        [outs[0], *(x.grad for x in exact)],
        strict=True,
    ):
        error, sdpa_error = ((x.float() - true).norm() / true.norm() for x in (ours, theirs))
        assert error < max(2 * sdpa_error, 0.02)


def test_keys_are_not_copied_out_to_the_heads():
    q, k, v = tensors((1, 16, 256, 16), (1, 1, 256, 16), (1, 1, 256, 16))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attention(q, k, v)
    names = {event.name for event in profile.events()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert not names & {"aten::repeat_interleave", "aten::clone", "aten::copy_"}


@pytest.mark.parametrize("hopper", [True, False])
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # raised inside dynamo
def test_compiles_as_one_graph(monkeypatch, hopper):
    monkeypatch.setattr(attention_module, "_is_hopper", lambda device: hopper)
    q, k, v = tensors((2, 4, 9, 8), (2, 1, 9, 8), (2, 1, 9, 8))
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v).double(), plain(q, k, v), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
def test_shared_prefix_equals_a_cache_a_sample(kv_heads, dtype, error):
    batch, prefix, tail = 5, 11, 3
    q, pk, pv, tk, tv = tensors(
        (batch, 4, 1, 8),
        (kv_heads, prefix, 8),
        (kv_heads, prefix, 8),
        (batch, kv_heads, tail, 8),
        (batch, kv_heads, tail, 8),
        dtype=dtype,
    )
    whole = [torch.cat([p.expand(batch, -1, -1, -1), t], dim=2) for p, t in ((pk, tk), (pv, tv))]
    ours = shared_prefix_attention(q, pk, pv, tk, tv)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), plain(q, *whole), rtol=0, atol=error)
