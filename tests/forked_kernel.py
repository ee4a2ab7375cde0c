"""A kernel forked from a process in which the heavy libraries are loaded, as measuring processes are.

A kernel that imports them by itself needs six to eight seconds of CPU time before its first cell.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from jupyter_client.provisioning import LocalProvisioner

from labkit.core.errors import WorkerError
from labkit.core.fork_server import PRELOADED, ForkServer

LOADED = (*PRELOADED, "ipykernel.kernelapp", "in_process")
ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as a kernel sets it, before any import
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
}

_server = None


def use_forked_kernel(client):
    """Lets an nbclient's notebook run in a forked kernel, where processes can be forked."""
    if sys.platform == "linux":
        manager = client.create_kernel_manager()
        manager.provisioner = ForkedProvisioner(
            kernel_id="forked", kernel_spec=manager.kernel_spec, parent=manager
        )


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel by a fork; everything else is as for a process that was started."""

    async def launch_kernel(self, cmd, *, cwd, env, **_):
        """As in the base class; the command is not needed."""
        arguments = [self.parent.connection_file, str(cwd)]
        with open(2, "wb", closefd=False) as told:
            try:
                self.process = forking().fork(__name__, arguments, env, told, told.fileno())
            except WorkerError:  # it has just ended, as nothing was asked of it
                self.process = forking(anew=True).fork(__name__, arguments, env, told, told.fileno())
        self.pid = self.process.pid
        return self.connection_info

    async def wait(self):
        """Waits for the kernel's end; returns its exit status."""
        while (code := await self.poll()) is None:
            await asyncio.sleep(0.05)
        self.process = None
        return code

    async def send_signal(self, signum):
        """Sends a signal to the kernel, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)


def forking(anew=False):
    """The process that forks kernels, of which this one has one at a time."""
    global _server
    if anew or _server is None or not _server.alive:
        _server = ForkServer({**os.environ, **ENVIRONMENT}, LOADED)
    return _server


def main(arguments, handed):
    """What the forked process does: it is a kernel until it is asked to end."""
    from ipykernel.kernelapp import IPKernelApp

    connection_file, folder = arguments
    os.close(handed)
    os.chdir(folder)
    sys.path[0] = ""
    sys.argv = ["ipykernel_launcher", "-f", connection_file]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    IPKernelApp.launch_instance()
