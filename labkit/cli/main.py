"""The program `labkit`: its commands; errors become one sentence and an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import JsonOption
from labkit.core import interrupt
from labkit.core.child import child_command
from labkit.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    LabError,
    UnavailableError,
    UsageError,
    WeightsError,
)
from labkit.core.requirements import unmet_requirement
from labkit.core.terminal import accept_any_text, print_text, screen
from labkit.sources.spec import is_address, redact

TAKE_ADDRESSES = ("--source", "--address")
TAKE_TEXTS = ("--coco", "--name", "--out")
TAKE_PATHS = ("batch", "gallery", "lab", "report", "results", "train")
"""Commands whose other arguments are paths and texts, in which not all that looks like an address is one."""

app = typer.Typer(
    name="labkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Measure and understand real-time image classification and detection.",
    epilog="Exit codes: 0 done, 1 other errors, 2 wrong usage, 3 source or frame, 4 weights, "
    "5 not possible on this machine, 6 the measuring process died, 7 results store, "
    "8 slower and 9 cannot tell (results trend), 130 stopped by Ctrl-C, "
    "143 stopped by a termination signal.",
)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has, what is missing, and what to do about it."""
    from labkit.bench.doctor import examine

    checks = examine()
    if as_json:
        print(json.dumps([vars(check) for check in checks]))
        return
    from labkit.bench.doctor import WIDTH, lines
    from labkit.bench.progress import out, print_lines

    for text, style in lines(checks, min(WIDTH, out.width - 1)):
        print_lines([text], style=style)


@app.command()
def rungs(as_json: JsonOption = False) -> None:
    """List the rungs of the ladder and whether this machine can run them."""
    from labkit.pipelines.ladder import LADDER, about_here

    rows = [
        {
            "rung": rung.name, "stage": rung.stage, "changes": rung.changes, "reference": rung.reference,
            "about": about_here(rung), "unavailable": unmet_requirement(rung.needs),
            **rung.prepare.describe(),
        }
        for rung in sorted(LADDER, key=lambda rung: rung.stage)
    ]  # fmt: skip
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    stage = None
    for row in rows:
        if row["stage"] != stage:
            stage = row["stage"]
            print_text(f"{'' if stage == rows[0]['stage'] else chr(10)}Stage {stage}")
        print_text(f"  {row['rung']}" + (f"  [{row['unavailable']}]" if row["unavailable"] else ""))
        print_text(f"      {row['about']}" + (f" (changes {row['changes']})" if row["changes"] else ""))


@app.command()
def weights(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Detectors and classifiers; default: all."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download what is not cached: the named ones, or the full set's.")
    ] = False,
) -> None:
    """Show which weights are on this machine; fetch the pretrained ones."""
    from labkit.models import weights as stored
    from labkit.models.classifiers import CLASSIFIERS
    from labkit.models.detectors.catalogue import detectors

    others = [name for name in (*detectors(), *CLASSIFIERS) if name not in stored.MODELS["full"]]
    known = (*stored.MODELS["full"], *stored.MODELS["lab"], *others)
    abouts = {name: row.about for name, row in detectors().items()}
    abouts |= {name: row.about for name, row in CLASSIFIERS.items()}
    if unknown := set(model or ()) - set(known):
        raise UsageError(f"there is no model {min(unknown)!r}; there are {', '.join(known)}")
    wanted = model or stored.MODELS["full"]
    code = 0
    for name in model or known:
        try:
            found = stored.lab_weights(name) if name in stored.MODELS["lab"] else stored.cached(name)
            if found is None and fetch and name in wanted:
                found = stored.fetch(name, progress=True, slow=True)
        except WeightsError as error:
            print_text(f"{name}: {error}", file=sys.stderr)
            code = error.exit_code
            continue
        if found is None:
            about = f" ({abouts[name]})" if name in abouts else ""
            print_text(f"{name}: not on this machine{about}; to fetch it: labkit weights {name} --fetch")
        else:
            print_text(f"{name}: {found.note}; {found.revision[:12]}, {found.path}")
    raise typer.Exit(code)


