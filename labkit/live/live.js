// The page's side of the live view: shows frames, acknowledges them, sends what its controls say,
// and the pictures of the browser's camera. `messages.py` and `view.py` list the messages.
// Whatever comes from the kernel is set as text, never as markup.

const MAX_IN_FLIGHT = 2;
const TAKEN_TIMEOUT_MS = 1000; // a picture that nobody confirmed is given up, or sending would stop for good
const QUIET_MS = 2000; // a running view says something twice a second; if not, it may have given this page up
const UNSEEN_MS = 500; // a notebook that moves a cell takes its output off the page and puts it back
const PAINT_TIMEOUT_MS = 250; // browsers do not paint pages that are covered
const JPEG_QUALITY = 0.8;
const BARS = 60;
// Okabe and Ito (2008), told apart with every common colour blindness.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];

const clients = new Map();

export default {
  initialize({ model }) {
    const client = new Client(model);
    clients.set(model.get("view_id"), client);
    return () => {
      client.close();
      clients.delete(model.get("view_id"));
    };
  },
  render({ model, el }) {
    const client = clients.get(model.get("view_id"));
    const panel = new Panel(client, el);
    client.attach(panel);
    return () => client.detach(panel);
  },
};

// One per page: receives for all places in which the page shows the view.
class Client {
  constructor(model) {
    this.model = model;
    this.page = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("-");
    this.panels = new Set();
    this.state = null;
    this.stats = null;
    this.picture = null; // the newest decoded frame
    this.paintedNumber = 0;
    this.bars = [];
    this.camera = new Camera(this);
    this.wasVisible = null;
    this.gone = false; // after a goodbye this page says nothing, or it would count as there
    this.heardMs = 0;
    this.onMessage = (message, buffers) => this.receive(message, buffers);
    this.onVisibility = () => this.tellVisibility();
    this.onLeave = () => this.leave();
    this.onReturn = (event) => event.persisted && this.hello();
    model.on("msg:custom", this.onMessage);
    document.addEventListener("visibilitychange", this.onVisibility);
    window.addEventListener("pagehide", this.onLeave);
    window.addEventListener("pageshow", this.onReturn);
    this.hello();
    // Messages can be lost while kernel or page are still setting up their side.
    this.watch = setInterval(() => {
      const expected = this.state === null || this.state.running || this.state.away;
      if (expected && performance.now() - this.heardMs > QUIET_MS) this.hello();
    }, 1000);
  }

  close() {
    this.leave();
    clearInterval(this.watch);
    this.camera.stop();
    this.model.off("msg:custom", this.onMessage);
    document.removeEventListener("visibilitychange", this.onVisibility);
    window.removeEventListener("pagehide", this.onLeave);
    window.removeEventListener("pageshow", this.onReturn);
    this.picture?.close();
    this.picture = null;
  }

  attach(panel) {
    this.panels.add(panel);
    if (this.state) panel.showState(this.state);
    if (this.gone) this.hello();
    else this.tellVisibility();
  }

  detach(panel) {
    this.panels.delete(panel);
    // The output was cleared or the notebook closed: then nobody looks, and the camera is not needed.
    setTimeout(() => this.panels.size === 0 && this.leave(), UNSEEN_MS);
  }

  get visible() {
    return document.visibilityState === "visible" && this.panels.size > 0;
  }

  leave() {
    if (this.gone) return;
    this.send({ type: "bye" });
    this.gone = true;
    this.camera.stop();
  }

  hello() {
    this.gone = false;
    this.heardMs = performance.now();
    this.wasVisible = this.visible;
    this.send({ type: "hello", visible: this.visible });
  }

  tellVisibility() {
    if (this.visible === this.wasVisible) return;
    this.wasVisible = this.visible;
    this.send({ type: "seen", visible: this.visible });
  }

  send(message, buffers) {
    if (this.gone) return;
    try {
      this.model.send({ ...message, page: this.page }, undefined, buffers);
    } catch {
      // The connection is down; the kernel notices by the silence.
    }
  }

