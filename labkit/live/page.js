// Stands in for a notebook's widget model: the same messages over a WebSocket.
// A message is 4 bytes of length, JSON, and at most one buffer.
import view from "./live.js?token=TOKEN";

const listeners = new Set();
let socket = null;
let waiting = []; // what is said before the connection stands

function connect() {
  socket = new WebSocket(`ws://${location.host}/socket?token=TOKEN`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    const size = new DataView(data).getUint32(0);
    const message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
    const rest = new DataView(data, 4 + size);
    for (const listener of listeners) listener(message, rest.byteLength ? [rest] : []);
  };
  socket.onopen = () => {
    for (const data of waiting) socket.send(data);
    waiting = [];
  };
  socket.onclose = () => setTimeout(connect, 1000);
}

const model = {
  get: () => "page",
  on: (name, listener) => listeners.add(listener),
  off: (name, listener) => listeners.delete(listener),
  send(message, callbacks, buffers = []) {
    const head = new TextEncoder().encode(JSON.stringify(message));
    const rest = buffers.length ? new Uint8Array(buffers[0]) : new Uint8Array();
    const data = new Uint8Array(4 + head.length + rest.length);
    new DataView(data.buffer).setUint32(0, head.length);
    data.set(head, 4);
    data.set(rest, 4 + head.length);
    if (socket.readyState === WebSocket.OPEN) socket.send(data);
    else waiting = [...waiting, data].slice(-4);
  },
};

connect();
view.initialize({ model });
view.render({ model, el: document.getElementById("view") });
