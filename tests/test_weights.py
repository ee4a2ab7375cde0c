"""Choosing weights: local caches, a hub on localhost, and no network at all."""

import hashlib
import http.server
import json
import socket
import threading
import time
from typing import ClassVar

import pytest
import torch

from labkit.errors import WeightsError
from labkit.models import weights
from labkit.models.networks import build


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
    commit = "0123456789abcdef0123456789abcdef01234567"

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


@pytest.fixture(scope="module")
def detr_files(tmp_path_factory):
    """A DETR of the full architecture with random weights, saved as the hub's files are."""
    folder = tmp_path_factory.mktemp("detr")
    network = build(weights.Weights("detr_r50", "random", None, "seed 9", ""))
    detr = network.module.detr
    detr.config.id2label = {**{i: f"thing {i}" for i in range(91)}, 1: "person"}
    detr.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_resize": False}))
    return network.sha256, {name: (folder / name).read_bytes() for name in weights.DETR_FILES}


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
    begun = time.monotonic()
    with pytest.raises(WeightsError, match=r"no answer .* within 0.2 s"):
        weights.fetch("resnet18", progress=False, timeout_s=0.2)
    assert time.monotonic() - begun < 5
    hold.set()


def test_random_is_never_looked_for(no_network):
    assert weights.resolve("resnet18", "random").kind == "random"
    with pytest.raises(WeightsError, match="nosuch"):
        weights.resolve("nosuch")


def test_detr_comes_from_the_hub_and_then_from_the_cache(hub, detr_files, monkeypatch):
    sha256, files = detr_files
    where = f"/{weights.DETR_REPO}/resolve/"
    for name, content in files.items():
        Hub.files[f"{where}{weights.DETR_REVISION}/{name}"] = content
        Hub.files[f"{where}{Hub.commit}/{name}"] = content
    fetched = weights.resolve("detr_r50", "pretrained")
    assert fetched.kind == "pretrained"
    assert fetched.revision == Hub.commit  # the branch's commit is what a row records
    network = build(fetched)
    assert network.sha256 == sha256
    assert network.labels[1] == "person"
    Hub.files.clear()
    assert weights.cached("detr_r50").path == fetched.path


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
    fetched = weights.resolve("resnet18", "pretrained")
    assert fetched.revision == hashlib.sha256(content).hexdigest()
    assert build(fetched).labels[281] == "tabby"
    assert weights.cached("resnet18").path == fetched.path
    fetched.path.write_bytes(content[:-1] + b"?")
    with pytest.raises(WeightsError, match="is damaged"):
        weights.cached("resnet18")


def test_a_wrong_file_from_the_hub_is_not_kept(hub, monkeypatch):
    monkeypatch.setattr(weights, "RESNET18_URL", f"{hub}/models/resnet18-00000000.pth")
    Hub.files["/models/resnet18-00000000.pth"] = b"something else"
    with pytest.raises(WeightsError, match="failed"):
        weights.fetch("resnet18", progress=False)
    assert weights.cached("resnet18") is None