  receive(message, buffers) {
    if (this.gone) return;
    this.heardMs = performance.now();
    if (message.type === "frame") this.frame(message, buffers[0]);
    else if (message.type === "ping") {
      this.send({ type: "pong", n: message.n, after: message.after, clock_ms: performance.now() });
      this.tellVisibility();
    } else if (message.type === "taken") {
      if (message.page === this.page) this.camera.taken(message.n);
    } else if (message.type === "stats") {
      this.stats = message;
      this.bars = this.bars.concat(message.bars).slice(-BARS);
      for (const panel of this.panels) panel.showStats(message, this.bars);
    } else if (message.type === "state") {
      this.state = message;
      for (const panel of this.panels) panel.showState(message);
      this.camera.follow(message);
    }
  }

  async frame(message, buffer) {
    const acknowledge = (painted, age) =>
      this.send({ type: "ack", n: message.n, painted, ...(age === undefined ? {} : { age_ms: age }) });
    if (!this.visible) return acknowledge(false);
    let picture;
    try {
      picture = await createImageBitmap(new Blob([buffer], { type: "image/jpeg" }));
    } catch {
      return acknowledge(false);
    }
    if (message.n < this.paintedNumber) {
      picture.close();
      return acknowledge(false);
    }
    this.paintedNumber = message.n;
    this.picture?.close();
    this.picture = picture;
    let done = false;
    const finish = (painted) => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      const age = message.captured_ms === null ? undefined : performance.now() - message.captured_ms;
      acknowledge(painted, painted ? age : undefined);
    };
    const timer = setTimeout(() => finish(false), PAINT_TIMEOUT_MS);
    requestAnimationFrame(() => {
      for (const panel of this.panels) panel.paint(this.picture);
      // A message is handled after the browser has painted what this callback drew.
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        finish(true);
      };
      channel.port2.postMessage(null);
    });
  }
}

// The browser's camera: pictures go to the kernel while the view runs, two at most on their way.
class Camera {
  constructor(client) {
    this.client = client;
    this.device = "";
    this.stream = null;
    this.video = null;
    this.size = [640, 480];
    this.flights = new Map();
    this.number = 0;
    this.sentNumber = 0;
    this.offered = 0;
    this.starting = false;
    this.failed = false;
    this.turn = 0;
  }

  follow(state) {
    const mine = state.camera === this.client.page && state.running;
    const resized = String(this.size) !== String(state.settings.size);
    this.size = state.settings.size;
    if (!mine) this.stop();
    else if (resized && this.stream) this.restart();
    else if (!this.stream && !this.starting && !this.failed) this.start();
  }

  choose(device) {
    this.device = device;
    if (this.stream || this.failed) this.restart();
  }

  restart() {
    this.stop();
    if (this.client.state?.running && this.client.state.camera === this.client.page) this.start();
  }

