"""The page without a notebook: who may see it, and that the view's messages get through."""

import asyncio
import json
import socket

import pytest
import tornado.httpclient
import tornado.websocket

from labkit.cli.main import main
from labkit.core.errors import UsageError
from labkit.live import page
from labkit.live import player as player_module
from labkit.live.settings import LiveSettings

from live_fakes import SIZE, preparing, ticking  # isort: skip


@pytest.fixture
def visit(monkeypatch, tmp_path):
    """Runs a coroutine function with the address of a served page."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("labkit.sources.openers.open_source", lambda source, size, **_: ticking(size))
    monkeypatch.setattr(player_module, "prepare_rungs", lambda settings, *_: preparing()(settings, None))

    def run(visitor, port=0):
        async def main():
            stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
            settings = LiveSettings(rung="lut_cpu", model_set="lab", size=SIZE)
            serving = asyncio.create_task(
                page._serve("photos", settings, port, address.set_result, stop=stop)
            )
            await asyncio.wait({serving, address}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            try:
                await asyncio.wait_for(visitor(await address), 20)
            finally:
                stop.set()
                await serving

        asyncio.run(main())

    return run


async def status_of(address):
    client = tornado.httpclient.AsyncHTTPClient()
    return (await client.fetch(address, raise_error=False)).code


def socket_request(address, origin=None):
    host = address.split("/")[2]
    target = address.replace("http:", "ws:").replace("/?", "/socket?")
    return tornado.httpclient.HTTPRequest(target, headers={"Origin": origin or f"http://{host}"})


def packed(message):
    head = json.dumps(message).encode()
    return len(head).to_bytes(4, "big") + head


def test_frames_and_commands_pass_through_the_socket(visit):
    async def visitor(address):
        ours = await tornado.websocket.websocket_connect(socket_request(address))
        await ours.write_message(packed({"type": "hello", "page": "p", "visible": True}), binary=True)
        await ours.write_message(b"\x00\x00", binary=True)  # nonsense is passed over
        await ours.write_message(b"\x00\x00\x00\x04{{{{", binary=True)
        kinds, stopped = set(), False
        while not ({"state", "frame", "ping"} <= kinds and stopped):
            data = await ours.read_message()
            size = int.from_bytes(data[:4], "big")
            message = json.loads(data[4 : 4 + size])
            kinds.add(message["type"])
            if message["type"] == "frame":
                assert data[4 + size :][:2] == b"\xff\xd8"
            if {"frame", "ping"} <= kinds:
                await ours.write_message(packed({"type": "stop", "page": "p"}), binary=True)
            stopped = stopped or (message["type"] == "state" and message["state"] == "stopped")
        ours.close()

    visit(visitor)


def test_the_end_says_what_became_of_a_recording(visit, capsys):
    async def visitor(address):
        ours = await tornado.websocket.websocket_connect(socket_request(address))
        for message in ({"type": "hello", "visible": True}, {"type": "record", "on": True}):
            await ours.write_message(packed({**message, "page": "p"}), binary=True)
        while b'"recording": true' not in await ours.read_message():
            pass
        ours.close()

    visit(visitor)
    assert "recorded" in capsys.readouterr().out


def test_without_the_token_nothing_is_shown(visit):
    async def visitor(address):
        root = address.split("?")[0]
        assert await status_of(address) == 200
        for path in ("", "live.js", "page.js", "live.css", "?token=wrong"):
            assert await status_of(root + path) == 403
        with pytest.raises(tornado.httpclient.HTTPClientError, match="403"):
            await tornado.websocket.websocket_connect(socket_request(root + "?token=wrong"))

    visit(visitor)


def test_pages_of_other_sites_cannot_connect(visit):
    async def visitor(address):
        with pytest.raises(tornado.httpclient.HTTPClientError, match="403"):
            await tornado.websocket.websocket_connect(socket_request(address, origin="http://evil.example"))

    visit(visitor)


def test_a_port_that_is_taken_is_named(visit):
    async def visitor(address):
        raise AssertionError("it must not come so far")

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be had"):
            visit(visitor, port=port)
    with pytest.raises(UsageError, match="99999"):
        visit(visitor, port=99999)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [(["--threshold", "2"], "threshold"), (["--rung", "no_such"], "no_such"), (["--size", "big"], "big"),
     (["--model-set", "huge"], "huge"), (["--port", "99999"], "99999"), (["--port", "http"], "integer")],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(wrong, word, capfd):
    try:
        code = main(["live", *wrong])
    except SystemExit as ended:
        code = ended.code
    told = capfd.readouterr().err
    assert code not in (0, None)
    assert word in told and "Traceback" not in told
