"""Choice of the best boxes and packing of what is known of them: in PyTorch, or by two CUDA kernels.

A row is one box: relative centre box (4), score, label, fine score, fine label. In PyTorch it takes
about thirty operations on a few hundred numbers, each a launch of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.core.types import Size
from labkit.filters.cuda import on_torch_stream
from labkit.models.decode import SOFTMAX, DecodingRule

ROW = 8


class BoxRows:
    """Rows of the best boxes, by PyTorch's operations.

    Args:
        objects: how many boxes of a frame are kept, at most.
        rule: how the detector's logits become scores and labels.
    """

    def __init__(self, objects: int, rule: DecodingRule = SOFTMAX) -> None:
        self.objects, self.rule = objects, rule

    def choose(self, logits: Tensor, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """The best queries of each frame.

        Args:
            logits: (B, Q, ...) as the rule takes them.
            boxes: (B, Q, 4) relative centre boxes.
            size: (width, height) of the frame in px.

        Returns:
            Rows (B, k, 6), best first, and where `roi_align` cuts, (B k, 5): the number of the
            frame, and corners in px, inside it and a pixel apart at least.
        """
        score, label, query = self.rule.best(logits, self.objects)
        boxes = boxes.float().take_along_dim(query[..., None], 1)
        rows = torch.cat([boxes, score[..., None], label[..., None].float()], -1)
        frame = torch.arange(len(boxes), device=boxes.device)[:, None, None].expand(-1, query.shape[1], 1)
        return rows, torch.cat([frame.float(), _corners(boxes, size)], -1).flatten(0, 1)

    def name(self, rows: Tensor, logits: Tensor) -> Tensor:
        """The rows (B, k, 8) with a classifier's answer (B k, F) to their crops."""
        score, label = logits.float().softmax(-1).max(-1)
        return torch.cat([rows, torch.stack([score, label.float()], -1).view(*rows.shape[:2], 2)], -1)