  async start() {
    if (!navigator.mediaDevices?.getUserMedia) return this.trouble("insecure");
    this.starting = true;
    const turn = ++this.turn;
    const [width, height] = this.size;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: {
          width: { ideal: width },
          height: { ideal: height },
          ...(this.device ? { deviceId: { exact: this.device } } : {}),
        },
      });
    } catch (error) {
      if (turn !== this.turn) return; // stopped while the person was asked; a later start asks again
      this.starting = false;
      return this.trouble(error.name);
    }
    if (turn !== this.turn) return release(stream); // stopped while the person was asked
    this.starting = false;
    this.failed = false;
    this.stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => {
      if (this.stream !== stream) return;
      this.stop();
      this.trouble("ended");
    });
    this.video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    this.video.srcObject = stream;
    this.canvas = document.createElement("canvas");
    await this.video.play().catch(() => {});
    if (this.stream !== stream) return;
    this.watch(stream);
    this.listDevices();
  }

  stop() {
    this.turn += 1;
    this.starting = false;
    this.failed = false;
    this.flights.clear();
    this.worker?.terminate();
    this.worker = null;
    if (this.stream) release(this.stream);
    if (this.video) this.video.srcObject = null;
    this.stream = this.video = null;
  }

  trouble(name) {
    this.failed = true;
    this.client.send({ type: "trouble", name });
  }

  async listDevices() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const cameras = devices.filter((device) => device.kind === "videoinput");
    for (const panel of this.client.panels) panel.showCameras(cameras, this.device);
  }

  // A visible page learns of each new picture; a hidden one does not, so there a timer looks for
  // them, in a worker, whose timers a browser does not slow down.
  watch(stream) {
    const video = this.video;
    const onFrame = (now, about) => {
      if (this.stream !== stream) return;
      video.requestVideoFrameCallback(onFrame);
      this.offered += 1;
      this.grab(about.captureTime ?? now);
    };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(onFrame);
    const beat = new Blob(["setInterval(() => postMessage(null), 66)"], { type: "text/javascript" });
    const url = URL.createObjectURL(beat);
    this.worker = new Worker(url);
    URL.revokeObjectURL(url);
    this.worker.onmessage = () => {
      if (this.stream !== stream) return;
      if (video.requestVideoFrameCallback && document.visibilityState === "visible") return;
      this.offered += 1;
      this.grab(performance.now());
    };
  }

  grab(capturedMs) {
    const now = performance.now();
    for (const [number, sent] of this.flights) {
      if (now - sent > TAKEN_TIMEOUT_MS) this.flights.delete(number);
    }
    const video = this.video;
    if (this.flights.size >= MAX_IN_FLIGHT || !video?.videoWidth) return;
    const number = ++this.number;
    this.flights.set(number, now);
    const [width, height] = this.size;
    // The middle of the picture that has the wanted aspect, as for every other source.
    const scale = Math.min(video.videoWidth / width, video.videoHeight / height);
    const [w, h] = [width * scale, height * scale];
    this.canvas.width = width;
    this.canvas.height = height;
    this.canvas
      .getContext("2d")
      .drawImage(video, (video.videoWidth - w) / 2, (video.videoHeight - h) / 2, w, h, 0, 0, width, height);
    const offered = this.offered;
    this.canvas.toBlob(
      async (blob) => {
        if (!blob || !this.stream) return this.flights.delete(number);
        const bytes = await blob.arrayBuffer();
        if (number < this.sentNumber) return this.flights.delete(number); // its successor was packed sooner
        this.sentNumber = number;
        this.client.send({ type: "picture", n: number, captured_ms: capturedMs, offered }, [bytes]);
      },
      "image/jpeg",
      JPEG_QUALITY,
    );
  }

  taken(number) {
    this.flights.delete(number);
  }
}

function release(stream) {
  for (const track of stream.getTracks()) track.stop();
}

// What a person sees and uses, in one place of a page.
class Panel {
  constructor(client, el) {
    this.client = client;
    const id = (name) => `labkit-${name}-${Math.random().toString(36).slice(2)}`;
    el.classList.add("labkit-live");
    this.canvas = make("canvas", { width: 640, height: 480, role: "img", ariaLabel: "The live picture" });
    this.captions = make("div", { className: "labkit-captions" });
    this.message = make("p", { className: "labkit-message", role: "status" });
    this.startStop = button("Start", () =>
      client.send({ type: client.state?.running ? "stop" : "start" }),
    );
    this.snapshot = button("Keep this picture", () => client.send({ type: "snapshot" }));
    this.record = button("Record", () => client.send({ type: "record", on: !client.state?.recording }));
    this.rung = select(id("rung"), (value) => this.set({ rung: value }));
    this.second = select(id("second"), (value) => this.set({ second: value || null }));
    this.models = select(id("models"), (value) => this.set({ model_set: value }));
    this.size = select(id("size"), (value) => this.set({ size: value.split("x").map(Number) }));
    this.cameras = select(id("camera"), (value) => client.camera.choose(value));
    this.threshold = slider(id("threshold"), 0, 1, 0.01, (value) => this.set({ threshold: value }));
    this.filterOn = make("input", { type: "checkbox", id: id("filter") });
    this.filterOn.addEventListener("change", () => this.set({ filter_on: this.filterOn.checked }));
    this.radius = slider(id("radius"), 1, 16, 1, (value) => this.set({ radius: value }));
    // eps spans decades, so the slider moves its logarithm.
    this.eps = slider(id("eps"), -4, 0, 0.05, (value) => this.set({ eps: 10 ** value }), (v) =>
      (10 ** v).toPrecision(2),
    );
    this.line = make("p", { className: "labkit-line" });
    this.found = make("p", { className: "labkit-found" });
    this.plot = make("canvas", {
      width: 600, height: 90, className: "labkit-plot", role: "img",
      ariaLabel: "Milliseconds per step of the last detections; the figures stand below",
    });
    this.legend = make("p", { className: "labkit-legend" });
    this.weights = make("p", { className: "labkit-weights" });
    this.cameraField = field("Camera", this.cameras);
    this.cameraField.hidden = true;
    const buttons = make("div", { className: "labkit-buttons" });
    buttons.append(this.startStop, this.snapshot, this.record);
    const settings = make("div", { className: "labkit-settings" });
    settings.append(
      field("Rung", this.rung), field("Compare with", this.second), field("Models", this.models),
      field("Size", this.size), this.cameraField, field("Threshold", this.threshold),
      field("Filter", this.filterOn), field("Filter radius (px)", this.radius),
      field("Filter eps", this.eps),
    );
    el.append(
      this.captions, this.canvas, this.message, buttons, settings, this.line, this.found, this.plot,
      this.legend, this.weights,
    );
    if (client.picture) this.paint(client.picture);
  }

