"""Ordinary programs for CUDA, right ones and wrong ones, on the practice GPU."""

import copy
import inspect
import pickle
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from labkit.core.errors import UsageError
from labkit.practice import GpuError, RaceWarning, fake_gpu


@pytest.fixture
def gpu():
    """The practice GPU as a learner has it: a race is a warning."""
    with fake_gpu(real=False) as gpu:
        yield gpu


def lines_of(log):
    """Source text and how often it stands in a log, the most frequent first."""
    return [(line.text, times) for line, times in log.by_line().items()]


def small_net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1)).eval()


# Right programs


def test_a_frame_goes_up_through_the_network_and_down(gpu):
    net = small_net().to("cuda")
    frame = np.full((8, 8, 3), 255, np.uint8)
    gpu.reset()
    x = torch.from_numpy(frame).pin_memory().to("cuda", non_blocking=True)
    x = x.permute(2, 0, 1)[None].float().div_(255)
    with torch.inference_mode():
        scores = net(x).softmax(1)
    best = scores.topk(5).values.cpu()
    assert best.shape == (1, 5) and torch.isfinite(best).all()
    assert lines_of(gpu.waits) == [("best = scores.topk(5).values.cpu()", 1)]
    assert [(c.to, c.memory, c.waited, c.nbytes) for c in gpu.copies] == [
        ("GPU", "page-locked", False, frame.nbytes),
        ("host", "pageable", True, 20),
    ]
    assert gpu.launches >= 7 and not gpu.races


def test_two_streams_that_wait_for_each_other(gpu):
    work = torch.cuda.Stream()
    x = torch.arange(4.0, device="cuda")
    work.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(work):
        y = x * 2
    x.record_stream(work)
    torch.cuda.current_stream().wait_stream(work)
    y.record_stream(torch.cuda.current_stream())
    assert y.sum().item() == 12
    del x, y
    assert not gpu.races


def test_events_order_a_ring_of_two_buffers(gpu):
    host = [torch.zeros(3).pin_memory() for _ in range(2)]
    done = [torch.cuda.Event() for _ in host]
    on_gpu = []
    for i in range(5):
        done[i % 2].synchronize()
        host[i % 2].fill_(i)
        on_gpu.append(host[i % 2].to("cuda", non_blocking=True))
        done[i % 2].record()
    assert [int(x[0]) for x in on_gpu] == [0, 1, 2, 3, 4]
    assert not gpu.races


def test_a_training_step(gpu):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).cuda()
    step = torch.optim.SGD(net.parameters(), lr=0.5)
    x, wanted = torch.rand(6, 3, 2, 2, device="cuda"), torch.tensor([0, 1, 2] * 2, device="cuda")
    losses = []
    for _ in range(20):
        step.zero_grad()
        loss = functional.cross_entropy(net(x), wanted)
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert gpu.waits.by_line().most_common(1)[0][0].text == "losses.append(loss.item())"


