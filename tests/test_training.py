"""Training of the small models, and the weights that came out of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from labkit.core.boxes import xyxy_to_cxcywh
from labkit.core.errors import UsageError, WeightsError
from labkit.models.lab_resnet import build_lab_resnet
from labkit.models.networks import build
from labkit.models.training import train
from labkit.models.training.data import Chunk, World, album, draw_chunk, scene_batch, zoom
from labkit.models.training.detr import Learner, build_detr, detr_losses, set_losses
from labkit.models.training.loop import Budget, Plan, Progress, fit, write_log
from labkit.models.weights import Weights
from labkit.sources.synthetic.objects import COARSE, FINE
from labkit.sources.synthetic.scene import scene_frame

from training_curves import draw_curves, read_log  # isort: skip

WORLD = World(scene_frame, COARSE, FINE)


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class TestAlbum:
    def test_a_chunk_holds_scenes_with_their_truth_and_crops(self):
        chunk = draw_chunk(WORLD, 3, 4, seed=5, size=(256, 192), crop_size=(64, 64))
        assert chunk.images.shape == (4, 192, 256, 3)
        assert len(chunk.crops) == len(chunk.crop_labels) == (chunk.labels >= 0).sum()
        coarse = chunk.crop_labels // (len(FINE) // len(COARSE))
        assert (coarse == chunk.labels[chunk.labels >= 0]).all()
        assert (chunk.boxes[chunk.labels < 0] == 0).all()

    def test_drawn_scenes_are_kept_and_read_back(self, tmp_path):
        calls = []

        def counted(*args, **kwargs):
            calls.append(args)
            return scene_frame(*args, **kwargs)

        def read():
            world = World(counted, COARSE, FINE)
            return next(album(world, tmp_path, 3, seed=9, size=(64, 48), crop_size=(16, 16)))

        first, again = read(), read()
        assert len(calls) == 3
        assert (first.images == again.images).all()
        assert (first.crops == again.crops).all()

    def test_a_world_without_truth_is_refused(self):
        bare = World(lambda *a, **k: SimpleNamespace(image=None, truth=None), COARSE, FINE)
        with pytest.raises(UsageError, match="truth"):
            draw_chunk(bare, 0, 1, seed=0, size=(64, 48), crop_size=(8, 8))


class TestAugmentation:
    def test_zooming_moves_boxes_with_the_pixels(self):
        """A white rectangle on black is still where its box says."""
        for seed in range(20):
            image = np.zeros((192, 256, 3), np.uint8)
            image[60:110, 90:170] = 255
            boxes = np.zeros((8, 4), np.float32)
            boxes[0] = xyxy_to_cxcywh(np.array([[90, 60, 170, 110]], np.float32), (256, 192))[0]
            labels = np.array([3] + [-1] * 7)
            out, moved, kept = zoom(image, boxes, labels, np.random.default_rng(seed))
            assert kept[0] == 3
            y, x = np.nonzero(out[..., 0] > 127)
            seen = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
            assert np.abs(xyxy_to_cxcywh(seen, (256, 192))[0] - moved[0]).max() < 1.5 / 192

    def test_flipping_moves_boxes_with_the_pixels(self):
        chunk = draw_chunk(WORLD, 0, 6, seed=5, size=(256, 192), crop_size=(8, 8))
        marked = np.zeros_like(chunk.images)
        boxes = np.zeros_like(chunk.boxes)
        labels = np.full_like(chunk.labels, -1)
        marked[:, 60:110, 20:80] = 255
        boxes[:, 0] = xyxy_to_cxcywh(np.array([[20, 60, 80, 110]], np.float32), (256, 192))
        labels[:, 0] = 1
        chunks = [Chunk(marked, boxes, labels, chunk.crops, chunk.crop_labels)]
        images, found, _ = scene_batch(chunks, 40, np.random.default_rng(1))
        sides = set()
        for image, box in zip(images, found[:, 0], strict=True):
            x = np.nonzero(image[..., 0] > 127)[1]
            assert (x.min() + x.max() + 1) / 512 == pytest.approx(float(box[0]), abs=0.01)
            sides.add(bool(box[0] > 0.5))
        assert sides == {True, False}


class TestLosses:
    def test_set_losses_are_those_of_the_paper(self):
        """Two layers, one right up to a shift of 0.1 and one that says nothing, by hand."""
        boxes, labels = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0]]]), torch.tensor([[1, -1]])
        found = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.6, 0.5, 0.2, 0.2]]).expand(2, 1, 2, 4)
        logits = torch.zeros(2, 1, 2, 3)
        logits[0, 0, 0, 2] = logits[0, 0, 1, 1] = 20.0
        losses = set_losses(logits, found, boxes, labels)
        # Factor 2 over the layers' mean, weights 1, 5 and 2; IoU and union 1/3, and nothing around it.
        assert float(losses["set_l1"]) == pytest.approx(2 * 5 * 0.1, rel=1e-5)
        assert float(losses["set_giou"]) == pytest.approx(2 * 2 * (1 - 1 / 3), rel=1e-5)
        assert float(losses["set_label"]) == pytest.approx(2 * np.log(3) / 2, rel=1e-5)

    def test_an_image_without_objects_has_a_loss(self):
        learner = Learner(build_detr(COARSE))
        nothing = torch.zeros(1, 8, 4), torch.full((1, 8), -1)
        losses = detr_losses(learner, torch.randn(1, 3, 96, 128), *nothing, dense_only=False)
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert float(losses["set_l1"]) == float(losses["dense_giou"]) == 0

    def test_the_finished_network_answers_as_the_learner_does(self):
        torch.manual_seed(3)
        learner = Learner(build_detr(COARSE))
        pixels = torch.randn(2, 3, 192, 256)
        learner.train()(pixels)  # moves the running statistics of the live norms
        learner.eval()
        with torch.no_grad():
            logits, boxes, _, _ = learner(pixels)
            out = learner.finished()(pixels)
        assert torch.allclose(out.logits, logits[-1], atol=1e-4)
        assert torch.allclose(out.pred_boxes, boxes[-1], atol=1e-4)


def sum_error(model, rng):
    x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
    return {"error": (model(x)[:, 0] - x.sum(1)).square().mean()}


class TestLoop:
    def test_a_resumed_run_ends_where_an_uninterrupted_one_does(self, tmp_path):
        def trained(folder, stop_at=None, **how):
            model, calls = toy(), itertools.count()

            def losses(rng, spent):
                if next(calls) == stop_at:
                    raise KeyboardInterrupt
                return sum_error(model, rng)

            plan = Plan(tmp_path / folder, Budget(steps=60), seed=7, checkpoint_s=0, **how)
            return fit("toy", model, losses, plan, lr=0.01)

        straight = trained("a")
        with pytest.raises(KeyboardInterrupt):
            trained("b", stop_at=23)
        resumed = trained("b", resume=True)
        for one, other in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert (tmp_path / "b" / "toy.log.csv").read_text().splitlines()[0] == "step,elapsed_s,error"

    def test_it_learns_and_reports(self, tmp_path):
        model, heard = toy(), []
        plan = Plan(tmp_path, Budget(steps=300), progress=heard.append)
        averaged = fit(
            "toy", model, lambda rng, _: sum_error(model, rng), plan, lr=0.05, score=lambda m: {"good": 1.0}
        )
        assert all(isinstance(event, Progress) for event in heard)
        assert heard[-1].losses["error"] < 0.05 * heard[0].losses["error"]
        assert heard[-1].scores == {"good": 1.0}
        assert float(sum_error(averaged, np.random.default_rng(1))["error"]) < 1
        assert not averaged.training and not next(averaged.parameters()).requires_grad

    def test_mistakes_are_named(self, tmp_path):
        model, plan = toy(), Plan(tmp_path, Budget(steps=2), resume=True)

        def run(model=model, plan=plan, at=1.0):
            fit("toy", model, lambda rng, _: {"x": model(torch.full((1, 4), at)).sum()}, plan, lr=0.01)

        with pytest.raises(WeightsError, match="not finite"):
            run(at=torch.inf)
        run()
        with pytest.raises(WeightsError, match="seed 0, not 1"):
            run(plan=replace(plan, seed=1))
        with pytest.raises(WeightsError, match="another model"):
            run(model=nn.Linear(4, 2))
        (tmp_path / "toy.checkpoint.pt").write_bytes(b"not a checkpoint")
        with pytest.raises(WeightsError, match=r"toy\.checkpoint\.pt is damaged"):
            run()

    @pytest.mark.parametrize("wrong", [{}, {"steps": 3, "minutes": 1.0}, {"steps": 0}, {"minutes": -1.0}])
    def test_a_budget_is_either_steps_or_minutes(self, wrong):
        with pytest.raises(UsageError):
            Budget(**wrong)


class TestTrain:
    @pytest.mark.extended
    def test_a_short_run_of_each_writes_loadable_models_and_the_losses_fall(self, tmp_path, monkeypatch):
        monkeypatch.setattr(train, "BATCH", {"detr": 4, "resnet": 4})
        heard: list[Progress] = []
        plan = Plan(tmp_path, Budget(steps=40), scenes=8, progress=heard.append)
        folders = train.train("all", WORLD, plan)
        for what, folder in folders.items():
            first, last = (event for event in heard if event.what == what)
            shared = set(first.losses) & set(last.losses)
            assert shared
            assert sum(last.losses[k] for k in shared) < sum(first.losses[k] for k in shared)
            network = build(Weights(f"lab_{what}", "lab", folder, "mine", ""))
            assert network.labels == (COARSE if what == "detr" else FINE)
            width, height = network.input.exact
            assert (width, height) == (train.DETECTOR_SIZE if what == "detr" else train.CROP_SIZE)
            network.module(torch.zeros(1, 3, height, width))

    def test_an_unknown_model_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="'vit'"):
            train.train("vit", WORLD, Plan(tmp_path, Budget(steps=1)))

    def test_a_resnet_that_is_none_is_refused(self):
        config = train.classifier_config(FINE)
        for wrong in ({"block": "bottleneck"}, {"layers": [1, 1]}, {"width": 0}):
            with pytest.raises(WeightsError):
                build_lab_resnet(config | wrong)
        with pytest.raises(WeightsError, match="width"):
            build_lab_resnet({k: v for k, v in config.items() if k != "width"})


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


class TestCurve:
    def test_a_log_is_read_back_and_drawn(self, tmp_path):
        rows = [{"step": 20, "label": 2.0}, {"step": 40, "label": 0.5, "top1": 0.75}]
        write_log(tmp_path / "log.csv", rows)
        log = read_log(tmp_path / "log.csv")
        assert log["label"].to_dict() == {20: 2.0, 40: 0.5}
        assert log["top1"].dropna().to_dict() == {40: 0.75}
        picture = draw_curves({"resnet": tmp_path / "log.csv"}, tmp_path / "curve.png")
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        with pytest.raises(UsageError, match=r"other\.csv"):
            read_log(tmp_path / "other.csv")
