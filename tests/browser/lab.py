"""JupyterLab on a free port, and a person's hands in it: opens notebooks, runs cells, looks."""

import ast
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil

READY_S = 60
SPARE = "set-aside.ipynb"
TIDY = """
import ipywidgets
from labkit.live.start import replace_current
replace_current(None)
ipywidgets.Widget.close_all()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class JupyterLab:
    """A server of its own in `folder`, with nothing of the user's settings."""

    def __init__(self, folder, page_config=None, **environment):
        self.folder = folder
        self.port, self.token = free_port(), secrets.token_hex(8)
        self.home = folder / "home"
        self.home.mkdir()
        settings = self.home / "lab/settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        # No news, no update check: a test asks nobody on the network.
        (settings / "notification.jupyterlab-settings").write_text(
            json.dumps({"checkForUpdates": False, "fetchNews": "false"})
        )
        if page_config is not None:
            (self.home / "config/labconfig").mkdir(parents=True)
            (self.home / "config/labconfig/page_config.json").write_text(json.dumps(page_config))
        env = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.home / "lab/settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.home / "lab/workspaces"),
            "IPYTHONDIR": str(self.home / "ipython"),
            **environment,
        }
        self.log = (folder / "jupyter.log").open("wb")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
                f"--port={self.port}", f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly",
                "--ServerApp.allow_remote_access=True",  # for pages that ask by another name
            ],
            env=env, stdout=self.log, stderr=self.log, cwd=folder, start_new_session=True,
        )  # fmt: skip
        self._wait()

    def _wait(self):
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.url('api')}", timeout=2).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.2)
        raise RuntimeError((self.folder / "jupyter.log").read_text()[-2000:])

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.port}/{path}?token={self.token}"

    def api(self, path, method="GET", data=None):
        request = urllib.request.Request(
            self.url(f"api/{path}"), method=method, data=None if data is None else json.dumps(data).encode()
        )
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def notebook(self, name, *cells):
        """Writes a notebook of these code cells."""
        content = {
            "nbformat": 4, "nbformat_minor": 5,
            # Without a kernelspec, JupyterLab asks for one in a dialog.
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [
                {"cell_type": "code", "id": f"cell{i}", "metadata": {}, "source": source,
                 "outputs": [], "execution_count": None}
                for i, source in enumerate(cells)
            ],
        }  # fmt: skip
        (self.folder / name).write_text(json.dumps(content))
        return name

    def lend_kernel(self, name):
        """Gives a notebook the kernel that was set aside, if there is one: what it imported is there."""
        for session in self.api("sessions"):
            if session["path"] == SPARE:
                self.api(f"sessions/{session['id']}", "PATCH", {"path": name, "name": name})
                return

    def set_kernel_aside(self, name):
        """Keeps the kernel of a notebook for the next one, without the widgets that it has shown."""
        kept = None
        for session in self.api("sessions"):
            if kept is None and session["path"] == name and self._tidied(session["kernel"]["id"]):
                kept = session
                self.api(f"sessions/{session['id']}", "PATCH", {"path": SPARE, "name": SPARE})
            else:
                self.api(f"sessions/{session['id']}", "DELETE")

    def ask_kernel(self, name, expression):
        """What an expression gives in a notebook's kernel, which need not know that it is asked."""
        kernel = next(s["kernel"]["id"] for s in self.api("sessions") if s["path"] == name)
        asked = {"it": expression}
        reply = self._execute(kernel, "", user_expressions=asked)["user_expressions"]["it"]
        assert reply["status"] == "ok", reply
        return ast.literal_eval(reply["data"]["text/plain"])

    def _tidied(self, kernel):
        try:
            return self._execute(kernel, TIDY)["status"] == "ok"
        except (OSError, RuntimeError, TimeoutError):
            return False  # it is busy or gone: the next notebook starts one of its own

    def _execute(self, kernel, code, **options):
        from jupyter_client import BlockingKernelClient

        client = BlockingKernelClient(connection_file=str(self.home / f"runtime/kernel-{kernel}.json"))
        client.load_connection_file()
        client.start_channels()
        try:
            return client.execute_interactive(code, timeout=10, silent=not options, **options)["content"]
        finally:
            client.stop_channels()

    def kernel_pids(self):
        """Of the processes of all kernels."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def close(self):
        for kernel in self.api("kernels"):
            self.api(f"kernels/{kernel['id']}", "DELETE")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


class Desk:
    """One page with a notebook, driven as a person would."""

    def __init__(self, lab, page, name, host="127.0.0.1"):
        self.lab, self.page, self.name = lab, page, name
        page.goto(lab.url(f"lab/tree/{name}", host) + "&reset")
        self.wait_until_ready()

    def wait_until_ready(self):
        """Waits until the notebook has its kernel: a cell that is run before asks for one in a dialog."""
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            kernels = [s["kernel"] for s in self.lab.api("sessions") if s["path"] == self.name]
            if kernels and kernels[0]["connections"] > 0 and kernels[0]["execution_state"] == "idle":
                break
            time.sleep(0.1)
        self.page.wait_for_selector('.jp-NotebookPanel-toolbar [data-status="idle"]', timeout=60_000)

    def run_cell(self, index=0, tries=4):
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
        prompt = cell.locator(".jp-InputPrompt")
        before = prompt.inner_text()
        for _ in range(tries):
            if self.page.locator("dialog.jp-Dialog").count():
                self.page.keyboard.press("Enter")
            cell.locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            end = time.monotonic() + 20
            # A notebook that is still settling swallows keys, or takes the star away again.
            while time.monotonic() < end:
                now = prompt.inner_text()
                if now != before and now.strip("[]: ").isdigit():
                    return
                if now.strip("[]: ") == "" and time.monotonic() > end - 17:
                    break
                time.sleep(0.05)
        raise AssertionError(f"cell {index} does not run")

    def begin_cell(self, index):
        """Starts a cell that goes on for long."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_selector('.jp-NotebookPanel-toolbar [data-status="busy"]', timeout=20_000)

    def save(self):
        """By the shortcut; waits until the file holds a view."""
        self.page.locator(".jp-CodeCell .cm-content").first.click()
        self.page.keyboard.press("Control+s")
        end = time.monotonic() + 20
        while "data-labkit-view" not in (text := (self.lab.folder / self.name).read_text()):
            assert time.monotonic() < end, "the notebook is not saved"
            time.sleep(0.1)
        return text

    def close_notebook(self):
        """By the cross on its tab; what is unsaved is asked about."""
        self.page.locator("#jp-main-dock-panel .lm-TabBar-tabCloseIcon").last.click()
        self.page.locator("dialog.jp-Dialog button", has_text="Discard").wait_for()

    def discard(self):
        """The answer to what is asked then."""
        self.page.locator("dialog.jp-Dialog button", has_text="Discard").click()

    def restart_kernel(self):
        """By the menu, as a person does; outputs go, so that the next run shows. To be confirmed."""
        self.page.locator(".lm-MenuBar-item", has_text="Kernel").click()
        self.page.locator(".lm-Menu-item", has_text="Restart Kernel and Clear Outputs of All").click()
        self.page.locator("dialog.jp-Dialog .jp-mod-accept").wait_for()

    def confirm(self):
        """Yes to the dialog."""
        self.page.locator("dialog.jp-Dialog .jp-mod-accept").click()

    def text_of(self, index=0):
        return (
            self.page.locator(".jp-Notebook .jp-CodeCell").nth(index).locator(".jp-OutputArea").inner_text()
        )

    @property
    def view(self):
        return self.page.locator(".labkit-live").last
