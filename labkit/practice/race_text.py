"""Races in words: which tensor, which two lines, and what would put them in order."""

from __future__ import annotations

from labkit.practice.gpu_report import RaceFound
from labkit.practice.source_line import learner_variables
from labkit.practice.stream_order import HOST, Memory, Race, Use

DEFAULT = "torch.cuda.default_stream()"
_PYTHON_NAMES = {"_local_scalar_dense": "item", "_to_copy": "to"}


def describe(race: Race) -> RaceFound:
    """A race in words; names of tensors and streams are those of the learner's variables."""
    names = _Names()
    tensor = names.tensor(race.memory)
    earlier, later = names.stream(race.first.stream), names.stream(race.second.stream)
    first, second = _use(race.first), _use(race.second)
    wait = f"Put {later}.wait_stream({earlier}) between the two"
    if names.cupys & {race.first.stream, race.second.stream}:
        later, earlier = (each.replace(DEFAULT, "cupy.cuda.Stream.null") for each in (later, earlier))
        wait = f"Put {later}.wait_event({earlier}.record()) between the two"
    match race.kind:
        case "read early":
            sentence = f"on {later}, {second} reads {tensor}, which {earlier} may still be writing: {first}"
            remedy = wait
        case "overwritten early":
            sentence = f"on {later}, {second} overwrites {tensor}, which {earlier} may still use: {first}"
            remedy = wait
        case "freed early":
            sentence = f"{tensor} was freed while {earlier} may still use it: {first}; freed at {second}"
            remedy = f"Call .record_stream({earlier}) on the tensor, or wait for {earlier} before it is freed"
        case "changed during a copy":
            sentence = f"page-locked memory was written while {earlier} may still copy from it: {first}"
            remedy = "Wait for an event recorded after the copy before writing there, or use two buffers"
        case _:
            sentence = f"{second} reads page-locked memory that a copy may not have reached: {first}"
            remedy = f"Call {earlier}.synchronize(), or wait for an event recorded after the copy, before it"
    return RaceFound(f"race: {sentence}", remedy, (race.first.line, race.second.line))


def _use(use: Use) -> str:
    if not use.number:
        return str(use.line)
    name = use.what.removeprefix("aten.").split(".")[0]
    return f"{_PYTHON_NAMES.get(name, name)} at {use.line}"


class _Names:
    """Names that the learner's variables give to streams and tensors."""

    def __init__(self) -> None:
        self.streams: dict[int, str] = {}
        self.cupys: set[int] = set()
        self.tensors: dict[int, str] = {}
        for name, value in learner_variables():
            if name.startswith("_"):
                continue
            number = getattr(value, "cuda_stream", None)
            memory = getattr(getattr(value, "tensor", value), "memory", None)  # of CuPy's arrays, too
            if isinstance(number, int):
                self.streams.setdefault(number, name)
                if number and not hasattr(value, "wait_stream"):
                    self.cupys.add(number)
            elif isinstance(memory, Memory):
                self.tensors.setdefault(id(memory), name)

    def stream(self, number: int) -> str:
        if number == HOST:
            return "the host"
        if number == 0:
            return DEFAULT
        return self.streams.get(number, f"stream_{number}")

    def tensor(self, memory: Memory | None) -> str:
        if memory is None:
            return "a tensor"
        name = self.tensors.get(id(memory))
        return f"{name} ({memory.holds})" if name else f"a tensor ({memory.holds})"
