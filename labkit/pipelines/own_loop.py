"""A loop of the user's own as a rung: typed into a notebook's cell, imported, or read from a file.

    def my_loop(frames):              # frames in, (frame, detections) out
        for frame in frames:
            with labkit.span("infer"):
                logits = model(prepare(frame.image))
            yield frame, {"boxes": ..., "scores": ..., "labels": ...}

    labkit.bench(my_loop, against="detr_opencv_cpu")

It goes to the measuring process by value, with what it refers to. A second parameter gets the
prepared networks of the rung that it is compared with; a plain function of an image is wrapped.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import textwrap
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from labkit.core import errors
from labkit.core.errors import LabError, LoopError, UsageError
from labkit.core.terminal import screen
from labkit.core.trace import note_taken
from labkit.core.types import Detections, Frame, Preparation, Rung
from labkit.models.callables import OwnLabels
from labkit.pipelines.ladder import LADDER, OWN_RUNGS
from labkit.pipelines.ladder import rung as rung_named
from labkit.pipelines.plain_answers import as_detections
from labkit.sources.spec import redact

PREVIOUS = "previous"
_VERSION_LETTERS = 7
_QUOTED_ADDRESS = re.compile(r"""(["'])([A-Za-z][A-Za-z0-9+.-]*://.*?)\1""")


@dataclass(eq=False)
class Loop:
    """A schedule around a user's function; what it raises is a `LoopError` at the user's own lines.

    Attributes:
        name: of the function.
        form: "frames" (a generator of frames), "networks" (of frames and prepared networks), or
            "image" (a plain function of one image).
        source: text of the function, and of those that it uses and were written beside it.
        sha256: of that text.
        folder: where modules beside the function's file are found; None for a cell.
    """

    function: Callable[..., Any] | None
    name: str
    form: str
    source: str
    sha256: str
    folder: str | None = None
    _pickled: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.__qualname__ = f"{self.name}@{self.sha256}"  # part of the keys of cached accuracies

    def __call__(self, frames: Iterable[Frame], net: Any) -> Iterator[tuple[Frame, Detections]]:
        """Runs the loop; its answers, in whatever form, as `Detections`.

        Raises:
            LoopError: the function failed, or answered what cannot be read.
        """
        _refuse_windows()
        try:
            function = self._function()
            labels = net if isinstance(net, OwnLabels) else OwnLabels(())
            taken = note_taken(frames)
            for answer in self._pairs(function, taken, net):
                yield self._read(answer, labels)
            if (left := next(taken, None)) is not None:
                raise UsageError(
                    f"{self.name} ended before frame {left.index}: it has to go on for as long as there are "
                    "frames; does a return or break stand in it?"
                )
        except (Exception, SystemExit) as error:
            places = traceback.extract_tb(error.__traceback__)
            own = any(not place.filename.startswith(_LAB) for place in places)
            if isinstance(error, LabError) and (not own or note_taken.__name__ in [p.name for p in places]):
                raise  # about the answers or the frames, not of something that the loop calls
            raise self._failure(error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "function": None, "_pickled": self.pickled()}

    def as_sent(self) -> Loop:
        """The loop as other processes get it: what it makes and keeps there is not in the user's own.

        Raises:
            UsageError: it uses something that cannot be sent.
        """
        return replace(self, function=None, _pickled=self.pickled())

    def keep_pickled(self) -> None:
        """Fixes what other processes get, before modules of the same names are imported from elsewhere."""
        self._pickled = self.pickled()

    def pickled(self) -> bytes:
        """The function with what it uses, as other processes get it.

        Raises:
            UsageError: it uses something that cannot be sent, such as an open file.
        """
        import cloudpickle

        module = sys.modules.get(getattr(self.function, "__module__", "") or "")
        by_value = self.folder is not None and module is not None and module.__name__ != "__main__"
        if self._pickled is not None:
            return self._pickled
        try:
            if by_value:
                cloudpickle.register_pickle_by_value(module)
            return cloudpickle.dumps(self.function)
        except Exception as error:
            raise UsageError(
                f"{self.name} cannot be sent to a process of its own: {type(error).__name__}: {error}; "
                "make what it uses (files, cameras, locks, sessions) inside the loop"
            ) from error
        finally:
            if by_value:
                cloudpickle.unregister_pickle_by_value(module)

    def _function(self) -> Callable[..., Any]:
        if self.function is None:
            import pickle

            if self.folder is not None and self.folder not in sys.path:
                sys.path.insert(0, self.folder)
            assert self._pickled is not None
            self.function = pickle.loads(self._pickled)
        return self.function

    def _pairs(self, function: Callable[..., Any], frames: Iterable[Frame], net: Any) -> Iterator[Any]:
        if self.form == "image":
            return ((frame, function(frame.image)) for frame in frames)
        return function(frames, net) if self.form == "networks" else function(frames)

    def _read(self, answer: Any, labels: OwnLabels) -> tuple[Frame, Detections]:
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Frame)):
            raise UsageError(f"{self.name} has to yield frame, found; it gave {_shown(answer)}")
        frame, found = answer
        try:
            return frame, as_detections(found, frame.size, labels.names, labels.fine_names)
        except UsageError as error:
            raise UsageError(f"{self.name}{self._given()}, frame {frame.index}: {error}") from error

    def _given(self) -> str:
        return " (has no yield, so it is given one image)" if self.form == "image" else ""

    def _failure(self, error: BaseException) -> LoopError:
        stopped = isinstance(error.__cause__, StopIteration)  # which leaves a generator without its lines
        places = traceback.extract_tb((error.__cause__ if stopped else error).__traceback__)
        return LoopError(
            f"{self.name}{self._given()} failed:",
            tuple((p.filename, p.lineno or 0, p.name) for p in places if not p.filename.startswith(_LAB)),
            "".join(traceback.format_exception_only(error)).strip().removeprefix(f"{errors.__name__}."),
        )


