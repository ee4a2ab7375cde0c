"""What can be known of the TensorRT engine without a GPU: its ONNX, what it asks for, how it is called.

TensorRT itself is a stand-in here, but for the network: that is run by ONNX Runtime.
"""

import ctypes
import enum
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.bench.frames import collect
from labkit.core.errors import UnavailableError, UsageError
from labkit.models import engines
from labkit.models.box_rows import BoxRows
from labkit.models.engines.build import Request, build_engine
from labkit.models.fused import FusedNetwork
from labkit.models.networks import build
from labkit.models.trimmed import TrimmedDetr
from labkit.models.weights import lab_weights

SIZE = (160, 128)
REFUSED = 13


class FakePlan:
    """One input and one output of six floats each; running it doubles."""

    num_io_tensors = 2

    def __init__(self, log):
        self.log = log

    def get_tensor_name(self, i):
        return ("frame", "found")[i]

    def get_tensor_mode(self, name):
        return "in" if name == "frame" else "out"

    def get_tensor_dtype(self, name):
        return sys.modules["tensorrt"].DataType.FLOAT

    def get_tensor_shape(self, name):
        return (2, 3)

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name, address):
        self.log.append((name, address))

    def execute_async_v3(self, stream):
        where = dict(self.log)
        self.log.append(("stream", stream))
        given, out = (ctypes.cast(where[name], ctypes.POINTER(ctypes.c_float)) for name in ("frame", "found"))
        for i in range(6):
            out[i] = 2 * given[i]
        return stream != REFUSED


@pytest.fixture
def engine(monkeypatch):
    """The engine's module with a stand-in for TensorRT that notes what it is asked."""
    fake = types.ModuleType("tensorrt")
    log = []
    state = types.SimpleNamespace(log=log, refuses=False, plan=b"a plan")

    class Logger:
        WARNING = 2

        def __init__(self, level):
            pass

    class Builder:
        def __init__(self, logger):
            pass

        def create_network(self, flags):
            log.append(("flags", flags))
            return "network"

        def create_builder_config(self):
            return types.SimpleNamespace(set_memory_pool_limit=lambda kind, size: log.append((kind, size)))

        def build_serialized_network(self, network, settings):
            return state.plan

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, logger):
            assert network == "network"
            assert ("plugins", "") in log, "or roi_align is not known"

        def parse(self, data):
            log.append(("parsed", len(data)))
            return not state.refuses

        def get_error(self, i):
            return "no such operator: Frobnicate"

    fake.__version__ = "11.0"
    fake.init_libnvinfer_plugins = lambda logger, namespace: log.append(("plugins", namespace)) or True
    fake.Logger, fake.Builder, fake.OnnxParser = Logger, Builder, OnnxParser
    fake.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", {"STRONGLY_TYPED": 1})
    fake.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
    fake.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
    kinds = ("FLOAT", "HALF", "INT32", "INT64", "BF16", "BOOL", "UINT8")
    fake.DataType = enum.Enum("DataType", kinds)

    def deserialize(plan):
        assert ("plugins", "") in log, "or roi_align is not known"
        return FakePlan(log) if plan == b"a plan" else None

    fake.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine=deserialize)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.delitem(sys.modules, "labkit.models.engines.tensorrt", raising=False)
    module = importlib.import_module("labkit.models.engines.tensorrt")
    yield types.SimpleNamespace(module=module, state=state, log=log)
    sys.modules.pop("labkit.models.engines.tensorrt", None)


@pytest.fixture
def request_of():
    detector, classifier = build(lab_weights("lab_detr")), build(lab_weights("lab_resnet"))
    lean = TrimmedDetr(detector.module, detector.input.output_size(SIZE))
    whole = FusedNetwork(lean, classifier.module, detector.input, classifier.crop_input, BoxRows(3)).eval()

    def make(precision):
        example = torch.zeros(1, SIZE[1], SIZE[0], 3, dtype=torch.uint8)
        return Request(whole, example, "whole-test", device="cuda", precision=precision)

    return make


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-3), ("fp16", 0.02)])
@pytest.mark.extended
def test_the_exported_frame_gives_the_modules_answers(engine, request_of, precision, apart, tmp_path):
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    wanted = request_of(precision)
    engine.module.export(wanted, tmp_path / "model.onnx")
    frame = torch.from_numpy(collect("scenes", SIZE).frames[0].image)[None]
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    ((got,),) = session.run(None, {session.get_inputs()[0].name: frame.numpy()})
    with torch.no_grad():
        (truth,) = wanted.module(frame).numpy()
    sure = truth[:, 4] > 0.5
    assert sure.any()
    np.testing.assert_allclose(got[sure][:, :5], truth[sure][:, :5], atol=apart)
    np.testing.assert_array_equal(got[sure][:, [5, 7]], truth[sure][:, [5, 7]])
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16}
    found = {w.data_type for w in graph.initializer if np.prod(w.dims) > 1000} & set(kinds.values())
    assert found == {kinds[precision]}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    users = [node.op_type for node in graph.node if graph.input[0].name in node.input]
    assert users == ["Cast"]  # TensorRT lets bytes in, and wants them cast at once


