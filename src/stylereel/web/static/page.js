// What gradio does not do: jobs that outlive a reload, pictures that move at once, sliders that never lag.

const get = async (path, method = "GET") => {
  const answer = await fetch(path, { method });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail || "The page does not answer; is it still running?");
  return body;
};

// An element; text is always text, never markup.
const h = (tag, given = {}, ...inside) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.filter((each) => each !== null && each !== undefined));
  return made;
};

const time = (seconds) => {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60), rest = String(Math.round(seconds % 60)).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
};

const WORDS = {
  load: "Getting ready", identify: "Finding the person", extract: "Reading the motion", render: "Drawing",
  encode: "Writing the file", decode: "Reading the file", find: "Finding the face", read: "Reading the face",
  sample: "Making up the motion", speak: "Reading the text aloud", background: "Putting the background in", paste: "Pasting the head in",
};
const EMPTY = {
  drive: "Your videos will be here.", say: "What was said will be here.", sample: "Your videos will be here.",
  encode: "Your files will be here.", look: "What is in your files will be shown here.",
  live: "What you record will be here.", people: "The people whom you made will be here.", edit: "The people whom you kept will be here.",
};

// --- jobs

const jobs = {
  list: null, error: "", timer: 0, watchers: new Set(), open: new Set(),
  async poll() {
    clearTimeout(this.timer);
    try {
      this.take(await get("/page/jobs"));
    } catch (error) {
      this.error = error.message;
      this.tell();
      this.timer = setTimeout(() => this.poll(), 3000);
    }
  },
  take(list) {
    const done = (from) => new Set((from || []).filter((job) => job.state === "done").map((job) => job.name));
    const before = done(this.list), now = done(list);
    const first = this.list === null;
    this.list = list;
    this.error = "";
    this.tell();
    if (!first && (now.size !== before.size || [...now].some((name) => !before.has(name)))) refresh();
    if (list.some((job) => job.state === "waiting" || job.state === "running"))
      this.timer = setTimeout(() => this.poll(), document.hidden ? 3000 : 400);
  },
  soon() { for (const after of [500, 1500, 3000, 6000, 12000]) setTimeout(() => this.poll(), after); },
  tell() { for (const each of this.watchers) each.update(); },
  async change(path, method) {
    try { this.take(await get(path, method)); } catch (error) { this.error = error.message; this.tell(); }
  },
};
document.addEventListener("visibilitychange", () => document.hidden || jobs.poll());

const refresh = () => document.querySelector("#sr-refresh")?.click();

const copy = async (button, text) => {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = h("textarea", { class: "sr-copy" });
    field.value = text;
    button.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = said), 1500);
};

const kind = (file) => {
  const ending = file.slice(file.lastIndexOf(".") + 1);
  if (["mp4", "webm"].includes(ending)) return "video";
  if (["png", "jpg", "jpeg", "webp", "gif"].includes(ending)) return "image";
  return "file";
};
const NAMES = { json: "record", talk: "talk file", mp4: "video", webm: "video", mkv: "lossless video", gif: "moving picture", png: "picture", wav: "voice" };

const shown = (job) => {
  const file = job.files.find((each) => kind(each) !== "file");
  if (!file) return null;
  const path = `/page/files/${job.name}/${file}`;
  if (kind(file) === "image") return h("a", { href: path, target: "_blank", rel: "noopener" }, h("img", { src: path, alt: `Result: ${job.title}`, class: "sr-shown" }));
  return h("video", { src: path, class: "sr-shown", controls: true, loop: true, muted: true, autoplay: true, playsinline: true, "aria-label": `Result: ${job.title}` });
};