  set(settings) {
    this.client.send({ type: "set", settings });
  }

  paint(picture) {
    if (!picture) return;
    if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
      this.canvas.width = picture.width;
      this.canvas.height = picture.height;
    }
    this.canvas.getContext("2d").drawImage(picture, 0, 0);
  }

  showState(state) {
    const { settings, choices } = state;
    this.startStop.textContent = state.running ? "Stop" : "Start";
    this.startStop.disabled = state.closed;
    this.snapshot.disabled = this.record.disabled = !state.running;
    this.record.textContent = state.recording ? "End recording" : "Record";
    this.record.setAttribute("aria-pressed", String(state.recording));
    const rungs = choices.rungs.map((rung) => ({
      value: rung.name,
      text: rung.unavailable ? `${rung.name} (${rung.unavailable})` : rung.name,
      title: rung.about,
      disabled: Boolean(rung.unavailable),
    }));
    offer(this.rung, rungs, settings.rung);
    offer(this.second, [{ value: "", text: "nothing" }, ...rungs], settings.second ?? "");
    offer(this.models, choices.model_sets.map((set) => ({ value: set, text: set })), settings.model_set);
    offer(
      this.size,
      choices.sizes.map(([w, h]) => ({ value: `${w}x${h}`, text: `${w} x ${h}` })),
      settings.size.join("x"),
    );
    this.threshold.show(settings.threshold);
    this.radius.show(settings.radius);
    this.eps.show(Math.log10(settings.eps));
    this.filterOn.checked = settings.filter_on;
    this.cameraField.hidden = state.camera === null;
    const rung = settings.rung === "auto" ? "" : settings.rung;
    this.captions.replaceChildren(
      ...[rung, settings.second].filter(Boolean).map((name) => make("span", { textContent: name })),
    );
    const parts = [state.fault, state.message, state.doing && `${state.doing} …`, state.note];
    this.message.textContent = [state.source, state.state, ...parts].filter(Boolean).join(" · ");
    this.message.classList.toggle("labkit-trouble", Boolean(state.fault || state.message));
    this.weights.textContent = state.weights.join(" · ");
    if (!state.running) this.line.textContent = "";
  }

  showStats(stats, bars) {
    if (!this.client.state?.running) return;
    const per = (n) => (n === null || n === undefined ? "–" : n.toFixed(1));
    const ms = (n) => (n === null || n === undefined ? "–" : `${n.toFixed(0)} ms`);
    const rungs = Object.entries(stats.rungs);
    const several = rungs.length > 1;
    const inferred = rungs.map(([name, of]) => `${several ? `${name} ` : ""}${per(of.fps)}`).join(", ");
    const took = rungs.map(([name, of]) => `${several ? `${name} ` : ""}${ms(of.took_ms)}`).join(", ");
    const boxes = rungs.map(([, of]) => ms(of.age_ms)).join(", ");
    this.line.textContent = [
      `frames per second: ${per(stats.fps.offered)} offered, ${per(stats.fps.captured)} captured, ` +
        `${inferred || "–"} inferred, ${per(stats.fps.displayed)} displayed`,
      `picture ${ms(stats.age_ms)} old when painted`,
      `a detection takes ${took || "–"} and is ${boxes || "–"} old when done`,
      `${stats.dropped} frames passed over`,
      ...(stats.timed_out ? [`${stats.timed_out} frames timed out on the page`] : []),
      ...(stats.camera_bound ? ["camera-bound: detection waits for frames"] : []),
    ].join(" · ");
    this.found.textContent = stats.found.map((names) => names || "nothing found").join(" | ");
    this.drawBars(bars);
  }

  drawBars(bars) {
    const names = [...new Set(bars.flatMap((bar) => Object.keys(bar.spans)))];
    const colour = (name) => COLOURS[names.indexOf(name) % COLOURS.length];
    const total = (bar) => Object.values(bar.spans).reduce((a, b) => a + b, 0);
    const top = Math.max(1, ...bars.map(total));
    const pen = this.plot.getContext("2d");
    const { width, height } = this.plot;
    pen.clearRect(0, 0, width, height);
    const step = width / BARS;
    bars.forEach((bar, i) => {
      let y = height;
      for (const name of names) {
        const h = ((bar.spans[name] ?? 0) / top) * (height - 2);
        pen.fillStyle = colour(name);
        pen.fillRect((BARS - bars.length + i) * step, y - h, Math.max(1, step - 1), h);
        y -= h;
      }
    });
    const last = bars[bars.length - 1]?.spans ?? {};
    this.legend.replaceChildren(
      ...names.map((name) => {
        const entry = make("span", { textContent: ` ${name} ${(last[name] ?? 0).toFixed(1)} ms ` });
        const swatch = make("span", { className: "labkit-swatch" });
        swatch.style.background = colour(name);
        entry.prepend(swatch);
        return entry;
      }),
      make("span", { textContent: `highest bar ${top.toFixed(0)} ms` }),
    );
  }

  showCameras(cameras, chosen) {
    const named = cameras.map((camera, i) => ({ value: camera.deviceId, text: camera.label || `camera ${i + 1}` }));
    offer(this.cameras, [{ value: "", text: "any" }, ...named], chosen);
  }
}