def test_threads_have_streams_of_their_own(gpu):
    found = []

    def work():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            x = torch.ones(3, device="cuda") * 2
        stream.synchronize()
        found.append((torch.cuda.current_stream() == torch.cuda.default_stream(), x.cpu().tolist()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(True, [2, 2, 2])] * 3
    assert gpu.waits.by_what() == {"a stream": 3, "a copy to the host": 3}


@pytest.mark.parametrize("make", [
    lambda: torch.ones(3, device="cuda", requires_grad=True),
    lambda: torch.tensor([1.0, 1, 1], device="cuda", requires_grad=True),
    lambda: torch.empty(3, device="cuda", requires_grad=True),
    lambda: torch.ones(3, requires_grad=True).cuda(),
    lambda: torch.ones(3, requires_grad=True).to("cuda"),
])  # fmt: skip
def test_gradients_reach_what_asks_for_them(make, gpu):
    x = make()
    x.retain_grad()
    (x * 2).sum().backward()
    assert x.grad.is_cuda and x.grad.tolist() == [2, 2, 2]


def test_gradients_reach_the_host_through_a_copy(gpu):
    x = torch.ones(3, requires_grad=True)
    (x.cuda() * 2).sum().backward()
    assert x.grad.equal(torch.full((3,), 2.0))


def test_a_default_device(gpu):
    torch.set_default_device("cuda")
    made = [
        torch.zeros(3),
        torch.tensor([1, 2]),
        torch.rand(2),
        torch.arange(3),  # linspace forgets its default where transformers has loaded a model
        nn.Linear(2, 2).weight,
    ]
    assert [each.is_cuda for each in made] == 5 * [True] and torch.get_default_device().type == "cuda"
    gpu.stop()
    assert not torch.zeros(3).is_cuda and torch.get_default_device().type == "cpu"


def test_a_recurrent_network(gpu):
    states, _ = nn.LSTM(4, 8, batch_first=True).cuda()(torch.rand(2, 5, 4, device="cuda"))
    states.sum().backward()
    assert states.is_cuda and nn.GRU(4, 8).cuda()(torch.rand(2, 5, 4, device="cuda"))[0].is_cuda


def test_random_numbers_come_again(gpu):
    state = torch.cuda.get_rng_state()
    with torch.random.fork_rng(devices=[0]):
        torch.rand(3, device="cuda")
    first = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state_all([state])
    assert first.equal(torch.rand(3, device="cuda"))
    torch.manual_seed(3)
    assert torch.cuda.initial_seed() == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_page_locks_its_batches(workers, gpu):
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    loader = torch.utils.data.DataLoader(data, batch_size=4, pin_memory=True, num_workers=workers)
    batches = [x.to("cuda", non_blocking=True) for (x,) in loader]
    assert [(copy.memory, copy.waited) for copy in gpu.copies] == [("page-locked", False)] * 2
    assert not gpu.waits and torch.cat(batches).tolist() == list(range(8))
    with pytest.raises(RuntimeError, match=r"cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors"):
        batches[0].pin_memory()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_remembers_the_device(zipped, tmp_path):
    file = tmp_path / "net.pt"
    with fake_gpu(real=False):
        net = nn.Linear(2, 2).cuda()
        torch.save({"net": net, "row": net.weight[1]}, file, _use_new_zipfile_serialization=zipped)
        found = torch.load(file, weights_only=False)
        assert isinstance(found["net"].weight, nn.Parameter) and found["net"].weight.equal(net.weight)
        assert found["row"].is_cuda and found["row"].equal(net.weight[1])
        for to_host in ("cpu", {"cuda:0": "cpu"}, lambda storage, location: storage):
            assert not torch.load(file, to_host, weights_only=False)["row"].is_cuda
        with pytest.raises(RuntimeError, match=r"CUDA device 1 but torch.cuda.device_count"):
            torch.load(file, "cuda:1", weights_only=False)
        assert pickle.loads(pickle.dumps(net)).weight.is_cuda and copy.copy(net.weight).is_cuda
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"please use torch.load with map_location"):
            torch.load(file, weights_only=False)
    assert torch.load(file, "cpu", weights_only=False)["row"].shape == (2,)


def test_the_ways_to_say_cuda(gpu, tmp_path):
    for device in ("cuda", "cuda:0", torch.device("cuda"), torch.device("cuda", 0), 0):
        assert torch.zeros(2, device=device).is_cuda and torch.zeros(2).to(device).is_cuda
    x = torch.zeros(2).cuda(0)
    assert x.cuda() is x and x.to("cuda") is x and x.get_device() == 0
    for made in (torch.zeros_like(x), x.new_zeros(3), x.new_tensor([1.0]), torch.ones(2).to(x)):
        assert made.is_cuda and made.device == torch.device("cuda:0")
    with torch.device("cuda"):
        assert nn.Linear(2, 2).weight.is_cuda
    net = small_net().cuda().half().to(memory_format=torch.channels_last)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[0].weight.dtype == torch.float16
    assert copy.deepcopy(net)[0].weight.is_cuda
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert torch.load(tmp_path / "net.pt", map_location="cuda")["0.weight"].is_cuda
    assert not torch.load(tmp_path / "net.pt", map_location="cpu")["0.weight"].is_cuda
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:1")


