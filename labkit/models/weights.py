"""Weights: from the local caches first, from the network only if it answers quickly.

| model      | pretrained source         | pinned by                                  |
|------------|---------------------------|--------------------------------------------|
| `resnet18` | torchvision IMAGENET1K_V1 | SHA-256 prefix in the file's name          |
| `detr_r50` | `facebook/detr-resnet-50` | commit, and the SHA-256 of each file       |
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from labkit.core.errors import WeightsError

RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
DETR_REPO = "facebook/detr-resnet-50"
DETR_COMMIT = "1d5f47bd3bdd2c4bbfa585418ffe6da5028b4c0b"
DETR_SHA256 = {
    "config.json": "e7bcf3992363f27717a863f14b193140ad2e41d4338ee012730e58a92cae17e6",
    "preprocessor_config.json": "0673fea2a6d3cf92cdbab3c7426c0ecdf8a4729a2a4d5199033dcd66a2b8759b",
    "model.safetensors": "830f5e2eeaada8c8c8281779dcc8ab12833972eb8514ed0a35be6c1d4420ad81",
}
LAB_FOLDER = Path(__file__).parent / "lab"
MODELS = {"full": ("detr_r50", "resnet18"), "lab": ("lab_detr", "lab_resnet")}
"""(detector, classifier) of each model set."""
TIMEOUT_S = 3.0

Origin = Literal["pretrained", "random", "lab"]


@dataclass(frozen=True)
class Weights:
    """The weights that a model is built with.

    Attributes:
        model: "resnet18", "detr_r50", "lab_resnet" or "lab_detr".
        kind: "pretrained", "random" or "lab".
        path: file (resnet18) or folder (the others); None for random weights.
        revision: commit or hash that pins them; "seed N" for random weights.
        note: one line for the user on how they were chosen.
    """

    model: str
    kind: Origin
    path: Path | None
    revision: str
    note: str


def resolve(
    model: str, wanted: str = "auto", *, seed: int = 0, progress: bool = False, timeout_s: float = TIMEOUT_S
) -> Weights:
    """Chooses the weights of a `full` model.

    Args:
        model: "resnet18" or "detr_r50".
        wanted: "pretrained" (or an error), "random", or "auto": pretrained where they are
            cached or can be fetched, else random.
        seed: of random weights.
        progress: show a progress bar while fetching.
        timeout_s: how long the network may take to answer.

    Raises:
        WeightsError: pretrained weights were asked for and cannot be had, or are damaged.
    """
    if model not in _FETCH:
        raise WeightsError(f"no pretrained weights are known for {model!r}; known: {', '.join(_FETCH)}")
    if wanted == "random":
        return _random(model, seed, "random weights, as asked: speed is real, names mean nothing")
    found = cached(model)
    if found is not None:
        return found
    try:
        return fetch(model, progress=progress, timeout_s=timeout_s)
    except WeightsError as error:
        if wanted == "pretrained":
            raise
        return _random(
            model,
            seed,
            f"no pretrained weights here ({error}); going on with random weights: speed is real, "
            "names mean nothing. With a network: labkit weights --fetch",
        )


def cached(model: str) -> Weights | None:
    """Pretrained weights from the local caches of torch and the hub, or None."""
    return _CACHED[model]()


def fetch(model: str, *, progress: bool = True, timeout_s: float = TIMEOUT_S) -> Weights:
    """Downloads pretrained weights into the library's own cache.

    Raises:
        WeightsError: no answer within `timeout_s`, or what came is not what was pinned.
    """
    return _FETCH[model](progress, timeout_s)


def lab_weights(model: str) -> Weights:
    """The weights of the small models that ship in the package.

    Raises:
        WeightsError: they are not there (an incomplete installation).
    """
    folder = LAB_FOLDER / model.removeprefix("lab_")
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(f"the lab's own weights are missing at {folder}; reinstall labkit")
    return Weights(model, "lab", folder, "shipped", "the lab's small model, trained on its own scenes")


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


def _random(model: str, seed: int, note: str) -> Weights:
    return Weights(model, "random", None, f"seed {seed}", note)


def _resnet18_path() -> Path:
    return _torch_hub() / "checkpoints" / Path(urlsplit(RESNET18_URL).path).name


def _torch_hub() -> Path:
    """The folder of `torch.hub.get_dir()`, by the same rules but without importing torch."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir())
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser() / "hub"