@app.command()
def lab(
    notebook: Annotated[Path, typer.Argument(help="Notebook to open.")] = Path(
        "notebooks/00_start_here.ipynb"
    ),
    ip: Annotated[
        str | None, typer.Option(help="Address to listen on; in a container all of them, else 127.0.0.1.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; the next free one if it is taken.")] = 8888,
    allow_root: Annotated[
        bool, typer.Option("--allow-root", help="Run as root; in a container that is taken for granted.")
    ] = False,
) -> None:
    """Open JupyterLab on the first notebook (with a token, for this machine alone)."""
    import subprocess

    from labkit.core.machine import in_container

    if not notebook.is_file():
        raise UsageError(f"there is no notebook {notebook}; run this in the project's folder")
    if reason := unmet_requirement(["jupyterlab"]):
        raise UnavailableError(f"this {reason}")
    contained = in_container()
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and not (allow_root or contained):
        raise UsageError(
            "this is root, and what runs in a notebook would be root too; "
            "log in as another user, or say labkit lab --allow-root"
        )
    options = [f"--port={port}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    # A container has an address of its own: what listens on its 127.0.0.1 cannot be reached from outside.
    options += [f"--ip={ip or ('0.0.0.0' if contained else '127.0.0.1')}"]
    options += ["--allow-root"] if root else []
    options += [] if screen() else ["--no-browser"]
    if contained and ip is None:
        print_text(
            f"In a container: open the address with 127.0.0.1 below; publish its port, {port}.", flush=True
        )
    command = child_command("jupyterlab", *options, str(notebook))
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@cache
def _add_commands() -> None:
    """Adds the commands of the other modules, once."""
    from labkit.cli import (
        cmd_bench,
        cmd_fleet,
        cmd_gallery,
        cmd_live,
        cmd_profile,
        cmd_results,
        cmd_sweep,
        cmd_train,
    )

    app.command()(cmd_bench.bench)
    app.command()(cmd_bench.compare)
    app.command()(cmd_bench.tracking)
    app.command()(cmd_bench.filters)
    app.add_typer(cmd_results.app, name="results")
    app.command()(cmd_gallery.gallery)
    app.command("profile")(cmd_profile.profile)
    app.command()(cmd_live.live)
    app.command()(cmd_fleet.fleet)
    app.command("batch")(cmd_fleet.batch_command)
    app.command()(cmd_results.report)
    app.command()(cmd_sweep.sweep)
    app.command()(cmd_train.train)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; errors become one sentence on standard error and an exit code.

    Args:
        arguments: of the command; by default those of this process, which then ends where it is stopped.
    """
    interrupt.ends_process = arguments is None
    accept_any_text()
    code = 0
    with _stoppable() as stopped:
        try:
            _add_commands()
            _check_folder()
            _check_addresses(sys.argv[1:] if arguments is None else arguments)
            app(arguments)  # ends the process itself, with the command's exit code
        except LabError as error:
            print_text(f"labkit: {error}", file=sys.stderr)
            code = error.exit_code
        except ModuleNotFoundError as error:
            reason = unmet_requirement([(error.name or "labkit").partition(".")[0]])
            if reason is None:  # the package is there, and lacks a module
                raise
            print_text(f"labkit: this {reason}", file=sys.stderr)
            code = UnavailableError.exit_code
        except BrokenPipeError:  # the reader of a pipe has gone, which is its right
            sys.stderr.close()
        except KeyboardInterrupt:  # outside of a command
            code = EXIT_TERMINATED if signal.SIGTERM in stopped else EXIT_INTERRUPTED
        except SystemExit as end:
            if signal.SIGTERM in stopped and end.code == EXIT_INTERRUPTED:
                raise SystemExit(EXIT_TERMINATED) from None
            raise
    if stopped and interrupt.ends_process:
        interrupt.leave(code)
    return code


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the folder that this was started in has been deleted; cd to another one") from None


def _check_addresses(arguments: list[str]) -> None:
    """Refuses an address in a place of something else, before a message quotes it with its password."""
    command = next(iter(arguments), "")
    for before, argument in pairwise(["", *arguments]):
        option, value = before if before.startswith("--") and "=" not in before else "", argument
        if argument.startswith("--") and "=" in argument:
            option, _, value = argument.partition("=")
        is_source = option in TAKE_ADDRESSES or (command == "fleet" and option in ("", "--", "--json"))
        doubtful = command not in TAKE_PATHS and option not in TAKE_TEXTS and ".py:" not in value
        if not is_source and is_address(value, doubtful=doubtful):
            raise UsageError(f"{redact(value)} is an address; give it with --source, or to labkit fleet")


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """A termination signal ends a command as Ctrl-C does; a second one ends it at once.

    Yields:
        The numbers of both signals, as they come. A process that is the command's own then ends without
        taking its libraries down.
    """
    stopped: list[int] = []

    def handle(number: int, _: object) -> None:
        stopped.append(number)
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield stopped
    except SystemExit as end:
        if interrupt.ends_process and stopped and isinstance(end.code, int):
            interrupt.leave(end.code)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
