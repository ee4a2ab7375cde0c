"""Training of the small models, and the weights that came out of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_convert, generalized_box_iou

from labkit.core.boxes import xyxy_to_cxcywh
from labkit.core.errors import UsageError, WeightsError
from labkit.models.lab_resnet import build_lab_resnet
from labkit.models.training import train
from labkit.models.training.batches import scene_batch, zoom
from labkit.models.training.data import Chunk, World, album, draw_chunk
from labkit.models.training.detr import Learner, build_detr, generalized_iou, match, set_losses
from labkit.models.training.loop import Budget, Plan, Progress, fit, write_log
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
    def test_generalized_iou_agrees_with_torchvision(self):
        torch.manual_seed(0)
        one, other = torch.rand(30, 4) * 0.5 + 0.1, torch.rand(30, 4) * 0.5 + 0.1
        corners = (box_convert(b, "cxcywh", "xyxy") for b in (one, other))
        assert torch.allclose(
            generalized_iou(one, other), generalized_box_iou(*corners).diagonal(), atol=1e-5
        )

    def test_the_match_is_the_cheapest_of_all(self):
        torch.manual_seed(1)
        # Boxes so alike that the labels have a say.
        logits, found = 4 * torch.randn(2, 3, 4, 6), torch.rand(2, 3, 4, 4) * 0.04 + 0.2
        boxes, labels = torch.rand(3, 3, 4) * 0.04 + 0.2, torch.tensor([[0, 4, 2], [1, -1, -1], [-1, -1, -1]])
        rows = torch.stack(match(logits, found, boxes, labels), 1).tolist()
        for layer, batch in itertools.product(range(2), range(3)):
            n = int((labels[batch] >= 0).sum())

            def cost(queries, layer=layer, batch=batch):
                return sum(
                    5 * float((found[layer, batch, q] - boxes[batch, t]).abs().sum())
                    - 2 * float(generalized_iou(found[layer, batch, q], boxes[batch, t]))
                    - float(logits[layer, batch, q].softmax(-1)[labels[batch, t]])
                    for t, q in enumerate(queries)
                )

            best = min(itertools.permutations(range(4), n), key=cost)
            chosen = {t: q for la, b, q, t in rows if (la, b) == (layer, batch)}
            assert [chosen[t] for t in range(n)] == list(best)

    def test_set_losses_agree_with_the_library_that_the_network_comes_from(self):
        from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

        torch.manual_seed(2)
        logits, found = torch.randn(1, 3, 5, 9), torch.rand(1, 3, 5, 4) * 0.4 + 0.2
        boxes, labels = torch.rand(3, 2, 4) * 0.4 + 0.2, torch.tensor([[0, 4], [1, -1], [7, 7]])
        targets = [
            {"class_labels": labels[b][labels[b] >= 0], "boxes": boxes[b][labels[b] >= 0]} for b in range(3)
        ]
        matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
        theirs = ImageLoss(matcher, 8, 0.2, ["labels", "boxes"])(
            {"logits": logits[0], "pred_boxes": found[0]}, targets
        )
        ours = set_losses(logits, found, boxes, labels)
        # Ours carry their weights (1, 5, 2) and the factor 2 of the average over layers.
        assert float(ours["set_label"]) / 2 == pytest.approx(float(theirs["loss_ce"]), rel=1e-5)
        assert float(ours["set_l1"]) / 10 == pytest.approx(float(theirs["loss_bbox"]), rel=1e-5)
        assert float(ours["set_giou"]) / 4 == pytest.approx(float(theirs["loss_giou"]), rel=1e-5)

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


class TestLoop:
    def test_a_resumed_run_ends_where_an_uninterrupted_one_does(self, tmp_path):
        def losses_of(model, stop_at=None):
            def step_losses(rng, spent):
                x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
                if stop_at is not None and counted() == stop_at:
                    raise KeyboardInterrupt
                return {"error": (model(x)[:, 0] - x.sum(1)).square().mean()}

            calls = itertools.count()
            counted = lambda: next(calls)  # noqa: E731
            return step_losses

        def plan(name):
            return Plan("toy", Budget(steps=60), 7, tmp_path / name, lr=0.01, checkpoint_s=0)

        whole = toy()
        straight = fit(whole, losses_of(whole), plan("a"))
        first = toy()
        with pytest.raises(KeyboardInterrupt):
            fit(first, losses_of(first, stop_at=23), plan("b"))
        second = toy()
        resumed = fit(second, losses_of(second), plan("b"), resume=True)
        for one, other in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert plan("b").log.read_text().splitlines()[0] == "step,elapsed_s,error"

    def test_it_learns_and_reports(self, tmp_path):
        model, heard = toy(), []

        def step_losses(rng, spent):
            x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
            return {"error": (model(x)[:, 0] - x.sum(1)).square().mean()}

        plan = Plan("toy", Budget(steps=300), 0, tmp_path, lr=0.05)
        averaged = fit(model, step_losses, plan, progress=heard.append, score=lambda m: {"good": 1.0})
        assert all(isinstance(event, Progress) for event in heard)
        assert heard[-1].losses["error"] < 0.05 * heard[0].losses["error"]
        assert heard[-1].scores == {"good": 1.0}
        x = torch.randn(50, 4)
        assert float((averaged(x)[:, 0] - x.sum(1)).square().mean()) < 1

    def test_a_loss_that_is_not_finite_stops_the_run(self, tmp_path):
        model = toy()
        plan = Plan("toy", Budget(steps=3), 0, tmp_path, lr=0.01)
        with pytest.raises(WeightsError, match="not finite"):
            fit(model, lambda rng, spent: {"bad": model(torch.full((2, 4), torch.inf)).sum()}, plan)

    def test_a_damaged_checkpoint_is_named(self, tmp_path):
        plan = Plan("toy", Budget(steps=3), 0, tmp_path, lr=0.01)
        plan.checkpoint.write_bytes(b"not a checkpoint")
        model = toy()
        with pytest.raises(WeightsError, match=r"toy\.checkpoint\.pt"):
            fit(model, lambda rng, spent: {"x": model(torch.ones(1, 4)).sum()}, plan, resume=True)

    def test_a_checkpoint_of_another_model_or_seed_is_named(self, tmp_path):
        def plan(seed):
            return Plan("toy", Budget(steps=2), seed, tmp_path, lr=0.01)

        def losses(rng, spent):
            return {"x": model(torch.ones(1, 4)).sum()}

        model = toy()
        fit(model, losses, plan(0))
        with pytest.raises(WeightsError, match="seed 0, not 1"):
            fit(toy(), losses, plan(1), resume=True)
        with pytest.raises(WeightsError, match="another model"):
            fit(nn.Linear(2, 2), losses, plan(0), resume=True)

    @pytest.mark.parametrize("wrong", [{}, {"steps": 3, "minutes": 1.0}, {"steps": 0}, {"minutes": -1.0}])
    def test_a_budget_is_either_steps_or_minutes(self, wrong):
        with pytest.raises(UsageError):
            Budget(**wrong)


class TestTrain:
    @pytest.mark.extended
    def test_a_short_run_of_each_writes_loadable_models_and_the_losses_fall(self, tmp_path):
        heard: list[Progress] = []
        options = {"scenes": 8, "batch": 4, "progress": heard.append}
        detr = train.train_detector(WORLD, tmp_path, Budget(steps=40), **options)
        resnet = train.train_classifier(WORLD, tmp_path, Budget(steps=40), **options)
        for what in ("detr", "resnet"):
            first, last = (event for event in heard if event.what == what)
            shared = set(first.losses) & set(last.losses)
            assert shared
            assert sum(last.losses[k] for k in shared) < sum(first.losses[k] for k in shared)
        detector, size, classifier = load_models(detr, resnet)
        assert size == train.DETECTOR_SIZE
        out = detector(torch.zeros(1, 3, size[1], size[0]))
        assert out.logits.shape == (1, 24, len(COARSE) + 1)
        assert classifier(torch.zeros(2, 3, 64, 64)).shape == (2, len(FINE))

    def test_all_trains_both_with_the_same_settings(self, tmp_path, monkeypatch):
        calls = []

        def trainer(world, out, budget, **options):
            calls.append((world, budget, options["scenes"], options["seed"], options["device"]))
            return out

        monkeypatch.setattr(train, "train_detector", trainer)
        monkeypatch.setattr(train, "train_classifier", trainer)
        made = train.train("all", world=WORLD, out=tmp_path, steps=5, scenes=7, seed=3)
        assert set(made) == {"detr", "resnet"}
        assert calls == [(WORLD, Budget(steps=5), 7, 3, "cpu")] * 2

    def test_an_unknown_model_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="'vit'"):
            train.train("vit", world=WORLD, out=tmp_path, steps=1)

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


def load_models(detr_folder: Path, resnet_folder: Path):
    """(detector, its input size, classifier), read from their files as any program might."""
    from safetensors.torch import load_file
    from transformers import DetrForObjectDetection

    detector = DetrForObjectDetection.from_pretrained(detr_folder, local_files_only=True).eval()
    config = json.loads((resnet_folder / "config.json").read_text())
    classifier = build_lab_resnet(config)
    classifier.load_state_dict(load_file(resnet_folder / "model.safetensors"))
    size = json.loads((detr_folder / "preprocessor.json").read_text())["size"]
    return detector, tuple(size), classifier.eval()


class TestCurve:
    def test_a_log_is_read_back_and_drawn(self, tmp_path):
        rows = [{"step": 20, "label": 2.0}, {"step": 40, "label": 0.5, "top1": 0.75}]
        write_log(tmp_path / "log.csv", rows)
        series = read_log(tmp_path / "log.csv")
        assert series == {"label": [(20, 2.0), (40, 0.5)], "top1": [(40, 0.75)]}
        picture = draw_curves({"resnet": tmp_path / "log.csv"}, tmp_path / "curve.png")
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        with pytest.raises(UsageError, match=r"other\.csv"):
            read_log(tmp_path / "other.csv")
