"""The kernel exercise: right bodies pass, plausible wrong ones fail with their reason."""

import re
import shutil

import pytest

from labkit.lessons.nb04_filter import check_kernel, kernel_to_complete

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run kernels on the CPU")

RIGHT = """
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    int c = blockIdx.z;
    if (x >= width || y >= height) return;
    int left = max(x - R, 0), right = min(x + R, width - 1);
    int top = max(y - R, 0), bottom = min(y + R, height - 1);
    float sum_a = 0.0f, sum_b = 0.0f;
    for (int v = top; v <= bottom; v++)
        for (int u = left; u <= right; u++) {
            int there = (v * width + u) * channels + c;
            sum_a += a[there];
            sum_b += b[there];
        }
    float count = (right - left + 1) * (bottom - top + 1);
    int here = (y * width + x) * channels + c;
    float q = (sum_a * image[here] + sum_b) / count;
    out[here] = (unsigned char)(fminf(fmaxf(q, 0.0f), 255.0f) + 0.5f);
"""


def edited(*changes):
    text = RIGHT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


WRONG = {
    "a blur": edited(
        ("sum_a += a[there];", "sum_a += a[there] * image[there] + b[there];"), ("sum_b += b[there];", ""),
        ("(sum_a * image[here] + sum_b) / count", "sum_a / count"),
    ),
    "half a level too dark": edited((" + 0.5f);", ");")),
    "own a and b": edited(("(sum_a * image[here] + sum_b) / count", "a[here] * image[here] + b[here]")),
    "divided by a full window": edited(
        ("(right - left + 1) * (bottom - top + 1)", "(2 * R + 1) * (2 * R + 1)")
    ),
    "never divided": edited(("/ count", "")),
    "b is missing": edited((" + sum_b) /", ") /")),
    "use <=": edited(("v <= bottom", "v < bottom"), ("u <= right", "u < right")),
    "reads or writes outside": edited(("if (x >= width || y >= height) return;", "")),
    "does not compile": edited(("float count", "flaot count")),
    "endless loop": edited(("v++", "v += 0")),
    "still empty": "    // ...",
    "differ from the reference": edited(("* channels + c;", "* channels;")),
    "image itself": "int i = (blockIdx.y * blockDim.y + threadIdx.y) * width + blockIdx.x * blockDim.x "
    "+ threadIdx.x; int x = blockIdx.x * blockDim.x + threadIdx.x; "
    "if (x >= width || blockIdx.y * blockDim.y + threadIdx.y >= height) return; "
    "i = i * channels + blockIdx.z; out[i] = image[i];",
}  # fmt: skip


def test_the_right_body_passes():
    checked = check_kernel(RIGHT)
    assert checked, str(checked)


def test_the_text_to_complete_ends_where_the_body_begins():
    text = kernel_to_complete()
    assert text.rstrip().endswith("{")
    assert "void coefficients" in text and "void apply" in text
    assert "sum_a" not in text


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_body_fails_with_its_reason(reason, monkeypatch):
    from labkit.filters import emulate

    if reason == "endless loop":
        monkeypatch.setattr(emulate.emulate_launch, "__kwdefaults__", {"timeout_s": 3.0})
    checked = check_kernel(WRONG[reason])
    assert not checked
    assert re.search(reason, str(checked)), str(checked)


def test_the_origins_way_gives_the_right_filter_with_a_wait_after_each_launch(pretended, monkeypatch):
    """Managed memory is host memory here, and kernels run on the CPU; the rest is the real code."""
    import cupy
    import numpy as np

    from labkit.filters import cuda_managed
    from labkit.filters.image_filters import guided_filter

    made_bytes, malloc = [], cupy.cuda.malloc_managed
    monkeypatch.setattr(cupy.cuda, "malloc_managed", lambda n: made_bytes.append(n) or malloc(n))
    image = np.random.default_rng(1).integers(0, 256, (11, 14, 3), dtype=np.uint8)
    for _ in range(2):
        got = cuda_managed.guided_in_managed_memory("guided_1_global.cu", image, 2, 0.01)
        assert np.abs(got.astype(int) - guided_filter(image, 2, 0.01, version="reference")).max() <= 1
    assert pretended.waits == ["everything"] * 4
    assert len(made_bytes) == 8  # all four arrays anew for each frame