_LAB = str(Path(__file__).parent.parent)


def own_rung(loop: Callable[..., Any], against: str | Rung | None = None) -> Rung:
    """A user's loop as a rung, known by its name in this process from now on.

    Args:
        loop: a generator function of frames; of frames and prepared networks; or a plain function of
            one (H, W, 3) uint8 RGB image. Its attribute `group`, if it has one, says how many
            frames it answers at once.
        against: rung whose answers and speed it is compared with, and whose networks it gets.

    Raises:
        UsageError: it cannot be a loop, or has the name of one of the lab's rungs.
    """
    _refuse_network(loop)
    name = loop_name(loop)
    if not name.isidentifier():
        raise UsageError(f"a loop needs a name: write it with def, not as {name}")
    if any(name == rung.name for rung in LADDER):
        raise UsageError(f"{name} is the name of a rung of the lab; give your function another")
    form = _form(loop, name)
    other = None if against is None else rung_named(against) if isinstance(against, str) else against
    if form == "networks" and other is None:
        raise UsageError(
            f"{name} takes prepared networks as its second parameter; say whose: against='detr_opencv_cpu' "
            "(labkit.live: compare)"
        )
    source = source_of(loop)
    prepare = other.prepare if other is not None else Preparation("detect", form="own")
    if form != "networks":
        group = {"frames": loop.group} if hasattr(loop, "group") else {}
        options = {key: prepare.options[key] for key in ("resize",) if key in prepare.options}
        prepare = replace(prepare, form="own", engine="eager", options={**options, **group})
    rung = Rung(
        name, other.stage if other is not None else 0,
        Loop(loop, name, form, source, _sha256(source), _folder(loop)), prepare,
        changes=other.name if other is not None else None,
        reference=other.name if other is not None else name,
        about=(inspect.getdoc(loop) or "a loop of your own").splitlines()[0],
        needs=other.needs if other is not None and form == "networks" else (),
    )  # fmt: skip
    keep_previous(loop)
    OWN_RUNGS[name] = rung
    return rung


def own_loop(rung: Rung) -> Loop | None:
    """The user's loop that a rung runs; None for a rung of the lab."""
    return rung.run if isinstance(rung.run, Loop) else None