def _corners(boxes: Tensor, size: Size) -> Tensor:
    """(B, k, 4) relative centre boxes -> the same in px as corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    width, height = (torch.full_like(centre[..., :1], each) for each in size)
    limit = torch.cat([width, height], -1)
    low = ((centre - half) * limit).clamp(min=0).minimum(limit - 1)
    high = ((centre + half) * limit).minimum(limit).maximum(low + 1)
    return torch.cat([low, high], -1)


class BoxRowKernels(BoxRows):
    """The same by a CUDA kernel each, launched by CuPy; on the CPU, and for `SIGMOID`, by PyTorch."""

    def __init__(self, objects: int, rule: DecodingRule = SOFTMAX) -> None:
        super().__init__(objects, rule)
        self._kernels: dict[tuple[Any, ...], Any] = {}

    def choose(self, logits: Tensor, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """As `BoxRows.choose`; the rows (B, k, 8) have room for the names."""
        if not logits.is_cuda or self.rule != SOFTMAX:
            return super().choose(logits, boxes, size)
        frames, queries, classes = logits.shape
        kept = min(self.objects, queries)
        rows = torch.empty(frames, kept, ROW, device="cuda")
        cuts = torch.empty(frames * kept, 5, device="cuda")
        scalars = (np.int32(classes), np.int32(kept), np.float32(size[0]), np.float32(size[1]))
        self._launch("choose", frames, queries, [logits, boxes], [rows, cuts], scalars)
        return rows, cuts

    def name(self, rows: Tensor, logits: Tensor) -> Tensor:
        """As `BoxRows.name`."""
        if not logits.is_cuda or self.rule != SOFTMAX:
            return super().name(rows, logits)
        self._launch("name", len(logits), 128, [logits], [rows], (np.int32(logits.shape[1]),))
        return rows

    def _launch(
        self, kernel: str, blocks: int, threads: int, reads: list[Tensor], writes: list[Tensor], scalars: Any
    ) -> None:
        if not blocks:
            return
        half = reads[0].dtype is torch.float16
        reads = [each.contiguous() if half else each.float().contiguous() for each in reads]
        key = kernel, half, threads
        if key not in self._kernels:
            import cupy

            options = ("-std=c++17", f"-DTHREADS={threads}", *(["-DHALF"] if half else []))
            self._kernels[key] = cupy.RawKernel(KERNELS, kernel, options)
        pointers = [np.uintp(each.data_ptr()) for each in (*reads, *writes)]
        with on_torch_stream():
            self._kernels[key]((blocks,), (threads,), (*pointers, *scalars))


KERNELS = r"""
#ifdef HALF
typedef unsigned short Value;  // the 16 bits of a half
#ifndef CUDA_ON_CPU  // which brings its own
static __device__ float half_value(Value bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#endif
#define FLOAT(bits) half_value(bits)
#else
typedef float Value;
#define FLOAT(value) (value)
#endif

// The best of each frame's queries. Block: one thread per query; grid: frames.
extern "C" __global__ void choose(const Value *logits, const Value *boxes, float *rows, float *cuts,
                                  int classes, int objects, float width, float height)
{
    __shared__ float scores[THREADS];
    int frame = blockIdx.x, query = frame * THREADS + threadIdx.x;

    logits += query * classes;
    float no_object = FLOAT(logits[classes - 1]), best = FLOAT(logits[0]);
    int label = 0;
    for (int c = 1; c < classes - 1; c++) {
        float value = FLOAT(logits[c]);
        if (value > best) best = value, label = c;
    }
    float largest = fmaxf(best, no_object), sum = 0.0f;
    for (int c = 0; c < classes; c++) sum += expf(FLOAT(logits[c]) - largest);
    float score = expf(best - largest) / sum;
    scores[threadIdx.x] = score;
    __syncthreads();

    int rank = 0;  // how many are better
    for (int other = 0; other < THREADS; other++)
        rank += scores[other] > score || (scores[other] == score && other < (int)threadIdx.x);
    if (rank >= objects) return;

    float box[4];
    for (int i = 0; i < 4; i++) box[i] = FLOAT(boxes[query * 4 + i]);
    float *row = rows + (frame * objects + rank) * 8, *cut = cuts + (frame * objects + rank) * 5;
    for (int i = 0; i < 4; i++) row[i] = box[i];
    row[4] = score;
    row[5] = label;
    cut[0] = frame;
    for (int i = 0; i < 2; i++) {
        float limit = i ? height : width;
        float low = fminf(fmaxf((box[i] - box[2 + i] / 2) * limit, 0.0f), limit - 1);
        cut[1 + i] = low;
        cut[3 + i] = fmaxf(fminf((box[i] + box[2 + i] / 2) * limit, limit), low + 1);
    }
}

// The class of each crop, and how sure that is, into the end of its row. Grid: crops.
extern "C" __global__ void name(const Value *logits, float *rows, int classes)
{
    __shared__ float bests[THREADS], sums[THREADS];
    __shared__ int labels[THREADS];
    int me = threadIdx.x, label = classes;
    float best = -1e30f, sum = 0.0f;  // sum of exp(value - best)

    logits += blockIdx.x * classes;
    for (int c = me; c < classes; c += THREADS) {
        float value = FLOAT(logits[c]);
        if (value > best) sum *= expf(best - value), best = value, label = c;
        sum += expf(value - best);
    }
    bests[me] = best, sums[me] = sum, labels[me] = label;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me >= half) continue;
        float other = bests[me + half], larger = fmaxf(bests[me], other);
        sums[me] = sums[me] * expf(bests[me] - larger) + sums[me + half] * expf(other - larger);
        if (other > bests[me] || (other == bests[me] && labels[me + half] < labels[me]))
            labels[me] = labels[me + half];
        bests[me] = larger;
    }
    if (me == 0) {
        rows[blockIdx.x * 8 + 6] = 1.0f / sums[0];
        rows[blockIdx.x * 8 + 7] = labels[0];
    }
}
"""
