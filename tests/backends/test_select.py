"""Which kernel runs, what is said of the others, and forcing one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

import fastseg
from fastseg.backends import availability, select
from fastseg.backends.views import as_layout, layout_of, strides3
from fastseg.ops import guided_filter, instance_norm_act
from tests.support import LAYOUTS, in_layout

X = torch.randn(2, 3, 4, 5)


def test_explain_names_the_kernel_and_the_reasons(capsys):
    text = fastseg.explain("instance_norm_act", X)
    assert capsys.readouterr().out == text + "\n"
    lines = text.splitlines()
    assert lines[0] == "instance_norm_act on (2, 3, 4, 5) float32 cpu rows"
    assert [line.split()[0] for line in lines[1:]] == ["cpu", "triton", "cuda", "reference"]
    assert lines[1].split()[1:] == ["runs"]
    assert "x is on cpu" in lines[3] and "could run, an earlier one is preferred" in lines[4]


def test_explain_says_what_is_forced():
    with fastseg.backend("reference"):
        lines = fastseg.explain("instance_norm_act", X).splitlines()
    assert "backend 'reference' is forced" in lines[1] and lines[4].split()[1:] == ["runs"]


def test_explain_refuses_an_unknown_op():
    with pytest.raises(ValueError, match="op is 'conv', expected one of 'instance_norm_act'"):
        fastseg.explain("conv", X)


@pytest.mark.parametrize("name", ("triton", "cuda"))
@pytest.mark.skipif(availability.TRITON_INTERPRETS, reason="the interpreter takes CPU tensors")
def test_forcing_what_cannot_run_says_why(name):
    with fastseg.backend(name), pytest.raises(fastseg.BackendError, match=f"'{name}' is forced.*x is on cpu"):
        instance_norm_act(X)


def test_backend_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="name is 'gpu', expected one of 'cpu'"), fastseg.backend("gpu"):
        pass


def test_backend_nests_and_ends_with_an_exception():
    with pytest.raises(KeyError), fastseg.backend("reference"):
        with fastseg.backend("cpu"):
            assert select.choose("instance_norm_act", X).backend == "cpu"
        assert select.choose("instance_norm_act", X).backend == "reference"
        raise KeyError
    assert select.choose("instance_norm_act", X).backend == "cpu"


def test_limits_of_a_kernel_leave_a_call_to_the_next_one(monkeypatch):
    """As on a card without Triton: what CUDA C++ does not filter runs as plain torch ops."""
    candidates = [c for c in select.CANDIDATES["guided_filter"] if c.backend in ("cuda", "reference")]
    assert [c.backend for c in candidates] == ["cuda", "reference"]
    anywhere = dataclasses.replace(candidates[0], refusal=lambda x: None)
    monkeypatch.setitem(select.CANDIDATES, "guided_filter", (anywhere, candidates[1]))
    image = torch.rand(8, 300)
    for call, runs in (
        ((96, "reflect", 1), "cuda"),
        ((97, "reflect", 1), "reference"),
        ((97, "truncate", 1), "reference"),
        ((9, "truncate", 2), "reference"),
    ):
        assert select.choose("guided_filter", image, *call).backend == runs
    assert select.choose("guided_filter", image[:, :97], 3000, "truncate", 1).backend == "cuda"
    expected = fastseg.reference.guided_filter(image, image, radius=97, eps=0.1)
    assert torch.equal(guided_filter(image, image, radius=97, eps=0.1), expected)
    assert "cuda       runs" in fastseg.explain("guided_filter", image)
    with fastseg.backend("cuda"):
        with pytest.raises(fastseg.BackendError, match="radius is 97, this kernel takes windows of radius 96"):
            guided_filter(image, image, radius=97, eps=0.1)
        with pytest.raises(fastseg.BackendError, match="subsample is 2, this kernel filters all pixels"):
            guided_filter(image, image, radius=9, eps=0.1, subsample=2)


def test_reference_is_plain_torch_ops():
    x = X.double().requires_grad_()
    with fastseg.backend("reference"):
        y = instance_norm_act(x)
    assert "InstanceNormAct" not in y.grad_fn.name()
    torch.testing.assert_close(y, instance_norm_act(x))


def test_compile_under_a_forced_backend():
    torch._dynamo.reset()
    compiled = torch.compile(instance_norm_act, fullgraph=True)
    expected = instance_norm_act(X)
    with fastseg.backend("reference"):
        torch.testing.assert_close(compiled(X), expected)
    torch.testing.assert_close(compiled(X), expected)


def test_without_the_compiled_module_the_reference_runs(monkeypatch):
    monkeypatch.setattr(availability, "COMPILED_REFUSAL", "fastseg._C was not built")
    assert select.choose("instance_norm_act", X).backend == "reference"
    assert "not built" in fastseg.explain("instance_norm_act", X)
    torch.testing.assert_close(instance_norm_act(X), fastseg.reference.instance_norm_act(X))


@pytest.mark.parametrize(
    ("name", "expected"), [("reference", "reference"), ("cpu", "cpu"), ("nonsense", "FASTSEG_BACKEND is 'nonsense'")]
)
def test_environment(name, expected):
    code = (
        "import torch, fastseg\n"
        "from fastseg.backends import select\n"
        "print(select.choose('instance_norm_act', torch.zeros(1, 2, 3)).backend)"
    )
    environment = {**os.environ, "FASTSEG_BACKEND": name}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert expected in run.stdout + run.stderr


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (2, 3, 4, 5, 6), (2, 1, 4, 5), (2, 3, 1, 5)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(shape, layout):
    t = in_layout(torch.randn(shape), layout)
    known = layout_of(t)
    if layout in ("contiguous", "channels_last", "channel_slice"):
        assert known is not None
    for wanted in ("rows", "channels_last"):
        u = as_layout(t, wanted)
        assert torch.equal(u, t)
        batch, channel, spatial = strides3(u)
        assert (spatial if wanted == "rows" else channel) == 1 or u.shape[1] == 1
        flat = u.as_strided((shape[0], shape[1], u[0, 0].numel()), (batch, channel, spatial))
        assert torch.equal(flat, t.flatten(2))
        assert known != wanted or u is t