def as_rung(rung: str | Rung | Callable[..., Any], against: str | Rung | None = None) -> Rung:
    """The rung of a name, of a user's function, or "FILE.py:FUNCTION"; a rung is itself."""
    if isinstance(rung, Rung):
        return rung
    if isinstance(rung, str):
        in_file = ".py:" in rung or rung.endswith(".py")
        return own_rung(loop_from_file(rung), against) if in_file else rung_named(rung)
    if isinstance(rung, types.GeneratorType):
        name = rung.__name__
        raise UsageError(f"hand over the function {name} itself, not what it returns: {name}, without ()")
    if not callable(rung):
        _refuse_network(rung)
        raise UsageError(f"a rung is a name or a loop of yours, not {_shown(rung)}")
    return own_rung(rung, against)


def again(rung: Rung) -> Rung:
    """The same rung under a second name, to compare it with itself."""
    return replace(rung, name=f"{rung.name}@again")


def loop_from_file(spec: str) -> Callable[..., Any]:
    """The function that "FILE.py:FUNCTION" names.

    Raises:
        UsageError: there is no such file or function.
        LoopError: the file cannot be run.
    """
    place, _, name = (spec if ".py:" in spec else f"{spec}:").rpartition(":")
    path = Path(place).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {place}; a loop in a file is written FILE.py:FUNCTION")
    module_name = f"labkit_loops_{path.stem}"
    found = importlib.util.spec_from_file_location(module_name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent))
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        places = [p for p in traceback.extract_tb(error.__traceback__) if p.filename == str(path)]
        raise LoopError(
            f"{place} cannot be run:",
            tuple((p.filename, p.lineno or 0, p.name) for p in places),
            "".join(traceback.format_exception_only(error)).strip(),
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    if not name:
        named = " or ".join(f"{place}:{each}" for each in functions)
        raise UsageError(f"which function of {place}? {named or 'it has none'}")
    if not callable(getattr(module, name, None)):
        raise UsageError(f"{place} has no function {name!r}; it has {', '.join(functions) or 'none'}")
    return getattr(module, name)


def _refuse_windows() -> None:
    """Where there is no screen, OpenCV's windows end the whole process; from now on they are an error."""
    if screen():
        return
    import cv2

    def refuse(*_: Any, **__: Any) -> None:
        raise cv2.error("there is no screen for a window; labkit.live(rung=my_loop) shows what a loop finds")

    for name in ("imshow", "namedWindow", "selectROI", "selectROIs"):
        setattr(cv2, name, refuse)


def source_of(function: Callable[..., Any]) -> str:
    """Text of a function, of the user's own functions and classes that it uses, and of plain constants.

    What it takes from installed packages, and the weights of networks, are not part of it; of an address
    it has what may be stored.
    """
    holder = function.__self__ if inspect.ismethod(function) else function
    state = sorted((k, v) for k, v in getattr(holder, "__dict__", {}).items() if isinstance(v, _PLAIN))
    own = [f"{name} = {value!r}" for name, value in state if name[0] != "_"]
    text = "\n".join([*_texts(function, _home(function), set()), *own])
    return _QUOTED_ADDRESS.sub(lambda found: found[1] + redact(found[2]) + found[1], text)


def _texts(thing: Any, home: str, seen: set[int]) -> Iterator[str]:
    thing = inspect.unwrap(thing)
    if id(thing) in seen:
        return
    seen.add(id(thing))
    used = {} if isinstance(thing, type) else _used(thing)
    try:
        yield textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):  # typed at a prompt that keeps no source, a class in a cell, or an object
        code = getattr(thing, "__code__", None)
        yield (
            f"# {loop_name(thing)} of {_home(thing)}"
            if code is None
            else f"{code.co_code.hex()} {code.co_consts!r}"
        )
        used = _used(thing)
    for name, value in sorted(used.items()):
        if isinstance(value, _PLAIN):
            yield f"{name} = {value!r}"
        elif _home(value) == home or (isinstance(value, types.FunctionType) and _folder(value)):
            yield from _texts(value, home, seen)


_PLAIN = bool | int | float | str | bytes | tuple


