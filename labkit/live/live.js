// The page's side of the live view: shows frames, acknowledges them, sends what its controls say,
// and the pictures of the browser's camera. `view.py` lists the messages.
// Whatever comes from the kernel is set as text, never as markup.

const MAX_IN_FLIGHT = 2;
const TAKEN_TIMEOUT_MS = 1000; // a picture that nobody confirmed is given up, or sending would stop for good
const QUIET_MS = 2000; // a running view says something twice a second; if not, it may have given this page up
const UNSEEN_MS = 500; // a notebook that moves a cell takes its output off the page and puts it back
const PAINT_TIMEOUT_MS = 250; // browsers do not paint pages that are covered
const JPEG_QUALITY = 0.8;
const PLACES_MS = 200; // so often the page is searched for places of the view
const ASK_EVERY = 20; // searches; the kernel may have been busy
const BARS = 60;
const KEYS = [
  [" ", "pause or go on"], [".", "one frame further"], ["s", "stop or start"], ["m", "mirror"], ["i", "FPS on the picture"],
  ["f", "full screen"], ["g", "next filter"], ["-", "lower threshold"], ["+", "higher threshold"],
  ["d", "download the picture"], ["c", "begin or end a clip"],
];
const OTHER = "…"; // the choice that asks for a file or an address
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
    this.places = new Map(); // element of the page -> the panel in it
    this.asked = 0;
    this.fpsShown = true;
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
    this.search = setInterval(() => this.fillPlaces(), PLACES_MS);
  }

  close() {
    this.leave();
    clearInterval(this.watch);
    clearInterval(this.search);
    for (const [place, panel] of this.places) panel.leave(place);
    this.places.clear();
    this.camera.stop();
    this.model.off("msg:custom", this.onMessage);
    document.removeEventListener("visibilitychange", this.onVisibility);
    window.removeEventListener("pagehide", this.onLeave);
    window.removeEventListener("pageshow", this.onReturn);
    this.picture?.close();
    this.picture = null;
  }

  // JupyterLab saves what a cell shows, and a widget is "not found" when the notebook is opened again.
  // So the kernel is asked to put a sentence where it shows this view as a widget, and the view is
  // shown in the place of the sentence; no longer, where the place is gone.
  fillPlaces() {
    const asWidget = this.panels.size > this.places.size && document.querySelector(".jp-Notebook");
    if (asWidget && this.asked % ASK_EVERY === 0) this.send({ type: "place" });
    this.asked = asWidget ? this.asked + 1 : 0;
    const found = new Set(document.querySelectorAll(`[data-labkit-view="${this.model.get("view_id")}"]`));
    for (const place of found) {
      if (this.places.has(place)) continue;
      const panel = new Panel(this, place.appendChild(make("div", {})));
      place.firstElementChild.hidden = true; // the sentence for who opens the notebook later
      this.places.set(place, panel);
      this.attach(panel);
    }
    for (const [place, panel] of this.places) {
      if (found.has(place)) continue;
      this.places.delete(place);
      this.detach(panel);
    }
  }

  attach(panel) {
    this.panels.add(panel);
    if (this.state) panel.showState(this.state);
    if (this.camera.stream) this.camera.listDevices(); // one that came later has its own list to fill
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
      const visible = (this.wasVisible = this.visible); // said each time: a message can be lost, or overtaken
      this.send({ type: "pong", n: message.n, after: message.after, clock_ms: performance.now(), visible });
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
    else if (resized && (this.stream || this.starting)) this.restart();
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
    this.el = el;
    const id = (name) => `labkit-${name}-${Math.random().toString(36).slice(2)}`;
    el.classList.add("labkit-live");
    this.captions = make("div", { className: "labkit-captions" });
    this.canvas = make("canvas", { width: 640, height: 480, role: "img", ariaLabel: "The live picture" });
    this.stage = make("div", { className: "labkit-stage", tabIndex: 0, title: "Click it, then use the keys below" });
    this.stage.append(this.canvas);
    this.stage.addEventListener("keydown", (event) => this.press(event));
    this.stage.addEventListener("pointerdown", () => setTimeout(() => this.stage.focus({ preventScroll: true })));
    keepKeys(this.stage, (key) => KEYS.some(([known]) => known === key));
    this.message = make("p", { className: "labkit-message", role: "status" });
    this.addButtons();
    this.addSettings(id);
    this.classes = make("div", { className: "labkit-classes", role: "group", ariaLabel: "Show only" });
    this.figures = make("table", { className: "labkit-figures" });
    this.found = make("p", { className: "labkit-found" });
    this.plot = make("canvas", {
      className: "labkit-plot", role: "img",
      ariaLabel: "Milliseconds per step of the last detections; the figures stand below",
    });
    this.legend = make("p", { className: "labkit-legend" });
    this.weights = make("p", { className: "labkit-weights" });
    this.unavailable = make("details", { className: "labkit-unavailable" });
    const keys = make("details", { className: "labkit-keys" });
    keys.append(
      make("summary", { textContent: "Keys" }),
      ...KEYS.map(([key, what]) => {
        const entry = make("span", { textContent: ` ${what}` });
        entry.prepend(make("kbd", { textContent: key === " " ? "space" : key }));
        return entry;
      }),
    );
    const main = make("div", { className: "labkit-main" });
    const [picture, side] = [make("div", { className: "labkit-picture" }), make("div", { className: "labkit-side" })];
    picture.append(this.captions, this.stage, this.message, this.buttons);
    side.append(this.figures, this.found, this.plot, this.legend);
    main.append(picture, side);
    el.append(main, this.settings, this.classes, this.weights, this.unavailable, keys);
    if (client.picture) this.paint(client.picture);
  }

  addButtons() {
    const say = (type, more) => () => this.client.send({ type, ...more?.() });
    const state = () => this.client.state;
    this.startStop = button("Start", () => say(state()?.running ? "stop" : "start")());
    this.pause = button("Pause", say("pause", () => ({ on: !state()?.paused })));
    this.step = button("Step", say("step"));
    this.mirror = button("Mirror", () => this.set({ mirror: !state()?.settings.mirror }));
    this.fps = button("FPS", () => this.showFps(!this.client.fpsShown));
    this.fps.setAttribute("aria-pressed", String(this.client.fpsShown));
    const full = button("Full screen", () => this.fullScreen());
    this.snapshot = button("Keep this picture", say("snapshot"));
    this.record = button("Record", say("record", () => ({ on: !state()?.recording })));
    this.snapshot.title = this.record.title = "Into results/live of the machine that runs Python";
    const picture = button("Download picture", () => this.downloadPicture());
    this.clip = button("Download clip", () => this.toggleClip());
    this.clip.hidden = typeof MediaRecorder === "undefined" || !this.canvas.captureStream;
    this.buttons = make("div", { className: "labkit-buttons" });
    this.buttons.append(
      this.startStop, this.pause, this.step, this.mirror, this.fps, full, this.snapshot, this.record, picture,
      this.clip,
    );
  }

  addSettings(id) {
    const { client } = this;
    this.sources = select(id("source"), (value) => this.chooseSource(value));
    this.address = make("input", {
      type: "text", className: "labkit-address", placeholder: "file, folder or address; Enter", hidden: true,
      ariaLabel: "File, folder or address", spellcheck: false,
    });
    this.address.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !this.address.value.trim()) return;
      client.send({ type: "source", spec: this.address.value.trim() });
      this.address.hidden = true;
      this.address.value = "";
    });
    keepKeys(this.address, () => true);
    this.rung = select(id("rung"), (value) => this.set({ rung: value }));
    this.second = select(id("second"), (value) => this.set({ second: value || null }));
    this.models = select(id("models"), (value) => this.set({ model_set: value }));
    this.size = select(id("size"), (value) => this.set({ size: value.split("x").map(Number) }));
    this.objects = select(id("objects"), (value) => this.set({ objects: Number(value) }));
    this.cameras = select(id("camera"), (value) => client.camera.choose(value));
    this.threshold = slider(id("threshold"), 0, 1, 0.01, (value) => this.set({ threshold: value }));
    this.filter = select(id("filter"), (value) => this.set({ filter: value }));
    this.radius = slider(id("radius"), 1, 16, 1, (value) => this.set({ radius: value }));
    // eps spans decades, so the slider moves its logarithm.
    this.eps = slider(id("eps"), -4, 0, 0.05, (value) => this.set({ eps: 10 ** value }), (v) =>
      (10 ** v).toPrecision(2),
    );
    this.sourceField = field("Source", this.sources);
    this.sourceField.append(this.address);
    this.cameraField = field("Camera", this.cameras);
    this.cameraField.hidden = true;
    this.guided = [field("Filter radius (px)", this.radius), field("Filter eps", this.eps)];
    this.settings = make("div", { className: "labkit-settings" });
    this.settings.append(
      this.sourceField, this.cameraField, field("Rung", this.rung), field("Compare with", this.second),
      field("Models", this.models), field("Size", this.size), field("Boxes", this.objects),
      field("Threshold", this.threshold), field("Filter", this.filter), ...this.guided,
    );
  }

  // Leaves a place to the sentence that it had before.
  leave(place) {
    this.el.remove();
    if (place.firstElementChild) place.firstElementChild.hidden = false;
    this.client.panels.delete(this);
  }

  set(settings) {
    Object.assign(this.client.state.settings, settings); // what the next key press goes on from
    this.client.send({ type: "set", settings });
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { settings } = this.client.state ?? {};
    if (!settings) return;
    const threshold = (by) => () =>
      this.set({ threshold: Math.min(1, Math.max(0, Math.round(100 * (settings.threshold + by)) / 100)) });
    const filters = ["none", "guided", "edges"];
    const actions = {
      " ": () => this.pause.click(), ".": () => this.step.click(), s: () => this.startStop.click(),
      m: () => this.mirror.click(), i: () => this.fps.click(), f: () => this.fullScreen(),
      g: () => this.set({ filter: filters[(filters.indexOf(settings.filter) + 1) % filters.length] }),
      "-": threshold(-0.05), "+": threshold(0.05), d: () => this.downloadPicture(), c: () => this.toggleClip(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  chooseSource(value) {
    this.address.hidden = value !== OTHER;
    if (value === OTHER) this.address.focus();
    else this.client.send({ type: "source", spec: value });
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.stage.requestFullscreen?.().catch(() => {});
    this.stage.focus({ preventScroll: true }); // so that the keys work there
  }

  showFps(on) {
    this.client.fpsShown = on;
    for (const panel of this.client.panels) panel.fps.setAttribute("aria-pressed", String(on));
    this.paint(this.client.picture);
  }

  downloadPicture() {
    this.canvas.toBlob((blob) => blob && download(blob, "picture", "png"), "image/png");
  }

  // Films the canvas as it is painted, in this browser.
  toggleClip() {
    if (this.filming) return this.filming.stop();
    if (this.clip.hidden) return;
    const parts = [];
    this.filming = new MediaRecorder(this.canvas.captureStream());
    this.filming.addEventListener("dataavailable", ({ data }) => parts.push(data));
    this.filming.addEventListener("stop", () => {
      const type = this.filming.mimeType;
      this.filming = null;
      this.clip.textContent = "Download clip";
      this.clip.setAttribute("aria-pressed", "false");
      download(new Blob(parts, { type }), "clip", type.includes("mp4") ? "mp4" : "webm");
    });
    this.filming.start(1000);
    this.clip.textContent = "End the clip";
    this.clip.setAttribute("aria-pressed", "true");
  }

  paint(picture) {
    if (!picture) return;
    if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
      this.canvas.width = picture.width;
      this.canvas.height = picture.height;
    }
    const pen = this.canvas.getContext("2d");
    pen.drawImage(picture, 0, 0);
    const rungs = Object.values(this.client.stats?.rungs ?? {});
    if (!this.client.fpsShown || !rungs.length || !this.client.state?.running) return;
    const text = `${rungs.map((of) => rate(of.fps)).join(" / ")} FPS`;
    const px = Math.max(11, Math.round(picture.height / 30));
    pen.font = `600 ${px}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    const width = pen.measureText(text).width + px;
    pen.fillStyle = "rgb(0 0 0 / 65%)";
    pen.fillRect(picture.width - width, 0, width, 1.5 * px);
    pen.fillStyle = "#fff";
    pen.fillText(text, picture.width - width + px / 2, px / 4);
  }

  showState(state) {
    const { settings, choices } = state;
    this.startStop.textContent = state.running ? "Stop" : "Start";
    this.startStop.disabled = state.closed;
    for (const part of [this.snapshot, this.record, this.pause, this.step]) part.disabled = !state.running;
    this.record.textContent = state.recording ? "End recording" : "Record";
    this.record.setAttribute("aria-pressed", String(state.recording));
    this.pause.textContent = state.paused ? "Go on" : "Pause";
    this.pause.setAttribute("aria-pressed", String(state.paused));
    this.mirror.setAttribute("aria-pressed", String(settings.mirror));
    this.showSources(state);
    this.showRungs(choices.rungs, settings);
    offer(this.models, choices.model_sets.map((set) => ({ value: set, text: set })), settings.model_set);
    offer(
      this.size,
      choices.sizes.map(([w, h]) => ({ value: `${w}x${h}`, text: `${w} x ${h}` })),
      settings.size.join("x"),
    );
    offer(this.objects, choices.objects.map((n) => ({ value: String(n), text: String(n) })), String(settings.objects));
    offer(this.filter, ["none", "guided", "edges"].map((name) => ({ value: name, text: name })), settings.filter);
    this.threshold.show(settings.threshold);
    this.radius.show(settings.radius);
    this.eps.show(Math.log10(settings.eps));
    for (const part of this.guided) part.hidden = settings.filter !== "guided";
    this.cameraField.hidden = state.camera === null;
    const rung = settings.rung === "auto" ? "" : settings.rung;
    this.captions.replaceChildren(
      ...[rung, settings.second].filter(Boolean).map((name) => make("span", { textContent: name })),
    );
    const parts = [state.fault, state.message, state.doing && `${state.doing} …`, state.note];
    this.message.textContent = [state.source, state.state, ...parts].filter(Boolean).join(" · ");
    this.message.classList.toggle("labkit-trouble", Boolean(state.fault || state.message));
    this.weights.textContent = state.weights.join(" · ");
    this.showClasses(state.classes, settings.classes);
    if (!state.running) this.figures.replaceChildren();
  }

  showSources(state) {
    this.sourceField.hidden = !state.sources.length;
    const named = state.sources.map(({ spec, title }) => ({ value: spec, text: title }));
    if (!named.some(({ value }) => value === state.source)) {
      named.push({ value: state.source, text: state.source, disabled: true }); // credentials are left out of it
    }
    const asking = this.sources.value === OTHER && !this.address.hidden;
    offer(this.sources, [...named, { value: OTHER, text: "file or address …" }], asking ? OTHER : state.source);
  }

  showRungs(rungs, settings) {
    const able = rungs.filter((rung) => !rung.unavailable || [settings.rung, settings.second].includes(rung.name));
    const options = able.map(({ name, about, stage }) => ({
      value: name, text: name, title: about, group: stage === null ? "" : `Stage ${stage}`,
    }));
    offer(this.rung, options, settings.rung);
    offer(this.second, [{ value: "", text: "nothing" }, ...options], settings.second ?? "");
    const unable = rungs.filter((rung) => rung.unavailable);
    this.unavailable.hidden = !unable.length;
    if (this.unavailable.dataset.count === String(unable.length)) return;
    this.unavailable.dataset.count = unable.length;
    this.unavailable.replaceChildren(
      make("summary", { textContent: `${unable.length} rungs cannot run here` }),
      ...unable.map(({ name, unavailable }) => make("div", { textContent: `${name}: ${unavailable}` })),
    );
  }

  // A button per class that was found; those that are pressed are shown, all of them if none is.
  showClasses(classes, chosen) {
    const key = JSON.stringify([classes, chosen]);
    if (this.classes.dataset.shown === key) return;
    this.classes.dataset.shown = key;
    this.classes.replaceChildren(
      ...(classes.length ? [make("span", { textContent: "Show only" })] : []),
      ...classes.map(([name, colour]) => {
        const pressed = chosen.includes(name);
        const node = button(name, () =>
          this.set({ classes: pressed ? chosen.filter((other) => other !== name) : [...chosen, name] }),
        );
        node.prepend(swatch(colour));
        node.setAttribute("aria-pressed", String(pressed));
        return node;
      }),
    );
  }

  showStats(stats, bars) {
    if (!this.client.state?.running) return;
    const rows = [
      ["", "FPS", "takes", "age"],
      ["offered", rate(stats.fps.offered), "", ""],
      ["captured", rate(stats.fps.captured), "", ""],
      ...Object.entries(stats.rungs).map(([name, of]) => [`inferred by ${name}`, rate(of.fps), ms(of.took_ms), ms(of.age_ms)]),
      ["displayed", rate(stats.fps.displayed), "", ms(stats.age_ms)],
    ];
    const counts = [
      ["frames passed over", stats.dropped], ["frames that failed", stats.failed],
      ["frames timed out on the page", stats.timed_out],
    ].filter(([name, count]) => count || name === "frames passed over");
    this.figures.replaceChildren(
      ...rows.map((row, i) => {
        const line = make("tr", {});
        line.append(...row.map((text, j) => make(i && j ? "td" : "th", { textContent: text, scope: i ? "row" : "col" })));
        return line;
      }),
      ...counts.map(([name, count]) => {
        const line = make("tr", {});
        line.append(make("th", { textContent: name, scope: "row" }), make("td", { textContent: String(count) }));
        return line;
      }),
    );
    const names = stats.found.map((each) => each || "nothing found").join(" | ");
    this.found.textContent = names + (stats.camera_bound ? " · detection waits for frames (camera-bound)" : "");
    this.drawBars(bars);
  }

  drawBars(bars) {
    const names = [...new Set(bars.flatMap((bar) => Object.keys(bar.spans)))];
    const colour = (name) => COLOURS[names.indexOf(name) % COLOURS.length];
    const totals = bars.map((bar) => Object.values(bar.spans).reduce((a, b) => a + b, 0));
    const highest = Math.max(0, ...totals);
    const top = axisTop(totals);
    const [width, height] = [this.plot.clientWidth || 600, this.plot.clientHeight || 110];
    this.plot.width = width * devicePixelRatio;
    this.plot.height = height * devicePixelRatio;
    const pen = this.plot.getContext("2d");
    pen.scale(devicePixelRatio, devicePixelRatio);
    const [left, head, foot] = [60, 10, 6];
    const y = (value) => height - foot - (value / top) * (height - head - foot);
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.fillStyle = pen.strokeStyle = getComputedStyle(this.plot).color;
    for (const value of [0, top / 2, top]) {
      pen.fillText(`${Number(value.toPrecision(3))} ms`, left - 6, y(value));
      pen.globalAlpha = 0.25;
      pen.fillRect(left, y(value), width - left, 1);
      pen.globalAlpha = 1;
    }
    const step = (width - left) / BARS;
    bars.forEach((bar, i) => {
      const x = left + (BARS - bars.length + i) * step;
      let from = 0;
      for (const name of names) {
        const to = Math.min(top, from + (bar.spans[name] ?? 0));
        pen.fillStyle = colour(name);
        pen.fillRect(x, y(to), Math.max(1, step - 1), y(from) - y(to));
        from = to;
      }
      if (totals[i] <= top) return;
      pen.fillStyle = getComputedStyle(this.plot).color; // an arrow: it goes on above the axis
      pen.beginPath();
      pen.moveTo(x + step / 2, 0);
      pen.lineTo(x, head - 3);
      pen.lineTo(x + step, head - 3);
      pen.fill();
    });
    const last = bars[bars.length - 1]?.spans ?? {};
    this.legend.replaceChildren(
      ...names.map((name) => {
        const entry = make("span", { textContent: ` ${name} ${(last[name] ?? 0).toFixed(1)} ms ` });
        entry.prepend(swatch(colour(name)));
        return entry;
      }),
      make("span", { textContent: highest > top ? `▲ up to ${highest.toFixed(0)} ms` : "" }),
    );
  }

  showCameras(cameras, chosen) {
    const named = cameras.map((camera, i) => ({ value: camera.deviceId, text: camera.label || `camera ${i + 1}` }));
    offer(this.cameras, [{ value: "", text: "any" }, ...named], chosen);
  }
}

const rate = (n) => (n === null || n === undefined ? "–" : n.toFixed(1));
const ms = (n) => (n === null || n === undefined ? "–" : `${n.toFixed(0)} ms`);

// The end of the plot's axis: a round number above nearly all bars. The first ones, which take many
// times longer, would flatten all others.
export function axisTop(totals) {
  const sorted = [...totals].sort((a, b) => a - b);
  const usual = sorted[Math.floor(0.9 * (sorted.length - 1))] ?? 1;
  const wanted = Math.max(0.1, Math.min(sorted[sorted.length - 1] ?? 1, 1.5 * usual));
  const decade = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((n) => n * decade).find((value) => value >= wanted * 0.999);
}

function download(blob, kind, suffix) {
  const when = new Date().toISOString().slice(0, 19).replaceAll(":", "").replace("T", "-");
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: `labkit-${kind}-${when}.${suffix}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function swatch(colour) {
  const node = make("span", { className: "labkit-swatch" });
  node.style.background = colour;
  return node;
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
  keepKeys(node, isArrow);
  node.addEventListener("change", () => onChoice(node.value));
  return node;
}

function slider(id, min, max, step, onValue, shown = (value) => String(value)) {
  const node = make("span", { className: "labkit-slider" });
  const input = make("input", { type: "range", id, min, max, step });
  const output = make("output", {});
  output.htmlFor = id;
  keepKeys(input, isArrow);
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

const isArrow = (key) => key.startsWith("Arrow");

// JupyterLab takes keys for itself unless the focused element carries its mark; the mark would keep
// all other shortcuts from it too, so it stands there for the keys that are wanted alone.
function keepKeys(node, wanted) {
  const mark = (event) => {
    if (!wanted(event.key) || event.target !== node || event.ctrlKey || event.metaKey) return;
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
    const groups = new Map();
    node.replaceChildren();
    for (const { value, text, title = "", disabled = false, group = "" } of options) {
      const option = Object.assign(document.createElement("option"), { value, text, title, disabled });
      if (group && !groups.has(group)) groups.set(group, node.appendChild(make("optgroup", { label: group })));
      (groups.get(group) ?? node).append(option);
    }
  }
  node.value = chosen;
}
