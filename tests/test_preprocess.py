import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from labkit.core.errors import FrameError, UsageError
from labkit.models.preprocess import (
    DETR_INPUT,
    IMPLEMENTATIONS,
    InputSpec,
    preprocessor,
)

RESNET_INPUT, RESNET_CROP_INPUT = InputSpec(shorter=256, crop=(224, 224)), InputSpec(exact=(224, 224))
PHOTOS = {name: np.ascontiguousarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee")}
SAME_AS_PILLOW = ("pil", "torch")


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", SAME_AS_PILLOW)
def test_resnet_input_is_that_of_torchvisions_weights(photo, name):
    from torchvision.models import ResNet18_Weights

    wanted = ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.fromarray(PHOTOS[photo]))[None]
    got = preprocessor(name, RESNET_INPUT)(PHOTOS[photo])
    assert got.shape == wanted.shape == (1, 3, 224, 224)
    # torch's resize rounds at the end, Pillow also between the two passes: at most a grey level
    tolerance = 1e-5 if name == "pil" else 1.01 / 255 / 0.224
    assert (got - wanted).abs().max() <= tolerance


@pytest.mark.parametrize(("do_resize", "spec"), [(False, DETR_INPUT), (True, InputSpec(exact=(1066, 800)))])
def test_detr_input_is_that_of_transformers(do_resize, spec):
    from transformers import DetrImageProcessor

    image = np.ascontiguousarray(np.array(Image.fromarray(PHOTOS["coffee"]).resize((640, 480))))
    wanted = DetrImageProcessor()(images=image, do_resize=do_resize, return_tensors="pt")["pixel_values"]
    got = preprocessor("torch", spec)(image)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= (1e-5 if not do_resize else 1.01 / 255 / 0.224)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_without_resizing_all_are_the_same_function(name):
    wanted = preprocessor("pil", DETR_INPUT)(PHOTOS["chelsea"])
    got = preprocessor(name, DETR_INPUT)(PHOTOS["chelsea"])
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=0)


def mean_difference(name, photo):
    image = np.array(Image.fromarray(PHOTOS[photo]).resize((640, 480)))  # 480 to 256: no whole ratio
    wanted = preprocessor("pil", RESNET_INPUT)(image)
    return float((preprocessor(name, RESNET_INPUT)(image) - wanted).abs().mean())


@pytest.mark.parametrize("photo", PHOTOS)
def test_opencv_differs_from_pillow_and_aliasing_is_the_reason(photo):
    area, linear = mean_difference("opencv", photo), mean_difference("opencv_linear", photo)
    assert 0 < area < 0.05  # in units of the normalised input, whose standard deviation is 1
    assert area < linear


@pytest.mark.parametrize("size", [(640, 640), (600, 320), (96, 700)])  # of 451x300: one side may shrink
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_what_grows_grows_as_by_pillow(name, size):
    """As a webcam's 480 rows do for a detector that wants 640."""
    spec = InputSpec(exact=size)
    image = PHOTOS["chelsea"]
    difference = (preprocessor(name, spec)(image) - preprocessor("pil", spec)(image)).abs()
    if size[0] > image.shape[1] and size[1] > image.shape[0]:
        assert difference.max() <= 1.5 / 255 / 0.224  # a grey level
    elif name != "opencv_linear":
        assert difference.mean() < 0.03


def test_an_input_spec_gives_pillows_geometry():
    assert RESNET_INPUT.resized((640, 480)) == (341, 256)
    assert RESNET_INPUT.resized((480, 640)) == (256, 341)
    assert RESNET_INPUT.output_size((640, 480)) == (224, 224)
    assert DETR_INPUT.output_size((640, 480)) == (640, 480)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (2160, 3840, 3)])
def test_odd_and_large_frames(name, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert preprocessor(name, RESNET_CROP_INPUT)(image).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_input_is_not_changed_and_may_be_a_view(name):
    image = PHOTOS["coffee"][::2, 10:300]
    before = image.copy()
    got = preprocessor(name, DETR_INPUT)(image)
    assert (image == before).all()
    torch.testing.assert_close(got, preprocessor(name, DETR_INPUT)(np.ascontiguousarray(image)))


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_normalising_is_the_textbook_formula(width, height, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = (image / 255 - np.array(DETR_INPUT.mean)) / np.array(DETR_INPUT.std)
    for name in IMPLEMENTATIONS:
        got = preprocessor(name, DETR_INPUT)(image)[0].numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_channel_order_matters():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 255  # red
    for name in IMPLEMENTATIONS:
        red, green, _ = preprocessor(name, DETR_INPUT)(image)[0].mean((1, 2))
        assert red > 2 > 0 > green


def test_wrong_input_is_named():
    with pytest.raises(UsageError, match="no preprocessing named 'nosuch'"):
        preprocessor("nosuch", DETR_INPUT)
    with pytest.raises(FrameError, match="float64"):
        preprocessor("pil", DETR_INPUT)(np.zeros((4, 4, 3)))