def _home(thing: Any) -> str:
    """Name of the module in which a function, a class, or an object's class was written."""
    return _home(thing.func) if isinstance(thing, partial) else getattr(thing, "__module__", None) or ""


def _used(thing: Any) -> dict[str, Any]:
    """Values outside a function that it refers to, by name; what a class or a `partial` is made of."""
    if isinstance(thing, partial):
        return {"func": thing.func, **{str(i): each for i, each in enumerate(thing.args)}, **thing.keywords}
    if isinstance(thing, type):
        return {name: each for name, each in vars(thing).items() if name[0] != "_" or callable(each)}
    if not isinstance(thing, types.FunctionType):
        return {"class": thing.__self__.__class__ if inspect.ismethod(thing) else type(thing)}
    names = set(_names(thing.__code__))
    used = {name: thing.__globals__[name] for name in names if name in thing.__globals__}
    with suppress(ValueError):  # a cell of the closure that is still empty
        used |= inspect.getclosurevars(thing).nonlocals
    return {name: value for name, value in used.items() if not hasattr(builtins, name)}


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)


def _refuse_network(loop: Any) -> None:
    torch, network = sys.modules.get("torch"), getattr(loop, "module", loop)  # as load_network gives it
    if torch is not None and isinstance(network, torch.nn.Module):
        raise UsageError(
            f"{type(network).__name__} is a network, not a loop: it takes a tensor, not a picture; write a "
            "function around it: def my_loop(frames): for frame in frames: prepare frame.image, call the "
            "network, read its answer, yield frame, found"
        )


def _form(loop: Callable[..., Any], name: str) -> str:
    try:
        parameters = list(inspect.signature(loop).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    if inspect.isasyncgenfunction(loop) or inspect.iscoroutinefunction(loop):
        raise UsageError(f"{name} is asynchronous; write it with def, not async def")
    if inspect.isclass(loop):
        raise UsageError(f"{name} is a class; hand over a function")
    if any(map(inspect.isgeneratorfunction, (inspect.unwrap(loop), type(loop).__call__))):
        if len(needed) in (1, 2):
            return "frames" if len(needed) == 1 else "networks"
        raise UsageError(
            f"{name} takes frames, or frames and networks, not {len(needed)} parameters: def {name}(frames)"
        )
    if parameters and len(needed) > 1:
        raise UsageError(
            f"{name} is neither a generator (with yield) of frames nor a function of one image: "
            f"it takes {len(needed)} parameters"
        )
    return "image"


def keep_previous(loop: Callable[..., Any]) -> None:
    """Notes the version before this one, if it has changed, as NAME@HASH and NAME@previous."""
    last = OWN_RUNGS.get(loop_name(loop))
    if last is not None and _version(last) != _sha256(source_of(loop))[:_VERSION_LETTERS]:
        before = replace(last, name=f"{last.name}@{_version(last)}")
        OWN_RUNGS[before.name] = OWN_RUNGS[f"{last.name}@{PREVIOUS}"] = before


def _version(rung: Rung) -> str:
    loop = own_loop(rung)
    assert loop is not None
    return loop.sha256[:_VERSION_LETTERS]


def loop_name(loop: Callable[..., Any]) -> str:
    """Name of a function; of what a `partial` calls; of an object's class."""
    if isinstance(loop, partial):
        return loop_name(loop.func)
    return getattr(loop, "__name__", type(loop).__name__).replace("<lambda>", "unnamed")


def _sha256(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _folder(loop: Callable[..., Any]) -> str | None:
    """Folder of the user's own module that the function is in; None for a cell or an installed package."""
    file = getattr(sys.modules.get(getattr(loop, "__module__", "")), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    return None if any(path.is_relative_to(place) for place in [*installed, _LAB]) else str(path.parent)


def _shown(value: Any) -> str:
    """Type and shape, or type and value, in one line."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if hasattr(value, "shape"):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    text, kind = " ".join(repr(value).split()), type(value).__name__
    return f"{'' if text.startswith(kind) else kind + ' '}{text if len(text) < 60 else text[:57] + '...'}"