@pytest.mark.parametrize("gradients", [True, False])
def test_autocast_chooses_the_precision(gpu, gradients):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 8)).cuda()
    attention = nn.MultiheadAttention(8, 2).cuda()
    x = torch.rand(2, 3, 5, 5, device="cuda")
    with torch.set_grad_enabled(gradients):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = net(x)
            assert y.dtype == (y @ y.t()).dtype == torch.bfloat16
            assert y.softmax(1).dtype == functional.layer_norm(y, (8,)).dtype == torch.float32
            assert (x + 1).dtype == torch.float32 and (y + 1).dtype == torch.bfloat16
            assert gradients or attention(y, y, y)[0].dtype == torch.bfloat16
        with torch.amp.autocast("cuda"):
            assert net(x).dtype == torch.float16
        assert net(x).dtype == torch.float32
    if gradients:
        y.float().sum().backward()
        assert net[0].weight.grad.dtype == torch.float32


def test_memory_in_use(gpu):
    before = torch.cuda.memory_allocated()
    x = torch.zeros(1000, device="cuda")
    assert torch.cuda.memory_allocated() - before == 4096
    y = x[:10]
    assert torch.cuda.memory_allocated() - before == 4096, "a view needs no memory"
    del x, y
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() == before + 4096


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_precision_and_not_mixed(gpu, half):
    a, b = (torch.rand(64, 4096, device="cuda").to(half) for _ in range(2))
    exact = a.cpu().double() @ b.cpu().double().t()
    torch.testing.assert_close((a @ b.t()).cpu().double(), exact, rtol=torch.finfo(half).eps, atol=0)
    with pytest.raises(RuntimeError, match="same dtype"):
        a @ b.float().t()
    with pytest.raises(RuntimeError, match="should be the same"):
        torch.conv2d(torch.rand(1, 3, 8, 8, device="cuda"), torch.rand(4, 3, 3, 3, device="cuda").to(half))


INDEXED = {
    "x[[0, 2]]": ([0, 2], {"a copy from the host": 1}),
    "x[[True, False, False, True]]": ([0, 3], {"a copy from the host": 1, "a value": 1}),
    "x[torch.tensor([True, False, False, True])]": ([0, 3], {"a copy from the host": 1}),
    "x[range(2)]": ([0, 1], {"a copy from the host": 1}),
    "x[None, [1, 2]][:, 0]": ([1], {"a copy from the host": 1}),
    "x.__setitem__([0, 2], 9) or x": ([9, 1, 9, 3], {"a copy from the host": 1}),
    "x.__setitem__([True, False, False, True], 9) or x": ([9, 1, 2, 9], {"a copy from the host": 1}),
    "x.__setitem__([1], torch.ones(1, device='cuda') * 7) or x": ([0, 7, 2, 3], {"a copy from the host": 1}),
}


@pytest.mark.parametrize("code", INDEXED)
def test_lists_as_indices(code, gpu):
    x = torch.arange(4.0, device="cuda")
    found = eval(code, {"x": x, "torch": torch})
    values, waits = INDEXED[code]
    assert gpu.waits.by_what() == waits and found.tolist() == values


WAITS_ONCE = {
    "torch.allclose(x, x)", "torch.linalg.inv(x)", "torch.linalg.solve(x, x)", "torch.linalg.eigh(x)",
    "torch.linalg.svd(x)", "torch.repeat_interleave(x, n, 0)", "torch.tensor([x[0, 0]])",
}  # fmt: skip
WAITS_NEVER = {"torch.linalg.det(x)", "torch.repeat_interleave(x, n, 0, output_size=4)", "x.type()"}


@pytest.mark.parametrize("code", sorted(WAITS_ONCE | WAITS_NEVER))
def test_how_often_an_operation_waits(code, gpu):
    x, n = torch.eye(2, device="cuda"), torch.tensor([2, 2]).cuda()
    gpu.reset()
    eval(code, {"torch": torch, "x": x, "n": n})
    assert len(gpu.waits) == (code in WAITS_ONCE)
    assert x.type() == "torch.cuda.FloatTensor"


# Time, by a model


