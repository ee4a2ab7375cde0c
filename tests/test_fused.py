"""Fewer kernels for the same numbers: precomputed constants, fused convolutions, rows of boxes."""

import copy
import shutil

import pytest
import torch

from labkit.models.box_rows import BoxRowKernels, BoxRows
from labkit.models.engines.eager import fold_batch_norms
from labkit.models.fused_convolutions import FusedConv, fuse_convolutions
from labkit.models.networks import load_network
from labkit.models.precomputed import PrecomputedDetr
from labkit.models.trimmed import TrimmedDetr

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile kernels for the CPU")
SIZE = (96, 64)


@pytest.fixture(scope="module")
def trimmed():
    return TrimmedDetr(load_network("lab_detr").module, SIZE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def resnet():
    return load_network("lab_resnet").module


def pixels(batch, size=SIZE):
    return torch.randn(batch, 3, size[1], size[0], generator=torch.Generator().manual_seed(0))


def assert_same(got, wanted, rtol=1e-5):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert (a.cpu() - b).abs().max() <= rtol * b.abs().max()


def products(module, x):
    """Number of matrix products of one pass."""
    with torch.inference_mode(), torch.profiler.profile() as profile:
        module(x)
    names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_addmm_activation")
    return sum(event.name in names for event in profile.events())


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
def test_precomputed_constants_change_no_number(trimmed, batch):
    x = pixels(batch)
    assert_same(PrecomputedDetr(trimmed)(x), trimmed(x))


def test_precomputed_constants_save_products(trimmed):
    x, layers = pixels(1), (len(trimmed.encoder.layers), len(trimmed.decoder.layers))
    # an encoder layer: two of four; cross-attention: the keys and values of all but one layer; the
    # first decoder layer: its self-attention and its query; the projection is a product now
    saved = 2 * layers[0] + 2 * (layers[1] - 1) + 2 * layers[1] - 1 + 5 - 1
    assert products(trimmed, x) - products(PrecomputedDetr(trimmed), x) == saved


@torch.inference_mode()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_convolutions_change_no_number(trimmed, resnet, layout):
    for module, x in ((trimmed, pixels(2)), (resnet, pixels(2, (64, 64)))):
        fused = copy.deepcopy(module).to(memory_format=layout)
        folded = fold_batch_norms(fused)
        assert fuse_convolutions(fused) == folded > 10
        assert any(isinstance(each, FusedConv) for each in fused.modules())
        assert_same(fused(x), module(x)) if module is trimmed else assert_same([fused(x)], [module(x)])


def test_what_is_not_folded_is_not_fused(resnet):
    assert fuse_convolutions(copy.deepcopy(resnet)) == 0
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Identity(), torch.nn.ReLU())
    assert fuse_convolutions(plain) == 0


@torch.inference_mode()
def test_a_gpus_calls_give_the_same_numbers(trimmed, resnet, fake_gpu):
    """cuDNN's fused convolution and the product with ReLU, which only a GPU is asked for."""
    lean = PrecomputedDetr(trimmed)
    for module, x in ((lean, pixels(1)), (resnet, pixels(1, (64, 64)))):
        wanted = module(x)
        fused = copy.deepcopy(module)
        fold_batch_norms(fused)
        fuse_convolutions(fused)
        got = fused.to("cuda")(x.to("cuda"))
        assert_same(got, wanted) if module is lean else assert_same([got], [wanted])


# Rows of boxes


def answers(frames, queries, classes, dtype):
    generator = torch.Generator().manual_seed(frames + queries)
    logits = (torch.randn(frames, queries, classes, generator=generator) * 3).to(dtype)
    return logits, torch.rand(frames, queries, 4, generator=generator).to(dtype)


@needs_gcc
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("frames", "queries", "objects"), [(1, 24, 5), (3, 7, 9), (2, 24, 0)])
def test_kernels_choose_and_pack_as_pytorch_does(dtype, frames, queries, objects, fake_gpu):
    logits, boxes = answers(frames, queries, 12, dtype)
    boxes[0, :2] = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.9, 2.0]])  # empty; beyond the frame
    wanted = BoxRows(objects)
    rows, cuts = wanted.choose(logits, boxes, SIZE)
    fine = (torch.randn(len(cuts), 300) * 3).to(dtype)
    wanted_rows = wanted.name(rows, fine)

    kernels = copy.deepcopy(BoxRowKernels(objects))  # as engines copy the networks that they change
    fake_gpu.reset()
    got, got_cuts = kernels.choose(logits.cuda(), boxes.cuda(), SIZE)
    if objects and dtype is not torch.bfloat16:
        assert fake_gpu.launches - len(fake_gpu.copies) == 1, "one kernel chooses"
    got = kernels.name(got, fine.cuda())
    torch.testing.assert_close(got.cpu(), wanted_rows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got_cuts.cpu(), cuts, rtol=1e-5, atol=1e-4)


@needs_gcc
@torch.inference_mode()
def test_equal_scores_fill_every_row_once(fake_gpu):
    logits, boxes = torch.zeros(1, 20, 6), torch.rand(1, 20, 4)
    rows, _ = BoxRowKernels(8).choose(logits.cuda(), boxes.cuda(), SIZE)
    torch.testing.assert_close(rows.cpu()[0, :, :4], boxes[0, :8])


def test_on_the_cpu_the_kernels_are_pytorchs_operations():
    logits, boxes = answers(2, 24, 12, torch.float32)
    a, b = BoxRows(5).choose(logits, boxes, SIZE), BoxRowKernels(5).choose(logits, boxes, SIZE)
    assert_same(a, b, rtol=0)