def _check_resnet18(path: Path) -> str:
    wanted = path.stem.rsplit("-", 1)[1]
    digest = file_sha256(path)
    if not digest.startswith(wanted):
        raise WeightsError(
            f"{path} is damaged (SHA-256 {digest[:8]}..., not {wanted}...); delete it and fetch again"
        )
    return digest


def _cached_resnet18() -> Weights | None:
    path = _resnet18_path()
    if not path.is_file():
        return None
    return Weights("resnet18", "pretrained", path, _check_resnet18(path), "pretrained, from the local cache")


def _fetch_resnet18(progress: bool, timeout_s: float) -> Weights:
    import torch

    _require_answer(RESNET18_URL, timeout_s)
    path = _resnet18_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _socket_timeout(timeout_s):
        try:
            torch.hub.download_url_to_file(
                RESNET18_URL, str(path), hash_prefix=path.stem.rsplit("-", 1)[1], progress=progress
            )
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"fetching {RESNET18_URL} failed: {error}") from error
    return Weights("resnet18", "pretrained", path, _check_resnet18(path), "pretrained, fetched just now")


def _hub_file(name: str, **options: Any) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(DETR_REPO, name, revision=DETR_COMMIT, **options))


def _check_detr(paths: Sequence[Path]) -> Path:
    """The folder of DETR's files, if they are what was pinned."""
    for path in paths:
        digest = file_sha256(path)
        if digest != DETR_SHA256[path.name]:
            raise WeightsError(
                f"{path} is damaged (SHA-256 {digest[:8]}..., not {DETR_SHA256[path.name][:8]}...); "
                "delete it and what it points to, and fetch again"
            )
    return paths[0].parent


def _cached_detr() -> Weights | None:
    try:
        paths = [_hub_file(name, local_files_only=True) for name in DETR_SHA256]
    except (OSError, ValueError):
        return None
    return Weights(
        "detr_r50", "pretrained", _check_detr(paths), DETR_COMMIT, "pretrained, from the local cache"
    )


def _fetch_detr(progress: bool, timeout_s: float) -> Weights:
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    _require_answer(constants.ENDPOINT, timeout_s)
    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        paths = [_hub_file(name, etag_timeout=timeout_s) for name in DETR_SHA256]
    except Exception as error:  # the hub's client raises errors of several libraries
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"fetching {DETR_REPO} failed: {first_line}") from error
    return Weights("detr_r50", "pretrained", _check_detr(paths), DETR_COMMIT, "pretrained, fetched just now")


def _require_answer(url: str, timeout_s: float) -> None:
    """Raises WeightsError unless the host of `url` accepts a connection within `timeout_s`.

    Name look-ups cannot be given a deadline, hence the thread.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return  # the client goes through a proxy that only it can ask
    problem: list[str] = [f"no answer from {host} within {timeout_s:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=timeout_s).close()
            problem.clear()
        except OSError as error:
            problem[0] = f"{host} cannot be reached: {error.strerror or error}"

    thread = threading.Thread(target=connect, daemon=True, name="labkit-reach")
    thread.start()
    thread.join(timeout_s + 0.5)
    if problem:
        raise WeightsError(problem[0])


class _socket_timeout:  # noqa: N801 - used as a statement
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(self._seconds)

    def __exit__(self, *_: object) -> None:
        socket.setdefaulttimeout(self._before)


_CACHED: dict[str, Callable[[], Weights | None]] = {"resnet18": _cached_resnet18, "detr_r50": _cached_detr}
_FETCH: dict[str, Callable[[bool, float], Weights]] = {"resnet18": _fetch_resnet18, "detr_r50": _fetch_detr}
