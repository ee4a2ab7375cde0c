"""Choosing weights: local caches, a hub on localhost, and no network at all."""

import contextlib
import errno
import hashlib
import http.server
import json
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet50

from labkit.bench import run as run_module
from labkit.bench.progress import Reporter
from labkit.bench.run import run_benchmark, run_comparison
from labkit.cli.main import main
from labkit.core.errors import WeightsError
from labkit.core.types import Workload
from labkit.live import settings as settings_module
from labkit.live.inference import prepare_rungs
from labkit.live.settings import LiveSettings
from labkit.models import download as download_module
from labkit.models import weights
from labkit.models.detectors.catalogue import detectors
from labkit.models.detr_files import load_detr
from labkit.models.networks import build
from labkit.pipelines.ladder import rung

from conftest import further  # isort: skip


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Empty caches; nothing of the user's is seen or touched."""
    torch.hub.set_dir(str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves files as a model hub does: commit and hash in the headers."""

    files: ClassVar[dict[str, bytes]] = {}
    commit = weights.DETR_COMMIT

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        content = self.files.get(self.path.split("?")[0])
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(Hub, "files", {})
    yield address
    server.shutdown()
    server.server_close()


HUBS_CONFIG = {"model_type": "detr", "backbone": "resnet50", "use_timm_backbone": True, "num_queries": 100}
"""What decides the network in the hub's config.json: its backbone is timm's."""


@pytest.fixture(scope="module")
def detr_folder(tmp_path_factory):
    """DETR's files as the hub has them, with random weights: torchvision's names in the backbone."""
    folder = tmp_path_factory.mktemp("detr")
    detr = build(weights.Weights("detr_r50", "random", None, "seed 9", "")).module.detr
    detr.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state = {name: tensor for name, tensor in state.items() if ".backbone." not in name}
    torch.manual_seed(9)
    for name, tensor in backbone_with_statistics().state_dict().items():
        if not name.startswith("fc."):
            state[f"model.backbone.conv_encoder.model.{name}"] = tensor
    save_file(state, folder / "model.safetensors")
    names = {str(i): f"thing {i}" for i in range(91)} | {"1": "person"}
    (folder / "config.json").write_text(json.dumps({**HUBS_CONFIG, "id2label": names}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_resize": False}))
    return folder


def backbone_with_statistics():
    """A random ResNet-50 whose batch norms are not all alike."""
    module = resnet50(weights=None).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.3, 0.6)
            torch.nn.init.normal_(part.bias, std=0.1)
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module


@pytest.fixture
def detr_files(detr_folder, monkeypatch):
    files = {name: (detr_folder / name).read_bytes() for name in weights.DETR_SHA256}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(weights, "DETR_SHA256", digests)
    return files


def test_the_hubs_names_reach_the_right_layers(detr_folder):
    """The loaded backbone computes what torchvision's does with the same tensors."""
    torch.manual_seed(9)
    theirs = backbone_with_statistics()
    theirs.load_state_dict(
        {
            name.removeprefix("model.backbone.conv_encoder.model."): tensor
            for name, tensor in load_file(detr_folder / "model.safetensors").items()
            if ".backbone." in name
        },
        strict=False,
    )
    ours = load_detr(detr_folder).model.backbone
    x = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            y = stage(y)
        found = ours.eval()(x, torch.ones(1, 96, 128))[-1][0]
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("model.input_projection.weight"), "input_projection.* is missing"),
        (lambda state: state.update(other=torch.zeros(3)), "other is unknown"),
    ],
    ids=["missing", "unknown"],
)
def test_files_of_another_network_are_refused(detr_folder, tmp_path, spoil, message):
    state = load_file(detr_folder / "model.safetensors")
    spoil(state)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((detr_folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=message):
        load_detr(tmp_path)


def test_without_a_network_random_weights_are_chosen_quickly_and_said(no_network):
    begun = time.monotonic()
    chosen = weights.resolve("detr_r50", "auto", seed=4)
    assert time.monotonic() - begun < 10
    assert (chosen.kind, chosen.path, chosen.revision) == ("random", None, "seed 4")
    assert "random weights" in chosen.note
    assert "unreachable" in chosen.note


def test_pretrained_weights_that_cannot_be_had_are_an_error(no_network):
    for model in ("resnet18", "detr_r50"):
        with pytest.raises(WeightsError, match="cannot be reached"):
            weights.resolve(model, "pretrained")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    def fetch(model, **_):
        asked.append(model)
        raise WeightsError("no answer")

    monkeypatch.setattr(weights, "fetch", fetch)
    monkeypatch.setattr(weights, "_refused", [])
    assert not weights.have_pretrained(("detr_r50", "resnet18"))
    assert not weights.have_pretrained(("detr_r50", "resnet18"))
    assert asked == ["detr_r50"]


def test_a_benchmark_asks_the_hub_for_the_models_of_its_rungs_alone(monkeypatch):
    class Asked(Exception):
        pass

    def fetch(model, **_):
        raise Asked(model)

    monkeypatch.setattr(weights, "cached", lambda model: None)
    monkeypatch.setattr(weights, "fetch", fetch)
    for name, model in (("resnet_linear_cpu", "resnet18"), ("detr_opencv_cpu", "detr_r50")):
        with pytest.raises(Asked, match=model):
            run_benchmark([rung(name)], workload=Workload(size=(64, 48)))


def test_what_is_not_cached_is_fetched_before_it_is_done_without(monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "_refused", [])
    monkeypatch.setattr(weights, "cached", lambda model: None if model == "resnet18" else model)
    monkeypatch.setattr(weights, "fetch", lambda model, **_: asked.append(model))
    assert weights.have_pretrained(("detr_r50", "resnet18"))
    assert asked == ["resnet18"]


def test_a_host_that_never_answers_costs_the_time_out_only(monkeypatch):
    hold = threading.Event()

    def never(*_, **__):
        hold.wait(20)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", never)
    monkeypatch.setattr(weights, "TIMEOUT_S", 0.2)
    begun = time.monotonic()
    with pytest.raises(WeightsError, match=r"no answer .* within 0.2 s"):
        weights.fetch("resnet18", progress=False)
    assert time.monotonic() - begun < 5
    hold.set()


@pytest.fixture(params=["never", "drip"])
def hanging_hub(request, monkeypatch):
    """A hub that accepts every connection and then says nothing, or a byte of its answer now and then."""
    asked, over = [], threading.Event()

    def answer(connection):
        asked.append(connection)
        for byte in b"HTTP/1.1 200 OK\r\nETag: " + b"a" * 10_000 if request.param == "drip" else b"":
            if over.wait(0.05):
                return
            try:
                connection.send(bytes([byte]))
            except OSError:
                return

    def serve():
        while not over.is_set():
            try:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(weights, "RESNET18_URL", f"{address}/resnet18-00000000.pth")
        yield asked
        over.set()
        for connection in asked:
            connection.close()


@pytest.mark.parametrize("model", ["detr_r50", "resnet18"])
def test_a_hub_that_hangs_has_one_deadline_and_leaves_nothing(model, hanging_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "START_S", 1.0)
    begun = time.monotonic()
    chosen = weights.resolve(model, "auto")
    assert time.monotonic() - begun < download_module.IMPORT_S
    assert chosen.kind == "random" and hanging_hub
    assert re.search(r"given up after \d+ s, in which 0\.0 of \d+ MB came \(the deadline is 1 s", chosen.note)
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess):  # of another test, which has ended
            assert "labkit.models.download" not in child.cmdline()
    assert not list((tmp_path / "torch").rglob("*.partial"))