def test_the_graphs_own_formats_are_kept(engine, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    assert engine.module._plan_of(tmp_path / "model.onnx") == b"a plan"
    assert ("flags", 1 << 1) in engine.log  # strongly typed
    assert ("parsed", 4) in engine.log


def test_a_refused_network_is_said_in_the_parsers_words(engine, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    engine.state.refuses = True
    with pytest.raises(UnavailableError, match="Frobnicate"):
        engine.module._plan_of(tmp_path / "model.onnx")
    engine.state.refuses, engine.state.plan = False, None
    with pytest.raises(UnavailableError, match="could not build"):
        engine.module._plan_of(tmp_path / "model.onnx")
    with pytest.raises(UnavailableError, match="another GPU or version"):
        engine.module.TensorRtEngine(b"an old plan")


def test_a_call_gives_the_callers_own_memory_and_torchs_stream(engine, monkeypatch):
    stream = types.SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    run = engine.module.TensorRtEngine(b"a plan")
    x = torch.arange(6.0).reshape(3, 2).T  # not contiguous
    first = run(x)
    torch.testing.assert_close(first, 2 * x)
    assert ("stream", 77) in engine.log
    halves = run(x.half())  # a plan reads plain memory: other formats are converted
    torch.testing.assert_close(halves, 2 * x)
    with pytest.raises(UsageError, match=r"inputs of \(2, 3\), not \(3, 2\)"):
        run(torch.ones(3, 2))
    kept = first.clone()
    second = run(torch.ones(2, 3))
    torch.testing.assert_close(first, kept)
    torch.testing.assert_close(second, torch.full((2, 3), 2.0))
    stream.cuda_stream = 0  # the default one, on which TensorRT would wait
    waits = []
    own = types.SimpleNamespace(cuda_stream=5, wait_stream=lambda other: waits.append((5, other.cuda_stream)))
    stream.wait_stream = lambda other: waits.append((0, other.cuda_stream))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: own)
    run(x)
    assert ("stream", 5) in engine.log
    assert waits == [(5, 0), (0, 5)]
    stream.cuda_stream = REFUSED
    with pytest.raises(UnavailableError, match="did not run"):
        run(x)


def test_without_a_gpu_it_says_so(engine, request_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="NVIDIA GPU"):
        build_engine("tensorrt", request_of("fp16"))


def test_without_the_package_it_says_how_to_get_it(monkeypatch, request_of):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "labkit.models.engines.tensorrt", raising=False)
    with pytest.raises(UnavailableError, match="pip install tensorrt"):
        build_engine("tensorrt", request_of("fp16"))


# Against NVIDIA's own Python bindings, which load without TensorRT once its libraries' names are there

BINDINGS = Path(__file__).parents[1] / ".venv" / "tensorrt_api"
OBJECTS = {
    "self._runtime": "Runtime", "self._plan": "ICudaEngine", "self._context": "IExecutionContext",
    "builder": "Builder", "parser": "OnnxParser", "settings": "IBuilderConfig",
}  # fmt: skip
LOOK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as trt
def has(path):
    found = trt
    for name in path.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True
print(json.dumps({path: has(path) for path in sys.argv[2:]}))
"""


def what_the_engine_calls():
    """Names below `tensorrt` that the engine's source uses, of classes and of their objects."""
    source = (Path(engines.__file__).parent / "tensorrt.py").read_text()
    names = {name for name in re.findall(r"\btrt((?:\.\w+)+)", source) if name != ".__version__"}
    for variable, kind in OBJECTS.items():
        names |= {f".{kind}.{name}" for name in re.findall(rf"{re.escape(variable)}\.(\w+)", source)}
    return sorted(name[1:] for name in names)


def what(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def stand_ins(library, folder):
    """Libraries of the names that the bindings load, in which every function is there and none works."""
    symbols = what("readelf", "--wide", "--dyn-syms", library)
    functions = re.findall(r" UND (\w*(?:Infer|Onnx|PluginRegistry)\w*)$", symbols, re.MULTILINE)
    source = folder / "stand_in.c"
    source.write_text("".join(f"long {function}[8];\n" for function in functions))
    for name in re.findall(r"\[(libnv\S+)\]", what("readelf", "--wide", "--dynamic", library)):
        what("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source)


def test_nvidias_bindings_have_what_the_engine_calls(tmp_path):
    library = next(BINDINGS.glob("tensorrt_bindings/tensorrt*.so"), None)
    if library is None:
        pytest.skip("no bindings of TensorRT here; .ci/get_tensorrt_api fetches them")
    if not (shutil.which("gcc") and shutil.which("readelf")):
        pytest.skip("needs gcc and readelf")
    stand_ins(library, tmp_path)
    names = what_the_engine_calls()
    assert {"Runtime.deserialize_cuda_engine", "OnnxParser.parse", "DataType.HALF"} <= {*names}
    looked = subprocess.run(
        [sys.executable, "-c", LOOK, BINDINGS, *names],
        capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}, check=True,
    )  # fmt: skip
    known = json.loads(looked.stdout)
    assert [name for name in names if not known[name]] == []