const table = (rows) => h("table", { class: "sr-table" }, h("tbody", {}, ...rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, /^#[0-9a-f]{6}$/.test(value) ? h("span", { class: "sr-chip", style: `background:${value}` }) : "", String(value))))));

const facts = (job) => {
  const made = [];
  for (const { facts } of job.about) {
    if (facts?.read) made.push(table(Object.entries(facts.read)));
    if (facts?.["kbit/s"]) made.push(rates(facts));
    if (facts?.["rate against error"]) made.push(curve(facts["rate against error"]));
  }
  return made;
};

// What a talk file spends its bytes on, as bars.
const rates = (facts) => {
  const spent = Object.entries(facts["kbit/s"]);
  const most = Math.max(...spent.map(([, rate]) => rate), 1e-9);
  const rows = spent.map(([name, rate]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, `${rate} kbit/s`), h("td", { class: "sr-wide" }, h("span", { class: "sr-bar", style: `width:${(100 * rate) / most}%` }))));
  const lasts = Object.entries(facts["bytes at this rate"] || {}).map(([name, bytes]) => `${name}: ${(bytes / 1000).toFixed(1)} kB`).join(", ");
  return h("div", {}, h("table", { class: "sr-table" }, h("tbody", {}, ...rows)), lasts && h("p", { class: "sr-small" }, `At this rate ${lasts}.`));
};

// How wrong the motion is at each rate.
const curve = (table) => {
  const rows = Object.entries(table).sort(([one], [other]) => one - other);
  const most = Math.max(...rows.map(([, { head }]) => head), 1e-9);
  return h("table", { class: "sr-table" }, h("caption", {}, "What other rates would cost in accuracy"),
    h("thead", {}, h("tr", {}, ...["Rate", "Head", "Expression", ""].map((word) => h("th", { scope: "col" }, word)))),
    h("tbody", {}, ...rows.map(([rate, { head, face }]) => h("tr", {}, h("th", { scope: "row" }, `${rate} kbit/s`), h("td", {}, `${head.toFixed(2)}° off`), h("td", {}, `${(100 * face).toFixed(1)} % off`), h("td", { class: "sr-wide" }, h("span", { class: "sr-bar", style: `width:${(100 * head) / most}%` }))))));
};

const card = (job, large) => {
  const buttons = h("div", { class: "sr-buttons" });
  const body = h("div", { class: "sr-body" });
  if (job.state === "done") {
    body.append(...[shown(job), ...facts(job)].filter(Boolean));
    const main = job.files[0], names = { ...NAMES, safetensors: { live: "motion", people: "person", edit: "person" }[job.tab] || "numbers" };
    for (const file of job.files)
      buttons.append(h("a", { class: file === main ? "sr-button sr-strong" : "sr-button", href: `/page/files/${job.name}/${file}?download=true`, download: "" }, file === main ? "Download" : names[file.split(".").pop()] || file));
    if ((job.tab === "people" || job.tab === "edit") && job.files.some((file) => file.endsWith(".safetensors")))
      buttons.append(h("button", { class: "sr-button", type: "button", onclick: () => use(job) }, "Use in Drive"));
    buttons.append(
      h("button", { class: "sr-button", type: "button", onclick: (event) => copy(event.target, job.command) }, "Copy the command line"),
      h("button", { class: "sr-button", type: "button", onclick: (event) => copy(event.target, job.python) }, "Copy the Python"),
    );
    const lines = job.about.flatMap((each) => each.lines);
    if (lines.length) body.append(h("details", { class: "sr-how" }, h("summary", {}, job.seconds ? `Made in ${time(job.seconds)}: how` : "How it went"), h("pre", {}, lines.join("\n"))));
  } else if (job.state === "failed") {
    body.append(h("p", { class: "sr-error", role: "alert" }, job.message));
  } else if (job.state === "stopped") {
    body.append(h("p", { class: "sr-small" }, job.message));
  }
  if (job.state !== "waiting" && job.state !== "running")
    buttons.append(h("button", { class: "sr-button sr-faint", type: "button", onclick: () => jobs.change(`/page/jobs/${job.name}`, "DELETE"), "aria-label": `Delete ${job.title}` }, "Delete"));
  body.append(buttons);
  if (large) return h("article", { class: "sr-card", "data-state": job.state }, h("h3", {}, job.title), body);
  const state = { done: "", failed: "did not work", stopped: "stopped" }[job.state] ?? "";
  const small = h("details", { class: "sr-card sr-small-card", "data-state": job.state, open: jobs.open.has(job.name) }, h("summary", {}, job.title, state && h("span", { class: "sr-state" }, state)));
  const fill = () => { small.open ? jobs.open.add(job.name) : jobs.open.delete(job.name); if (small.open && !body.isConnected) small.append(body); };
  small.addEventListener("toggle", fill);
  fill();
  return small;
};

// A job that waits or runs: its words and its bar change in place.
const going = (job) => {
  const said = h("p", { class: "sr-said", role: "status" });
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const stop = h("button", { class: "sr-button", type: "button", onclick: () => { stop.disabled = true; jobs.change(`/page/jobs/${job.name}/stop`, "POST"); } }, "Stop");
  const made = h("article", { class: "sr-card", "data-state": "running" }, h("h3", {}, job.title), bar, h("div", { class: "sr-line" }, said, stop));
  made.update = (job) => {
    const stage = job.stage.includes(": ") ? job.stage.split(": ").pop() : job.stage;
    const word = WORDS[stage] || stage || "Getting ready";
    if (job.state === "waiting") said.textContent = job.position > 1 ? `Waiting: number ${job.position} in the line` : "Next in the line";
    else if (job.total) said.textContent = `${word}: ${job.done} of ${job.total}${job.left === null ? "" : `, ${time(job.left)} left`}`;
    else said.textContent = `${word} ...`;
    if (job.state === "running" && job.total) bar.value = job.done / job.total;
    else bar.removeAttribute("value");
  };
  made.update(job);
  return made;
};

class Jobs extends HTMLElement {
  connectedCallback() {
    this.have = new Map();
    jobs.watchers.add(this);
    jobs.list === null ? jobs.poll() : this.update();
  }
  disconnectedCallback() { jobs.watchers.delete(this); }
  update() {
    const mine = (jobs.list || []).filter((job) => job.tab === this.getAttribute("for"));
    const keep = new Map();
    mine.forEach((job, place) => {
      const open = job.state === "waiting" || job.state === "running";
      const key = open ? `${job.name} open` : `${job.name} ${job.state} ${place === 0}`;
      const made = this.have.get(key) || (open ? going(job) : card(job, place === 0));
      if (open) made.update(job);
      keep.set(key, made);
    });
    for (const [key, made] of this.have) if (!keep.has(key)) made.remove();
    this.have = keep;
    [...keep.values()].forEach((made, place) => { if (this.children[place] !== made) this.insertBefore(made, this.children[place] || null); });
    this.note?.remove();
    this.note = jobs.error ? h("p", { class: "sr-error", role: "alert" }, jobs.error) : mine.length ? null : h("p", { class: "sr-empty" }, EMPTY[this.getAttribute("for")] || "Results will be here.");
    if (this.note) this.append(this.note);
  }
}
customElements.define("sr-jobs", Jobs);

// --- pictures from the stage

// Asks for pictures over one websocket, one at a time: the newest wish is sent when the last answer is here.
class Stage {
  constructor(show, fail, values) { Object.assign(this, { show, fail, values, number: 0, flying: 0, next: null }); }
  ask(wish) { this.next = wish; this.send(); }
  send() {
    if (!this.next || this.flying) return;
    if (!this.socket || this.socket.readyState > 1) this.connect();
    if (this.socket.readyState !== 1) return;
    this.flying = ++this.number;
    this.begun = performance.now();
    this.socket.send(JSON.stringify({ ...this.next, n: this.number }));
    this.next = null;
  }
  connect() {
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/page/stage`);
    this.socket.binaryType = "blob";
    this.socket.onopen = () => this.send();
    this.socket.onclose = (event) => { this.flying = 0; if (event.code > 4000) this.fail(event.reason); };
    this.socket.onmessage = async ({ data }) => {
      if (typeof data === "string") {
        const said = JSON.parse(data);
        if (said.values) return this.values?.(said.values);
        this.flying = 0;
        this.fail(said.error);
        return this.send();
      }
      const took = performance.now() - this.begun;
      const picture = await createImageBitmap(data.slice(4, data.size, "image/jpeg"));
      this.flying = 0;
      this.show(picture, took);
      this.send();
    };
  }
  close() { this.socket?.close(); this.socket = null; this.flying = 0; this.next = null; }
}

const draw = (canvas, picture) => {
  if (canvas.width !== picture.width) canvas.width = canvas.height = picture.width;
  canvas.getContext("2d").drawImage(picture, 0, 0);
};

const RATE = 25, ROUNDS = 5, LENGTH = 100; // of the example clip: frames a second; how often it is played; frames

class Preview extends HTMLElement {
  connectedCallback() {
    this.canvas = h("canvas", { width: 256, height: 256, role: "img", "aria-label": "The chosen person" });
    this.button = h("button", { class: "sr-play", type: "button", onclick: () => (this.playing ? this.stop() : this.play()) });
    this.said = h("p", { class: "sr-small", role: "status" });
    this.replaceChildren(h("div", { class: "sr-screen" }, this.canvas, this.button), this.said);
    this.stage = new Stage((picture) => this.show(picture), (error) => { this.stop(); this.said.textContent = error; });
    this.stop();
    this.still();
  }
  disconnectedCallback() { this.stop(); this.stage.close(); }
  get person() { return this.getAttribute("person"); }
  change(person) {
    if (!person || person === this.person) return;
    this.setAttribute("person", person);
    if (!this.playing) this.still();
  }
  still() { this.stage.ask({ person: this.person, moment: 0 }); }
  play() {
    this.playing = true;
    this.begun = performance.now();
    this.button.dataset.playing = "";
    this.button.setAttribute("aria-label", "Stop the preview");
    this.button.textContent = "";
    this.step();
  }
  stop() {
    this.playing = false;
    delete this.button.dataset.playing;
    this.button.setAttribute("aria-label", "See this person move now");
    this.button.textContent = "See this person move";
  }
  step() {
    const moment = Math.floor(((performance.now() - this.begun) * RATE) / 1000);
    if (moment > ROUNDS * LENGTH || document.hidden) return this.stop();
    this.stage.ask({ person: this.person, moment: moment % LENGTH });
  }
  show(picture) {
    draw(this.canvas, picture);
    this.said.textContent = "";
    if (this.playing) this.step();
  }
}
customElements.define("sr-preview", Preview);

// --- what the forms call

const use = (job) => {
  const file = job.files.find((each) => each.endsWith(".safetensors"));
  const field = document.querySelector("#sr-use textarea, #sr-use input");
  if (!field) return;
  field.value = `${job.name}/${file}`;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => document.querySelector("#sr-use-go")?.click(), 50);
};

window.stylereel = {
  asked(tab) {
    jobs.poll();
    const place = document.querySelector(`sr-jobs[for="${tab}"]`);
    if (place && window.innerWidth < 800) place.scrollIntoView({ behavior: "smooth" });
  },
  person(tab, person) {
    if (person === null || person === undefined || person === "") return;
    for (const each of document.querySelectorAll(`[for="${tab}"]`)) each.change?.(String(person));
  },
};

// --- Edit

const edits = {
  person: null, factors: {}, values: null, sliders: null, shown: null,
  get wish() { return { person: this.person, factors: this.factors, values: !this.values }; },
  begin(person) { this.person = person; this.factors = {}; this.values = null; this.ask(); },
  set(name, value) { this.factors[name] = value; this.ask(); },
  ask() { if (this.person !== null) this.shown?.stage.ask(this.wish); },
};

class Sliders extends HTMLElement {
  async connectedCallback() {
    edits.sliders = this;
    if (this.rows) return;
    this.rows = new Map();
    const groups = await get("/page/sliders");
    this.replaceChildren(...groups.map(({ title, sliders }, place) => h("details", { class: "sr-sliders", open: place < 2 }, h("summary", {}, title), h("div", {}, ...sliders.map((one) => this.row(one))))));
    if (edits.values) this.fill(edits.values);
  }
  row({ name, label, low, high }) {
    const input = h("input", { type: "range", id: `slider-${name}`, min: low, max: high, step: (high - low) / 100 });
    const said = h("output", { for: `slider-${name}` });
    const show = () => { said.textContent = Number(input.value).toFixed(high - low > 10 ? 0 : 2); };
    input.addEventListener("input", () => { show(); edits.set(name, Number(input.value)); });
    const words = h("label", { for: `slider-${name}`, title: "Double-click: as it was", ondblclick: () => { if (edits.values) { input.value = edits.values[name]; show(); delete edits.factors[name]; edits.ask(); } } }, label);
    this.rows.set(name, { input, show });
    return h("div", { class: "sr-slider" }, words, said, input);
  }
  fill(values) {
    for (const [name, { input, show }] of this.rows) if (name in values) { input.value = values[name]; show(); }
  }
}
customElements.define("sr-sliders", Sliders);

class Edited extends HTMLElement {
  connectedCallback() {
    edits.shown = this;
    this.canvas = h("canvas", { width: 256, height: 256, role: "img", "aria-label": "The edited person" });
    this.said = h("p", { class: "sr-small", role: "status" });
    this.named = h("input", { type: "text", class: "sr-title", placeholder: "A name for this person", "aria-label": "A name for this person", maxlength: 60 });
    this.replaceChildren(
      h("div", { class: "sr-screen" }, this.canvas), this.said,
      h("div", { class: "sr-buttons sr-middle" }, this.named,
        h("button", { class: "sr-button sr-strong", type: "button", onclick: () => this.keep() }, "Keep this person"),
        h("button", { class: "sr-button", type: "button", onclick: () => this.save() }, "Save the picture"),
        h("button", { class: "sr-button", type: "button", onclick: () => edits.begin(edits.person) }, "As it was")),
    );
    this.stage = new Stage(
      (picture, took) => { draw(this.canvas, picture); this.took = took; this.dataset.took = Math.round(took); this.said.textContent = `Drawn in ${Math.round(took)} ms`; },
      (error) => { this.said.textContent = error; },
      (values) => { edits.values = values; edits.sliders?.fill(values); },
    );
    edits.begin(edits.person ?? this.getAttribute("person"));
  }
  disconnectedCallback() { this.stage.close(); }
  change(person) { if (person !== edits.person) edits.begin(person); }
  async keep() {
    const answer = await fetch("/page/keep", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ person: edits.person, factors: edits.factors, title: this.named.value || `Edited person ${edits.person.replace(/\/.*/, "")}` }) });
    const body = await answer.json().catch(() => ({}));
    if (answer.ok) jobs.take(body);
    else this.said.textContent = body.detail || "This could not be kept.";
  }
  save() {
    this.canvas.toBlob((blob) => {
      const link = h("a", { href: URL.createObjectURL(blob), download: "person.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, "image/png");
  }
}
customElements.define("sr-edited", Edited);

// --- Live

class Live extends HTMLElement {
  connectedCallback() {
    const canvas = h("canvas", { width: 256, height: 256, role: "img", "aria-label": "The person before the start" });
    this.replaceChildren(h("div", { class: "sr-screen sr-still" }, canvas));
    this.stage ??= new Stage((picture) => draw(this.querySelector(".sr-still canvas") || h("canvas"), picture), () => {});
    this.change(this.getAttribute("person"));
  }
  disconnectedCallback() { this.stage?.close(); }
  change(person) {
    this.setAttribute("person", person);
    if (this.querySelector(".sr-still")) this.stage.ask({ person, moment: 0 });
  }
  open(ticket) {
    const frame = h("iframe", { src: `/live/?ticket=${ticket}`, class: "sr-live", title: "The live picture", allow: "camera; microphone; autoplay" });
    this.replaceChildren(frame, h("div", { class: "sr-buttons sr-middle" }, h("button", { class: "sr-button", type: "button", onclick: () => this.stop() }, "Stop")));
    if (window.innerWidth < 800) this.scrollIntoView({ behavior: "smooth" });
  }
  stop() {
    this.connectedCallback();
    jobs.soon(); // a recording is finished in a moment
  }
}
customElements.define("sr-live", Live);

// Put under the button when a session may begin.
class Ticket extends HTMLElement {
  connectedCallback() { document.querySelector("sr-live")?.open(this.getAttribute("ticket")); }
}
customElements.define("sr-ticket", Ticket);