def ms_of(work):
    """Milliseconds of some work by events, on the practice GPU's model."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def test_events_tell_what_the_model_works_out(gpu):
    assert gpu.notes() == []
    n = 300
    a = torch.rand(n, n, device="cuda")
    one = ms_of(lambda: a @ a)
    assert float(one) == pytest.approx((5 + 2 * n**3 / 10e6) / 1000), "a launch and 2 n^3 operations"
    big = torch.zeros(3_000_000, device="cuda")
    assert float(ms_of(lambda: big + 1)) == pytest.approx((5 + 2 * big.nbytes / 300e3) / 1000), "its traffic"
    assert float(ms_of(lambda: [a[0] + 1 for _ in range(100)])) == pytest.approx(0.5, rel=0.01), "launches"
    assert float(ms_of(lambda: torch.zeros(3_000_000).cuda())) == pytest.approx(2.015, abs=1e-3), "a copy"
    for shown in (
        f"{one:.2f} ms",
        str(one),
        repr(one),
        str((one + one) / 2),
        str(sum([one, one])),
        str(round(-one, 2)),
    ):
        assert "model" in shown
    assert "a model, not a measurement" in str(gpu) and "a model, not a measurement" in gpu._repr_html_()


def test_a_fused_convolution_counts_its_arithmetic_as_a_plain_one(gpu):
    x, weight = torch.rand(1, 64, 48, 48, device="cuda"), torch.rand(64, 64, 3, 3, device="cuda")
    bias, how = torch.zeros(64, device="cuda"), ((1, 1), (1, 1), (1, 1), 1)
    plain = ms_of(lambda: torch.conv2d(x, weight, padding=1))
    assert float(plain) == pytest.approx((5 + 2 * 64 * 48**2 * 64 * 9 / 10e6) / 1000)
    assert float(ms_of(lambda: torch.cudnn_convolution_relu(x, weight, bias, *how))) == float(plain)


def test_a_clock_without_synchronize_sees_only_launches(gpu):
    a = torch.rand(500, 500, device="cuda")
    begin = gpu.clock()
    for _ in range(4):
        a @ a
    launched = gpu.clock() - begin
    torch.cuda.synchronize()
    done = gpu.clock() - begin
    assert float(launched) == pytest.approx(0.02)
    assert float(done) == pytest.approx(0.005 + 4 * 0.025)


def test_a_copy_hides_behind_work_of_another_stream(gpu):
    host, a = torch.zeros(300_000).pin_memory(), torch.rand(1000, 1000, device="cuda")
    copies = torch.cuda.Stream()

    def one_after_the_other():
        host.to("cuda", non_blocking=True)
        a @ a

    def beside():
        with torch.cuda.stream(copies):
            x = host.to("cuda", non_blocking=True)
        a @ a
        torch.cuda.current_stream().wait_stream(copies)
        x.record_stream(torch.cuda.current_stream())

    alone, hidden = ms_of(one_after_the_other), ms_of(beside)
    assert alone - hidden == pytest.approx(0.105, abs=0.02), "the copy takes 0.11 ms, the product 0.2 ms"
    assert not gpu.races


def test_events_refuse_as_torchs(gpu):
    timed, other = torch.cuda.Event(enable_timing=True), torch.cuda.Event()
    with pytest.raises(ValueError, match="must be created with argument 'enable_timing=True'"):
        timed.elapsed_time(other)
    end = torch.cuda.Event(enable_timing=True)
    timed.record()
    with pytest.raises(ValueError, match="must be recorded before"):
        timed.elapsed_time(end)
    torch.ones(3, device="cuda")
    end.record()
    with pytest.raises(ValueError, match="must be completed before"):
        timed.elapsed_time(end)
    torch.cuda.synchronize()
    assert timed.elapsed_time(end) > 0


# Wrong programs


SAME = "Expected all tensors to be on the same device, but "
MISMATCHES = {
    "x + host": SAME + "found at least two devices, cuda:0 and cpu!",
    "host * x": SAME + "found at least two devices, cpu and cuda:0!",
    "nn.Linear(3, 2)(x)": SAME + "got mat1 is on cuda:0, different from other tensors on cpu",
    "nn.Linear(3, 2).cuda()(host)": SAME + "got mat1 is on cpu, different from other tensors on cuda:0",
    "torch.cat([x, host])": SAME + "got tensors is on cpu",
    "nn.Conv2d(3, 4, 3)(image.cuda())":
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
    "nn.Conv2d(3, 4, 3).cuda()(image)":
        "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same or input",
    "nn.Conv2d(3, 4, 3, bias=False).cuda().half()(image.cuda())":
        "Input type (torch.cuda.FloatTensor) and weight type (torch.cuda.HalfTensor) should be the same",
    "host[x[0].long()]": "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
}  # fmt: skip


@pytest.mark.parametrize("code", MISMATCHES)
def test_two_devices_are_refused_in_torchs_words(code, gpu):
    names = {"x": torch.ones(2, 3, device="cuda"), "host": torch.ones(2, 3), "image": torch.ones(1, 3, 5, 5)}
    with pytest.raises(RuntimeError) as caught:
        eval(code, {"torch": torch, "nn": nn, **names})
    assert MISMATCHES[code] in str(caught.value)
    assert (names["x"] + torch.tensor(1.0)).tolist() == [[2] * 3] * 2, "a number may come from the host"


@pytest.mark.parametrize("take", [
    lambda x: x.numpy(), np.asarray, np.array, lambda x: x.__array__(), lambda x: np.stack([x, x]),
    lambda x: x.detach().numpy(),
])  # fmt: skip
def test_numpy_cannot_have_memory_of_the_gpu(take, gpu):
    with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu"):
        take(torch.ones(3, device="cuda"))
    assert not gpu.waits


def test_reading_each_score_waits_each_time(gpu):
    scores = torch.rand(100, device="cuda")
    kept = [i for i in range(100) if scores[i].item() > 0.5]
    best = scores.topk(10).values.tolist()
    assert len(best) == 10 and len(kept) <= 100
    assert lines_of(gpu.waits) == [
        ("kept = [i for i in range(100) if scores[i].item() > 0.5]", 100),
        ("best = scores.topk(10).values.tolist()", 1),
    ]


def test_masks_wait_unless_they_only_fill(gpu):
    x = torch.arange(6.0, device="cuda")
    x[x > 4] = 0
    torch.where(x > 2, x, 0)
    assert not gpu.waits
    assert x[x > 2].tolist() == [3, 4]
    x[x > 3] = torch.zeros(1, device="cuda").expand(1)
    torch.where(x > 2)
    assert len(gpu.waits) == 4, "a size of a mask, its values, a mask filled from the GPU, and a search"
    x[(x > 2) & (x < 4)] = 7.5
    assert len(gpu.waits) == 4 and x.tolist()[3] == 7.5


def test_a_stream_that_does_not_wait(gpu):
    upload, work = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(upload):
        x = torch.ones(3, device="cuda")
    with torch.cuda.stream(work), pytest.warns(RaceWarning) as caught:
        y = x + 1
    assert y is not None
    (race,) = gpu.races
    assert [line.text for line in race.lines] == ['x = torch.ones(3, device="cuda")', "y = x + 1"]
    assert "on work, add" in race.sentence and "reads x (float32 (3,))" in race.sentence
    assert race.remedy == "Put work.wait_stream(upload) between the two"
    assert (caught[0].filename, caught[0].lineno) == (race.lines[1].file, race.lines[1].number)


def test_memory_that_another_stream_still_reads_is_freed(gpu):
    side = torch.cuda.Stream()

    def half_done(keep):
        x = torch.ones(3, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = x * 2
        if keep:
            x.record_stream(side)
        return y

    half_done(keep=True)
    assert not gpu.races
    with pytest.warns(RaceWarning, match="freed while side may still use it"):
        half_done(keep=False)
    assert "record_stream(side)" in gpu.races[0].remedy


def test_rows_of_one_page_locked_tensor_arrive_by_themselves(gpu):
    rows, x = torch.zeros(2, 3).pin_memory(), torch.ones(3, device="cuda")
    rows[0].copy_(x, non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()
    rows[1].copy_(x * 2, non_blocking=True)
    arrived.synchronize()
    assert rows[0].sum() == 3 and not gpu.races
    with pytest.warns(RaceWarning, match="may not have reached"):
        assert rows[1].sum() != 6
    with pytest.warns(RaceWarning, match="may not have reached"):
        rows.sum()


def test_a_stream_that_is_set_stays_until_another_is(gpu):
    side = torch.cuda.Stream()
    torch.cuda.set_stream(side)
    x = torch.ones(3, device="cuda")
    with torch.cuda.stream(torch.cuda.ExternalStream(side.cuda_stream)):
        x += 1
    torch.cuda.set_stream(torch.cuda.default_stream())
    assert not gpu.races
    with pytest.warns(RaceWarning, match="on torch.cuda.default_stream"):
        assert (x + 1).is_cuda


def test_a_copy_of_nothing_is_no_race(gpu):
    none = torch.zeros(0, 4, device="cuda").to("cpu", non_blocking=True)
    assert (none + 1).shape == (0, 4) and torch.zeros(0).sum() == 0
    assert not gpu.races


def test_page_locked_memory_is_filled_again_too_early(gpu):
    host = torch.ones(3).pin_memory()
    x = host.to("cuda", non_blocking=True)
    host.fill_(2)
    with pytest.warns(RaceWarning, match="written while"):
        torch.cuda.synchronize()
    assert x.is_cuda and len(gpu.races) == 1


def test_an_optimizer_asks_the_accelerator_and_a_generator_may_be_the_gpus(gpu):
    drawn = torch.rand(8, 4, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    assert drawn.is_cuda and drawn.cpu().equal(torch.rand(8, 4, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        torch.rand(8, device="cuda", generator=torch.Generator())
    network = torch.nn.Linear(4, 1).cuda()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(drawn).sum().backward()
    before = network.weight.detach().clone()
    optimizer.step()
    assert not network.weight.equal(before)
    assert torch.accelerator.current_stream().cuda_stream == 0 and torch.accelerator.device_count() == 1


def test_arrays_are_joined_and_handed_over(gpu):
    import cupy

    ones = cupy.ones(3)
    assert cupy.concatenate([ones, 2 * ones]).get().tolist() == [1, 1, 1, 2, 2, 2]
    with pytest.raises(TypeError, match="asarray first"):
        cupy.stack([ones, np.ones(3)])
    tensor = torch.from_dlpack(ones)
    tensor += 1
    assert tensor.is_cuda and cupy.from_dlpack(tensor).get().tolist() == ones.get().tolist() == [2, 2, 2]
    again = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(tensor))
    assert torch.from_dlpack(tensor).data_ptr() == again.data_ptr() == tensor.data_ptr()


def test_functions_of_cupy_give_what_numpys_give(gpu):
    import cupy

    x = cupy.arange(6.0).reshape(2, 3)
    assert not gpu.copies and x.itemsize == 8 and x[:, ::-1].tolist() == [[2, 1, 0], [5, 4, 3]]
    rows, columns = cupy.nonzero(x > 3)
    assert (rows.tolist(), columns.tolist()) == ([1, 1], [1, 2])
    values, counts = cupy.unique(x > 3, return_counts=True)
    assert (values.tolist(), counts.tolist()) == ([False, True], [4, 2])
    assert gpu.waits.by_what() == {"a value": 2, "a copy to the host": 5}
    for made in (cupy.random.rand(3), cupy.fft.fft(x), cupy.linalg.norm(x), *cupy.meshgrid(x, x)):
        assert isinstance(made, cupy.ndarray) and cupy.get_array_module(made) is cupy
    out = cupy.empty_like(x)
    assert cupy.add(x, x, out=out) is out and float(cupy.average(out, weights=x)) == 22 / 3
    assert x.fill(2) is None and x.sum().item() == 12 and x[cupy.newaxis].shape == (1, 2, 3)


@pytest.mark.parametrize("view", ["x.reshape(-1)", "x.ravel()", "x.T", "cupy.swapaxes(x, 0, 1)", "x[None]"])
def test_views_of_cupy_share_memory(view, gpu):
    import cupy

    x = cupy.zeros((2, 2))
    gpu.reset()
    eval(view, {"x": x, "cupy": cupy}).fill(3)
    assert x.get().tolist() == [[3, 3]] * 2 and gpu.launches == 2


def test_streams_of_cupy(gpu):
    import cupy

    def run(stream, before=lambda: None, after=lambda: None):
        gpu.reset()
        x = cupy.ones(4)
        before()
        with stream:
            y = x[x > 0] * 2
            y[0] = 5
            first = float(y[0])
        after()
        assert first == 5 and float((y + 1).sum()) == 15
        del y
        return len(gpu.races)

    side, default = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream.null
    waiting = lambda: side.wait_event(default.record()), lambda: default.wait_event(side.record())
    assert run(cupy.cuda.Stream()) == 0, "it and the default stream wait for each other"
    assert run(side, *waiting) == 0
    with pytest.warns(RaceWarning, match=r"reads x \(.* Put stream.wait_event\(cupy.cuda.Stream.null.record"):
        assert run(side) > 0
    first, second = cupy.cuda.Stream(), cupy.cuda.Stream()
    with first:
        x = cupy.ones(4)
    with second, pytest.warns(RaceWarning, match=r"Put second.wait_event\(first.record"):
        assert (x + 1).size == 4


def test_nothing_is_compiled(gpu):
    with pytest.warns(UserWarning, match="compiles nothing"):
        double = torch.compile(lambda x: x * 2)
    assert double(torch.ones(2, device="cuda")).tolist() == [2, 2]


# Kernels


KERNELS = r"""
extern "C" __global__ void scale(const float *x, float *y, float by, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = by * x[i];
}
extern "C" __global__ void turn(const float *x, float *y, int n)
{
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
"""
needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@needs_gcc
def test_a_kernel_of_ones_own(gpu):
    import cupy

    x = cupy.asarray(np.arange(40, dtype=np.float32))
    y = cupy.empty(40, dtype=cupy.float32)
    assert np.isnan(cupy.asnumpy(y)).all()
    cupy.RawKernel(KERNELS, "scale")((2,), (32,), (x, y, np.float32(2), 40))
    assert (y.get() == 2 * np.arange(40)).all()
    turn = cupy.RawModule(code=KERNELS).get_function("turn")
    turn((1,), (40,), (x, y, 40), shared_mem=160)
    assert (y.get() == np.arange(40)[::-1]).all()
    assert gpu.waits.by_what() == {"a copy to the host": 3} and gpu.launches == 2 + 1 + 3
    assert float((y + x * 2).sum()) == 3 * 780 and float(y[3]) == 36
    assert torch.as_tensor(x, device="cuda").data_ptr() == x.data.ptr, "the same memory"


@needs_gcc
def test_a_kernel_on_a_stream_that_nobody_waits_for(gpu):
    import cupy

    x, y = cupy.ones(4, dtype=cupy.float32), cupy.zeros(4, dtype=cupy.float32)
    side = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    scale = cupy.RawKernel(KERNELS, "scale")
    with side:
        scale((1,), (4,), (x, y, np.float32(3), 4))
    with pytest.warns(RaceWarning, match="which side may still be writing: scale"):
        y.get()
    side.synchronize()
    assert (y.get() == 3).all() and len(gpu.races) == 1


KERNEL_MISTAKES = {
    "scale((1,), (4,), (x, y, 2.0, 4))": "a Python float is passed as a double",
    "scale((1,), (4,), (x, y, 2, 4))": "a Python int is passed as a whole number",
    "scale((1,), (4,), (x, y, np.float32(2)))": "scale takes 4 arguments, not 3",
    "scale((1,), (4,), (x, np.zeros(4, 'f'), np.float32(2), 4))": "Unsupported type <class 'numpy.ndarray'>",
    "scale((1,), (2048,), (x, y, np.float32(2), 4))": "at most 1024 threads",
    "cupy.RawKernel(KERNELS, 'turn')((1,), (4,), (x, y, 4))": "launch it with shared_mem",
    "cupy.RawKernel(KERNELS, 'scales')": "named symbol not found",
    "cupy.RawKernel('__global__ void bare(float *x) {}', 'bare')": "named symbol not found",
    "np.asarray(x)": "Implicit conversion to a NumPy array is not allowed",
    "cupy.not_there": "has no 'not_there'",
}


@needs_gcc
@pytest.mark.parametrize("code", KERNEL_MISTAKES)
def test_mistakes_with_kernels(code, gpu):
    import cupy

    x, y = cupy.ones(4, dtype=cupy.float32), cupy.zeros(4, dtype=cupy.float32)
    names = {"x": x, "y": y, "np": np, "cupy": cupy, "KERNELS": KERNELS}
    with pytest.raises(Exception, match=re.escape(KERNEL_MISTAKES[code])):
        eval(code, {**names, "scale": cupy.RawKernel(KERNELS, "scale")})


def test_modules_imported_inside_stay():
    sys.modules.pop("this", None)
    before = sys.modules.get("cupy")
    with fake_gpu(real=False):
        import this  # noqa: F401
    assert "this" in sys.modules and sys.modules.get("cupy") is before


# What a learner sees


def test_a_tensor_looks_as_on_a_gpu(gpu):
    x = torch.arange(3, device="cuda")
    assert repr(x) == "tensor([0, 1, 2], device='cuda:0')"
    assert repr(x.half()) == "tensor([0., 1., 2.], device='cuda:0', dtype=torch.float16)"
    assert f"{x[1] / 2:.2f}" == "0.50"
    assert gpu.waits.by_what() == {"a value": 3}


def test_the_report_names_lines(gpu):
    x = torch.ones(3, device="cuda")
    for _ in range(2):
        x[0].item()
    text, page = str(gpu), gpu._repr_html_()
    assert text.startswith("practice GPU") and "2 waits of the host" in text
    line = inspect.currentframe().f_lineno - 3
    assert f"2      a value  test_practice.py line {line}  x[0].item()" in text
    assert "<code>x[0].item()</code>" in page and "<table>" in page
    gpu.reset()
    assert not gpu.waits and gpu.launches == 0


def test_lines_of_cells():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_cell(
            "import torch\nfrom labkit.practice import fake_gpu\ngpu = fake_gpu(real=False).start()"
        )
        shell.run_cell(
            "x = torch.ones(3, device='cuda')\nfor i in range(3):\n    x[i].item()", store_history=True
        )
        shell.run_cell("gpu.stop()")
        (line,) = shell.user_ns["gpu"].waits.by_line()
        assert line.where.endswith("line 3") and line.where.startswith("In[")
        assert line.text == "x[i].item()"
    finally:
        InteractiveShell.clear_instance()


def test_everything_is_as_before_after_an_error():
    before = torch.cuda.is_available, torch.compile, torch.load, torch.cuda.Stream
    with pytest.raises(ZeroDivisionError), fake_gpu(real=False):
        torch.ones(2, device="cuda") / (1 // 0)
    assert before == (torch.cuda.is_available, torch.compile, torch.load, torch.cuda.Stream)
    with fake_gpu(real=False) as gpu:
        assert torch.ones(2, device="cuda").tolist() == [1, 1]
    assert gpu.launches == 1


def test_it_is_switched_on_once():
    with (
        fake_gpu(real=False),
        pytest.raises(UsageError, match=r"on already, by test_practice\.py line"),
    ):
        fake_gpu(real=False).start()
    first = fake_gpu(real=False).start()
    second = fake_gpu(real=False).start()  # a cell that is run again
    assert not first.on and second.on
    second.stop()
    assert not second.on
    second.stop()


def test_a_tensor_outlives_its_gpu_only_to_be_copied():
    with fake_gpu(real=False):
        x = torch.ones(3, device="cuda")
    assert x.cpu().tolist() == [1, 1, 1]
    assert "device='cuda:0'" in repr(x)
    with pytest.raises(GpuError, match="switched off since"):
        x + 1
    with fake_gpu(real=False), pytest.raises(GpuError, match="switched off since"):
        x + 1


def test_a_real_one_has_to_be_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="torch sees none"):
        fake_gpu(real=True)


def test_importing_the_room_loads_no_torch():
    code = "import sys, labkit.practice; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