def _by_bench(told):
    run_benchmark([rung("resnet_linear_cpu")], workload=Workload(size=(64, 48)), reporter=told)


def _by_compare(told):
    run_comparison("resnet_linear_cpu", "resnet_pil_cpu", workload=Workload(size=(64, 48)), reporter=told)


def _by_live(told):
    settings = LiveSettings(rung="resnet_linear_cpu", size=(64, 48)).resolved("photos")
    assert settings.model_set == "lab"
    told.note(" ".join(prepare_rungs(settings, told.step).weights))


def _by_fetch(told):
    main(["weights", "resnet18", "--fetch"])


@pytest.mark.parametrize("way", [_by_live, *further(_by_bench, _by_compare, _by_fetch)])
def test_no_way_to_weights_waits_for_a_hub_that_hangs(way, hanging_hub, monkeypatch, capsys):
    class Chosen(Exception):
        pass

    def chosen(*_):  # what follows is measured elsewhere
        raise Chosen

    class Told(Reporter):
        def note(self, text):
            print(text)

    monkeypatch.setattr(download_module, "START_S", 1.0)
    monkeypatch.setattr(weights, "_refused", [])
    monkeypatch.setattr(settings_module, "packaged_file", lambda: None)
    monkeypatch.setattr(run_module, "try_own_loops", chosen)
    begun = time.monotonic()
    with contextlib.suppress(Chosen, SystemExit):
        way(Told())
    assert time.monotonic() - begun < download_module.IMPORT_S
    said = capsys.readouterr()
    told = said.out + said.err
    assert re.search(r"given up after \d+ s, .*the deadline is 1 s for the first byte, and", told)


def test_the_cache_and_the_labs_own_models_ask_no_hub(hanging_hub):
    assert weights.cached("detr_r50") is None
    assert build(weights.lab_weights("lab_detr")).labels
    assert not hanging_hub


@pytest.fixture
def lab_copy(tmp_path, monkeypatch):
    folder = tmp_path / "lab"
    shutil.copytree(weights.LAB_FOLDER, folder)
    monkeypatch.setattr(weights, "LAB_FOLDER", folder)
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "half a file": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "an empty file": lambda path: path.write_bytes(b""),
    "no file": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor.json", "sha256.json"])
