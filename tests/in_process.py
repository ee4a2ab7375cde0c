"""Rungs measured in this process, for tests of all that does not depend on a process of their own.

A process imports its libraries for ten seconds of CPU time before it measures anything. That it does
what `Session` does, and how it dies, is tested in test_measure.py.
"""

import copy
import functools
import os
import pickle
from importlib import import_module

from labkit.bench import peaks
from labkit.bench.session import Session
from labkit.bench.worker import Worker
from labkit.core.errors import LabError, WorkerError
from labkit.models import networks


class InProcessWorker(Worker):
    """A worker whose session lives here. What it is given is pickled all the same."""

    def __init__(self, rung, workload, frames, weights=None, *, report=lambda line: None):
        self._report = report
        self.restless = 0.0
        self.become(rung, workload, frames, weights)

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return os.getpid()

    @property
    def alive(self):
        return self._session is not None

    def become(self, rung, workload, frames, weights=None):
        self.rung, self._session = rung, None
        order = pickle.loads(pickle.dumps((rung, workload, list(frames), weights)))
        self._session = self._in_its_words(Session, *order, report=self._report)
        self.ready = self._session.ready

    def close(self):
        self._session = None

    def _ask(self, what, *arguments, timeout_s=0.0, progress=None):
        more = {} if progress is None else {"progress": progress}
        return self._in_its_words(getattr(self._session, what), *arguments, **more)

    def _in_its_words(self, function, *arguments, **options):
        try:
            return function(*arguments, **options)
        except LabError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise WorkerError(f"{type(error).__name__} while measuring: {error}") from error


def measure_in_process(patch):
    """From now on rungs and peaks are measured in this process, with networks that it has once built.

    Args:
        patch: called with an object, the name of an attribute and its new value, as
            `monkeypatch.setattr` is.
    """
    for name in ("run", "context"):
        patch(import_module(f"labkit.bench.{name}"), "Worker", InProcessWorker)
    for name in ("nb03_combined_models", "nb06_accuracy", "nb09_fleet"):
        patch(import_module(f"labkit.lessons.{name}"), "Worker", InProcessWorker)
    patch(peaks, "SECONDS", 0.05)
    patch(peaks, "_in_fresh_process", lambda device: (dict(peaks._peaks(device)), ""))
    build_once(patch)


def build_once(patch):
    """The two DETRs are built once per weights; whoever wants one gets a copy. For `patch` see above."""
    builders = dict(networks._BUILDERS)
    for model in ("detr_r50", "lab_detr"):
        builders[model] = functools.partial(_copied, builders[model], {})
    patch(networks, "_BUILDERS", builders)


def _copied(build, built, weights):
    if weights.path is not None and weights.kind != "lab":
        return build(weights)  # a test's own file may have changed
    if weights not in built:
        built[weights] = build(weights)
    module, *rest = built[weights]
    return copy.deepcopy(module), *rest