function make(tag, properties) {
  const { role, ariaLabel, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  if (role) node.setAttribute("role", role);
  if (ariaLabel) node.setAttribute("aria-label", ariaLabel);
  return node;
}

function button(text, onClick) {
  const node = make("button", { type: "button", textContent: text });
  node.addEventListener("click", onClick);
  return node;
}

function select(id, onChoice) {
  const node = make("select", { id });
  keepArrows(node);
  node.addEventListener("change", () => onChoice(node.value));
  return node;
}

function slider(id, min, max, step, onValue, shown = (value) => String(value)) {
  const node = make("span", { className: "labkit-slider" });
  const input = make("input", { type: "range", id, min, max, step });
  const output = make("output", {});
  output.htmlFor = id;
  keepArrows(input);
  input.addEventListener("input", () => {
    output.textContent = shown(Number(input.value));
    onValue(Number(input.value));
  });
  node.append(input, output);
  node.input = input;
  node.show = (value) => {
    if (document.activeElement === input) return; // it moves under the person's hand
    input.value = value;
    output.textContent = shown(Number(input.value));
  };
  return node;
}

// JupyterLab takes arrow keys for itself unless the focused element carries its mark; the mark
// would keep all other shortcuts from it too, so it stands there for arrows alone.
function keepArrows(node) {
  const mark = (event) => {
    if (!event.key.startsWith("Arrow") || event.target !== node) return;
    node.dataset.lmSuppressShortcuts = "true";
    setTimeout(() => delete node.dataset.lmSuppressShortcuts);
  };
  // The window hears of a key before the document, where JupyterLab listens.
  node.addEventListener("focus", () => window.addEventListener("keydown", mark, true));
  node.addEventListener("blur", () => window.removeEventListener("keydown", mark, true));
}

function field(text, control) {
  const node = make("div", { className: "labkit-field" });
  const label = make("label", { textContent: text });
  label.htmlFor = (control.input ?? control).id;
  node.append(label, control);
  return node;
}

function offer(node, options, chosen) {
  const key = JSON.stringify(options);
  if (node.dataset.offered !== key) {
    node.dataset.offered = key;
    node.replaceChildren(
      ...options.map(({ value, text, title = "", disabled = false }) =>
        Object.assign(document.createElement("option"), { value, text, title, disabled }),
      ),
    );
  }
  node.value = chosen;
}