def test_a_damaged_model_of_the_lab_is_one_sentence(lab_copy, name, damage):
    path = lab_copy / "detr" / name
    DAMAGES[damage](path)
    trained = weights.Weights("lab_detr", "lab", path.parent, "mine", "")
    for load in (weights.lab_weights, lambda _: build(trained)):
        with pytest.raises(WeightsError) as caught:
            load("lab_detr")
        assert "lab/detr/" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_model_that_names_no_weights_is_refused(lab_copy):
    (lab_copy / "resnet" / "sha256.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"resnet/config\.json is damaged"):
        weights.lab_weights("lab_resnet")


def test_random_is_never_looked_for(no_network):
    assert weights.resolve("resnet18", "random").kind == "random"
    with pytest.raises(WeightsError, match="nosuch"):
        weights.resolve("nosuch")


def test_detr_comes_from_the_hub_and_then_from_the_cache(hub, detr_files, detr_folder):
    where = f"/{weights.DETR_REPO}/resolve/{weights.DETR_COMMIT}/"
    Hub.files.update({where + name: content for name, content in detr_files.items()})
    fetched = weights.resolve("detr_r50", "pretrained")
    assert (fetched.kind, fetched.revision) == ("pretrained", weights.DETR_COMMIT)
    network = build(fetched)
    local = weights.Weights("detr_r50", "pretrained", detr_folder, weights.DETR_COMMIT, "")
    assert network.sha256 == build(local).sha256
    assert network.labels[1] == "person"
    Hub.files.clear()
    assert weights.cached("detr_r50").path == fetched.path


def test_detr_that_is_not_what_was_pinned_is_refused(hub, detr_files):
    where = f"/{weights.DETR_REPO}/resolve/{weights.DETR_COMMIT}/"
    Hub.files.update({where + name: content for name, content in detr_files.items()})
    Hub.files[where + "config.json"] += b" "
    with pytest.raises(WeightsError, match=r"config\.json is damaged"):
        weights.fetch("detr_r50", progress=False)
    with pytest.raises(WeightsError, match="delete it"):
        weights.cached("detr_r50")


@pytest.mark.parametrize("model", [row.name for row in detectors().values() if not row.sha256])
def test_what_no_row_pins_is_recorded_at_the_first_fetch_and_told(hub, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    row = detectors()[model]
    monkeypatch.setattr(Hub, "commit", row.revision)
    where = f"/{row.repo}/resolve/{row.revision}/"
    Hub.files.update({where + name: name.encode() for name in weights.DETR_SHA256})
    with pytest.raises(SystemExit, match="0"):
        main(["weights", model, "--fetch"])
    told = capsys.readouterr().out
    assert f"{model}: pretrained, fetched just now; no checksum was known for config.json, " in told
    assert "model.safetensors: recorded now, and compared from now on; " + row.revision[:12] in told
    assert weights.cached(model).note == "pretrained, from the local cache"
    shutil.rmtree(tmp_path / "hub")
    Hub.files[where + "model.safetensors"] += b"other"
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        weights.fetch(model, progress=False)


def test_a_hub_without_the_files_is_an_error_of_one_line(hub):
    with pytest.raises(WeightsError) as caught:
        weights.fetch("detr_r50", progress=False)
    assert "facebook/detr-resnet-50" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resnet_is_fetched_checked_and_cached(hub, monkeypatch):
    import io

    from torchvision.models import resnet18

    buffer = io.BytesIO()
    torch.save(resnet18(weights=None).state_dict(), buffer)
    content = buffer.getvalue()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(weights, "RESNET18_URL", f"{hub}/models/{name}")
    Hub.files[f"/models/{name}"] = content
    assert weights.cached("resnet18") is None
    another = weights._torch_hub() / "checkpoints" / f"{name}.0123.partial"  # which another process fetches
    another.parent.mkdir(parents=True)
    another.touch()
    fetched = weights.resolve("resnet18", "pretrained")
    assert fetched.revision == hashlib.sha256(content).hexdigest()
    assert sorted(another.parent.iterdir()) == sorted([another, fetched.path])
    assert build(fetched).labels[281] == "tabby"
    assert weights.cached("resnet18").path == fetched.path
    fetched.path.write_bytes(content[:-1] + b"?")
    with pytest.raises(WeightsError, match="is damaged"):
        weights.cached("resnet18")


def test_a_cache_of_another_user_costs_the_names_alone(hub, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(weights, "RESNET18_URL", f"{hub}/models/resnet18-00000000.pth")
    for name in ("is_file", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    chosen = weights.resolve("resnet18", "auto")
    assert chosen.kind == "random" and "cannot be used ([Errno 13]" in chosen.note


def test_a_wrong_file_from_the_hub_is_not_kept(hub, monkeypatch):
    monkeypatch.setattr(weights, "RESNET18_URL", f"{hub}/models/resnet18-00000000.pth")
    Hub.files["/models/resnet18-00000000.pth"] = b"something else"
    with pytest.raises(WeightsError, match="failed"):
        weights.fetch("resnet18", progress=False)
    assert weights.cached("resnet18") is None
