// The live page. It reads frames from live/events and draws them; docs/operate/live-page.md has
// their fields. All text goes into the page by textContent: request ids are their clients' words.

const RETRY_MS = 3000;
const SILENCE_MS = 8000; // without a frame for so long, the connection counts as lost
const NUM_POINTS = 240; // of a line: one minute of frames
const NUM_ENDED = 10;
const NUM_QUEUED = 6;
const NUM_PROMPTS = 8; // of each prefill worker, and of the hand-offs
const WINDOWS_S = [2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400];
const TICKS = 5;
const TOKEN_KEY = "pdserve-admin-token";
const CAUSES = ["decoding", "pulling", "prefilling", "sending", "queued", "preempted", "swapped",
  "used", "unaccounted", "cached", "free"];

const $ = (id) => document.getElementById(id);
const isCoarse = matchMedia("(pointer: coarse)");
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function rate(value) {
  return value === null ? "–" : value < 10 ? tenths.format(value) : whole.format(value);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 100) return `${whole.format(seconds)} s`;
  if (seconds >= 1) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
}

function bytes(value) {
  const mib = value / 2 ** 20;
  return mib >= 1024 ? `${tenths.format(mib / 1024)} GiB` : `${tenths.format(mib)} MiB`;
}

const percent = (part, all) => `${(100 * Math.min(Math.max(part / all, 0), 1)).toFixed(2)}%`;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const plural = (number, noun) => `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;

// --- lines ---------------------------------------------------------------------------------

class Line {
  #points = [];
  #path = document.createElementNS("http://www.w3.org/2000/svg", "path");

  constructor(svg) {
    svg.setAttribute("viewBox", `0 0 ${NUM_POINTS} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(this.#path);
  }

  add(value) {
    this.#points.push(value ?? 0);
    if (this.#points.length > NUM_POINTS) this.#points.shift();
    const most = Math.max(...this.#points) || 1;
    const width = NUM_POINTS / Math.max(this.#points.length - 1, 1);
    const places = this.#points.map(
      (point, i) => `${(i * width).toFixed(1)},${(98 - 96 * point / most).toFixed(1)}`);
    this.#path.setAttribute("d", `M${places.join("L")}`);
  }
}

// --- lists of requests ---------------------------------------------------------------------

// A list whose rows stay while their requests do. One row is a tab stop, and arrows move on.
class RequestList {
  #rows = new Map();

  constructor(list, draw) {
    this.list = list;
    this.draw = draw;
    list.addEventListener("keydown", (event) => this.#move(event));
    list.addEventListener("focusin", (event) => this.#setStop(event.target));
  }

  show(requests, frame) {
    const ids = new Set(requests.map((request) => request.id));
    for (const [id, row] of this.#rows) if (!ids.has(id)) this.#leave(id, row);
    let place = this.list.firstElementChild;
    for (const request of requests) {
      const row = this.#rows.get(request.id) ?? this.#add(request.id);
      while (place?.classList.contains("leaving")) place = place.nextElementSibling;
      if (row.item === place) place = place.nextElementSibling;
      else this.#put(row.item, place);
      this.draw(row, request, frame);
    }
    this.#setStop(this.list.querySelector('li:not(.leaving) [tabindex="0"]'));
  }

  #add(id) {
    const [item, button, track] = [make("li"), make("button", "request"), make("span", "track")];
    const row = { item, button, track, bar: make("span", "bar"), count: make("span", "count") };
    button.type = "button";
    button.dataset.id = id;
    button.title = id;
    button.tabIndex = -1;
    button.addEventListener("click", () => detail.open(id, button));
    track.append(row.bar);
    button.append(track, make("span", "id", id), row.count);
    item.append(button);
    this.#rows.set(id, row);
    return row;
  }

  #put(item, place) {
    const focused = item.contains(document.activeElement) ? document.activeElement : null;
    this.list.insertBefore(item, place);
    focused?.focus(); // moving an element takes its focus
  }

  #leave(id, row) {
    this.#rows.delete(id);
    if (row.item.contains(document.activeElement)) {
      const buttons = this.#buttons();
      const at = buttons.indexOf(row.button);
      (buttons[at + 1] ?? buttons[at - 1])?.focus();
    }
    row.button.tabIndex = -1;
    row.item.classList.add("leaving");
    row.item.setAttribute("aria-hidden", "true");
    if (isStill.matches) row.item.remove();
    else setTimeout(() => row.item.remove(), 320);
  }

  #buttons() {
    return [...this.list.querySelectorAll("li:not(.leaving) > button")];
  }

  #setStop(wanted) {
    const buttons = this.#buttons();
    const stop = buttons.includes(wanted) ? wanted : buttons[0];
    for (const button of buttons) button.tabIndex = button === stop ? 0 : -1;
  }

  #move(event) {
    const buttons = this.#buttons();
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    buttons[Math.min(Math.max(to, 0), buttons.length - 1)].focus();
  }
}

// A row of the escalator: the request's time from its arrival to now, coloured by stage.
function drawOnEscalator(row, request, frame) {
  const shown = Math.min(request.age_s, frame.window_s) || 0.001;
  const cut = request.age_s - shown;
  const place = (at) => (at === null ? "100%" : percent(at - cut, shown));
  row.bar.style.setProperty("--left", percent(frame.window_s - shown, frame.window_s));
  row.bar.style.setProperty("--a", place(request.submitted_s));
  row.bar.style.setProperty("--b", place(request.first_token_s));
  row.button.dataset.state = request.state ?? request.stage;
  const isAway = request.state === "preempted" || request.state === "swapped";
  write(row.count, isAway ? request.state : `${request.output_tokens}/${request.max_tokens}`);
}

// A row whose bar says how much of the prompt has run.
function drawProgress(row, request) {
  const done = request.computed_tokens ?? 0;
  row.bar.className = "progress";
  row.bar.style.setProperty("--done", percent(done, request.prompt_tokens));
  write(row.count, `${Math.min(done, request.prompt_tokens)}/${request.prompt_tokens}`);
}

function drawHandoff(row, request) {
  const done = request.stage === "handoff" ? request.prompt_tokens : request.pulled_tokens;
  row.bar.className = "progress";
  row.bar.style.setProperty("--done", percent(done, request.prompt_tokens));
  write(row.count, `${done}/${request.prompt_tokens}`);
}

function drawQueued(row, request, frame) {
  row.bar.className = "progress";
  row.bar.style.setProperty("--done", percent(request.age_s, frame.longest_wait_s));
  write(row.count, duration(request.age_s));
}

function drawEnded(row, request) {
  row.track.remove();
  write(row.count, `${whole.format(request.output_tokens)}+ tokens, ${duration(request.age_s)}`);
}

// --- workers -------------------------------------------------------------------------------

class Worker {
  constructor(name, role) {
    this.element = make("article", "worker");
    const header = make("header");
    this.title = make("h3", "", name);
    this.state = make("span", "state");
    this.facts = make("span", "facts-line");
    this.note = make("span", "note");
    header.append(this.title, this.state, this.facts, this.note);
    const list = make("ul", role === "decode" ? "rows escalator" : "rows");
    list.setAttribute("aria-label", `Requests at ${name}`);
    this.requests = new RequestList(list, role === "decode" ? drawOnEscalator : drawProgress);
    this.kv = make("div", "kv");
    this.kv.setAttribute("role", "img");
    this.legend = make("p", "legend");
    this.element.append(header, list);
    if (role === "decode") this.#addClock(header);
    this.element.append(this.kv, this.legend);
    this.parts = new Map();
  }

  #addClock(header) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "line batch-line");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "sequences in the batch, last minute");
    header.insertBefore(svg, this.note);
    this.batch = new Line(svg);
    this.axis = make("p", "axis");
    this.axis.setAttribute("aria-hidden", "true");
    this.since = make("span");
    const when = make("span", "when");
    when.append(this.since, make("span", "", "now"));
    this.axis.append(when);
    this.element.append(this.axis);
  }

  show(worker, requests, frame) {
    write(this.state, worker.state);
    this.state.dataset.state = worker.state;
    write(this.note, worker.note);
    if (worker.role === "decode") this.#showBatch(worker, requests, frame);
    else this.#showPrompts(worker, requests, frame);
    this.#showBlocks(worker.blocks);
  }

  #showBatch(worker, requests, frame) {
    const { load, rates } = worker;
    write(this.facts, load === null ? "no connection" : [
      `${load.running} in the batch`, `${load.waiting} waiting`,
      ...(rates ? [`${rate(rates.steps_per_s)} steps/s`, `${rate(rates.output_tokens_per_s)} tokens/s`] : []),
    ].join(" · "));
    this.batch.add(load?.running);
    const size = requests.length > 40 ? "crowd" : requests.length > 20 ? "many" : "few";
    this.requests.list.dataset.size = isCoarse.matches ? "few" : size;
    const oldest = Math.max(0, ...requests.map((request) => request.age_s));
    const window_s = WINDOWS_S.find((seconds) => seconds >= oldest) ?? WINDOWS_S.at(-1);
    this.requests.list.style.setProperty("--ticks", TICKS);
    write(this.since, `${window_s} s ago`);
    this.axis.hidden = !requests.length;
    this.requests.show(byBoarding(requests), { ...frame, window_s });
  }

  #showPrompts(worker, requests, frame) {
    const { load, rates } = worker;
    const chunk = rates?.steps_per_s ? rates.prefill_tokens_per_s / rates.steps_per_s : 0;
    write(this.facts, load === null ? "no connection" : [
      `${load.running} running`, `${load.waiting} waiting`,
      ...(rates ? [`${rate(rates.prefill_tokens_per_s)} tokens/s`] : []),
      ...(chunk ? [`${rate(rates.steps_per_s)} chunks/s of ${whole.format(chunk)} tokens`] : []),
    ].join(" · "));
    this.requests.show(requests.slice(0, NUM_PROMPTS), frame);
  }

  #showBlocks(blocks) {
    this.kv.hidden = this.legend.hidden = blocks === null;
    if (blocks === null) return;
    const total = sum(Object.values(blocks)) || 1;
    const named = CAUSES.filter((cause) => blocks[cause]);
    for (const cause of CAUSES) this.#part(cause).style.width = percent(blocks[cause] ?? 0, total);
    const texts = named.map((cause) => [cause, `${cause} ${whole.format(blocks[cause])}`]);
    const label = `KV blocks: ${texts.map(([, text]) => text).join(", ")}`;
    if (this.kv.getAttribute("aria-label") === label) return;
    this.kv.setAttribute("aria-label", label);
    this.legend.replaceChildren(make("span", "", `KV, ${whole.format(total)} blocks:`));
    for (const [cause, text] of texts) {
      const item = make("span");
      item.append(make("i", cause), text);
      this.legend.append(item);
    }
  }

  #part(cause) {
    if (!this.parts.has(cause)) {
      this.parts.set(cause, make("i", cause));
      this.kv.append(this.parts.get(cause));
    }
    return this.parts.get(cause);
  }
}

// Who stepped on first is at the top; those whose prompt still runs stand at the bottom.
function byBoarding(requests) {
  const key = ({ arrival_s, first_token_s }) =>
    first_token_s === null ? Number.MAX_VALUE : arrival_s + first_token_s;
  return [...requests].sort((one, other) => key(one) - key(other));
}

class Pool {
  #workers = new Map();

  constructor(box, role) {
    this.box = box;
    this.role = role;
  }

  show(frame, requestsOf) {
    const workers = frame.workers.filter((worker) => worker.role === this.role);
    const names = new Set(workers.map((worker) => worker.name));
    for (const [name, card] of this.#workers) {
      if (names.has(name)) continue;
      card.element.remove();
      this.#workers.delete(name);
    }
    for (const worker of workers) {
      if (!this.#workers.has(worker.name)) {
        this.#workers.set(worker.name, new Worker(worker.name, this.role));
        this.box.append(this.#workers.get(worker.name).element);
      }
      this.#workers.get(worker.name).show(worker, requestsOf(worker.name), frame);
    }
    return workers;
  }
}

// --- the board -----------------------------------------------------------------------------

class Board {
  #lines = Object.fromEntries(
    ["output", "ttft", "itl", "in-flight"].map((name) => [name, new Line($(`${name}-line`))]));
  #prefill = new Pool($("prefill"), "prefill");
  #decode = new Pool($("decode"), "decode");
  #queue = new RequestList($("queue"), drawQueued);
  #handoff = new RequestList($("handoff"), drawHandoff);
  #ended = new RequestList($("ended"), drawEnded);
  #seen = new Map(); // requests of the frame before
  #endedRequests = [];

  show(frame) {
    for (const request of frame.requests) {
      request.age_s = Math.max(frame.at_s - request.arrival_s, 0);
    }
    $("board").hidden = false;
    write($("model"), frame.model);
    document.title = `pdserve · ${frame.router.in_flight} in flight`;
    this.#showFigures(frame);
    this.#showQueue(frame);
    const at = (stage, key, name) => frame.requests.filter(
      (request) => request.stage === stage && request[key] === name);
    const prefill = this.#prefill.show(frame, (name) => at("prefill", "prefill_worker", name));
    const decode = this.#decode.show(frame, (name) => [
      ...at("decode", "decode_worker", name),
      ...at("prefill", "decode_worker", name).filter((request) => !request.prefill_worker),
    ]);
    this.#notePool("prefill", prefill, "no prefill worker: decode workers run the prompts");
    this.#notePool("decode", decode, "none");
    if (frame.omitted_requests) {
      $("decode-note").append(` · ${plural(frame.omitted_requests, "younger request")} not drawn`);
    }
    this.#showHandoffs(frame, decode);
    this.#noteEnds(frame);
  }

  lastOf(id) {
    return this.#seen.get(id) ?? null;
  }

  #showFigures(frame) {
    const rates = frame.workers.map((worker) => worker.rates).filter(Boolean);
    const output = rates.length ? sum(rates.map((each) => each.output_tokens_per_s)) : null;
    const prompt = rates.length ? sum(rates.map((each) => each.prefill_tokens_per_s)) : null;
    const { router, ttft, itl } = frame;
    const texts = {
      output: rate(output), prompt: rate(prompt),
      "ttft-p50": duration(ttft.p50_s), "ttft-p99": duration(ttft.p99_s),
      "itl-p50": duration(itl.p50_s), "itl-p99": duration(itl.p99_s),
      "in-flight": whole.format(router.in_flight), queued: whole.format(router.queued),
      completed: whole.format(router.completed), failed: whole.format(router.failed),
      cancelled: whole.format(router.cancelled), rejected: whole.format(router.rejected),
    };
    for (const [id, text] of Object.entries(texts)) write($(id), text);
    this.#lines.output.add(output);
    this.#lines.ttft.add(ttft.p50_s);
    this.#lines.itl.add(itl.p50_s);
    this.#lines["in-flight"].add(router.in_flight);
  }

  #showQueue(frame) {
    const queued = frame.requests.filter((request) => request.stage === "queue");
    const tokens = sum(queued.map((request) => request.prompt_tokens));
    write($("queue-note"), queued.length
      ? `${plural(queued.length, "request")}, ${plural(tokens, "prompt token")}`
      : "empty: prompts go straight to a worker");
    const longest_wait_s = Math.max(...queued.map((request) => request.age_s), 0.001);
    this.#queue.show(queued.slice(0, NUM_QUEUED), { ...frame, longest_wait_s });
  }

  #notePool(name, workers, none) {
    const ready = workers.filter((worker) => worker.state === "ready").length;
    write($(`${name}-note`), workers.length
      ? `${plural(workers.length, "worker")}${ready < workers.length ? `, ${ready} ready` : ""}` : none);
  }

  #showHandoffs(frame, decode) {
    const loads = decode.map((worker) => worker.load).filter(Boolean);
    const wanted = sum(loads.map((load) => load.credit_wanted_bytes));
    const credit = sum(loads.map((load) => load.credit_bytes));
    const speed = sum(decode.map((worker) => worker.rates?.kv_bytes_per_s ?? 0));
    write($("handoff-note"), [
      `${bytes(speed)}/s of KV`, ...(credit ? [`${bytes(wanted)} of ${bytes(credit)} on its way`] : []),
    ].join(" · "));
    const onItsWay = frame.requests.filter(
      (request) => request.stage === "handoff" || request.pulled_tokens !== null);
    this.#handoff.show(onItsWay.slice(0, NUM_PROMPTS), frame);
  }

  #noteEnds(frame) {
    const now = new Map(frame.requests.map((request) => [request.id, request]));
    if (!frame.omitted_requests) { // else a request may only have left the listed ones
      const gone = [...this.#seen.values()].filter((request) => !now.has(request.id));
      const others = this.#endedRequests.filter((request) => !now.has(request.id));
      this.#endedRequests = [...new Map([...gone.reverse(), ...others].map(
        (request) => [request.id, request])).values()].slice(0, NUM_ENDED);
    }
    this.#seen = now;
    this.#ended.show(this.#endedRequests, frame);
    detail.refresh(now);
  }
}

// --- one request ---------------------------------------------------------------------------

class Detail {
  #id = null;
  #openers = []; // the button that opened it, and its list
  #isRunning = false;
  #hasAskedAfterEnd = false;
  #numAsked = 0;

  constructor() {
    $("detail-close").addEventListener("click", () => $("detail").close());
    $("detail").addEventListener("click", (event) => {
      if (event.target === $("detail")) $("detail").close(); // the backdrop
    });
    $("detail").addEventListener("close", () => {
      this.#id = null;
      const [opener, list] = this.#openers;
      const next = list.querySelector('li:not(.leaving) > [tabindex="0"]'); // where the row has left
      (opener.closest("li:not(.leaving)")?.isConnected ? opener : next)?.focus();
    });
  }

  open(id, opener) {
    this.#id = id;
    this.#openers = [opener, opener.closest("ul")];
    this.#isRunning = this.#hasAskedAfterEnd = false;
    write($("detail-title"), id);
    for (const part of ["facts", "waterfall-rows"]) $(part).replaceChildren();
    $("waterfall").hidden = true;
    write($("detail-problem"), "asking the router and its workers");
    $("detail").showModal();
    this.#load();
  }

  // A running request grows with each frame; when it has ended, its waterfall is fetched.
  refresh(running) {
    if (this.#id === null) return;
    const request = running.get(this.#id);
    this.#isRunning = Boolean(request);
    if (request) this.#showRunning(request);
    else if (!this.#hasAskedAfterEnd) this.#load();
    this.#hasAskedAfterEnd = !request;
  }

  async #load() {
    const number = ++this.#numAsked;
    const answer = await ask(`live/request?id=${encodeURIComponent(this.#id)}`);
    const found = await answer.json();
    if (number !== this.#numAsked || this.#id === null) return; // something newer was asked
    write($("detail-problem"), answer.ok || this.#isRunning ? "" : found.error.message);
    if (answer.ok) this.#show(found);
  }

  #show(found) {
    const [route] = found.routes;
    const facts = [
      ["prompt", plural(found.prompt_tokens, "token")],
      ["route", route.prefill_worker ? `${route.prefill_worker} → ${route.decode_worker}` : route.decode_worker],
      ["chosen of", `${plural(found.num_routes, "route")}, policy ${found.policy}`],
      ["predicted until decode", duration((Number(route.queue_us) + Number(route.prefill_us) + Number(route.transfer_us)) / 1e6)],
    ];
    const [first] = found.finished;
    if (first) {
      const { timings, usage } = first;
      facts.push(
        ["answer", plural(sum(found.finished.map((each) => each.usage.completion_tokens)), "token")],
        ["from a prefix cache", plural(usage.cached_tokens, "token")],
        ["first token after", duration(timings.first_token_us / 1e6)],
        ["whole", duration(timings.total_us / 1e6)],
      );
      this.#draw(stagesOf(first), timings.total_us / 1e6,
        timings.clock_error_us > 0 ? `prefill's clock is known to within ${duration(timings.clock_error_us / 1e6)}` : "");
    } else if (this.#hasAskedAfterEnd) {
      write($("detail-problem"), "It did not end well: the router's log has its reason.");
    }
    this.#showFacts(facts);
  }

  #showRunning(request) {
    const now = request.age_s;
    const submitted = request.submitted_s ?? now;
    const first = request.first_token_s ?? now;
    const stages = [
      ["queue", [["queue", 0, submitted]], "in the router"],
      ["prefill", [["prefill", submitted, first]], request.prefill_worker ?? request.decode_worker ?? ""],
      ["decode", [["decode", first, now]], `${plural(request.output_tokens, "token")} so far`],
    ].filter(([, [[, start, end]]]) => end > start);
    this.#draw(stages, now, `it runs: ${request.state ?? request.stage}`);
  }

  #showFacts(facts) {
    $("facts").replaceChildren(...facts.map(([name, value]) => {
      const pair = make("div");
      pair.append(make("dt", "", name), make("dd", "", value));
      return pair;
    }));
  }

  #draw(stages, total_s, caption) {
    $("waterfall").hidden = false;
    write($("waterfall-caption"), caption || `0 to ${duration(total_s)}`);
    $("waterfall-rows").replaceChildren(...stages.map(([name, parts, of]) => {
      const [row, when, track] = [make("tr"), make("td", "when"), make("div", "track")];
      for (const [kind, start, end] of parts) {
        const part = make("i", kind);
        part.style.left = percent(start, total_s);
        part.style.width = percent(end - start, total_s);
        track.append(part);
      }
      when.append(track);
      const [start, end] = [parts[0][1], parts.at(-1)[2]];
      row.append(make("th", "", name), when, make("td", "number", duration(start)),
        make("td", "number", duration(end - start)), make("td", "", of));
      row.firstElementChild.scope = "row";
      return row;
    }));
  }
}

// Rows of a finished request: [name, [[kind, start, end], ...], of what], in seconds from its arrival.
function stagesOf(finished) {
  const { timings } = finished;
  const s = (microseconds) => Number(microseconds) / 1e6;
  const queue_s = s(timings.queue_us);
  const asked_s = s(timings.pull_us) || queue_s;
  const rows = [["queue", [["queue", 0, Math.max(asked_s, queue_s)]], `until prefill begins, on ${finished.prefill_worker || finished.decode_worker}`]];
  ends(timings.prefill_chunks).forEach(([number, chunk]) => rows.push([
    `chunk ${number}`, [["prefill", s(chunk.start_us), s(chunk.start_us) + s(chunk.duration_us)]],
    `${plural(chunk.num_tokens, "token")} on ${chunk.is_remote ? finished.prefill_worker : finished.decode_worker}`,
  ]));
  ends(timings.transfers).forEach(([number, transfer]) => {
    const copied = s(transfer.copy_out_start_us) + s(transfer.copy_out_us);
    const arrived = copied + s(transfer.wire_us);
    const insert = Math.max(s(transfer.insert_start_us), arrived);
    rows.push([`KV ${number}`, [
      ["copy-out", s(transfer.copy_out_start_us), copied], ["wire", copied, arrived],
      ["wait", arrived, insert], ["insert", insert, insert + s(transfer.insert_us)],
    ], `${bytes(Number(transfer.num_bytes))}: copy-out, wire, wait, insert`]);
  });
  const steps = timings.decode_steps;
  if (steps?.start_us.length) {
    const most = Math.max(...steps.num_sequences);
    rows.push(["decode", [["decode", s(steps.start_us[0]), s(timings.total_us)]],
      `${plural(steps.num_steps, "step")}, shared by up to ${plural(most, "sequence")}`]);
  }
  return rows;
}

// Items numbered from 1; of many only the first and the last.
function ends(items) {
  const numbered = items.map((item, i) => [i + 1, item]);
  return numbered.length <= 12 ? numbered : [...numbered.slice(0, 6), ...numbered.slice(-6)];
}

// --- the connection ------------------------------------------------------------------------

function ask(path, signal) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return fetch(path, { headers, signal, cache: "no-store", credentials: "omit" });
}

function say(state, text) {
  $("status").dataset.state = state;
  write($("status"), text);
}

function showLogin(message) {
  const isNear = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  $("board").hidden = true;
  $("login").hidden = false;
  $("login-clear").hidden = isNear || location.protocol === "https:";
  write($("login-problem"), message);
  say("connecting", "locked");
  $("token").focus();
}

const delay = (ms) => new Promise((done) => setTimeout(done, ms));

class Connection {
  #abort = null;
  #isWanted = false;
  #isRunning = false;

  start() {
    this.#isWanted = true;
    if (!this.#isRunning) this.#run();
  }

  stop() {
    this.#isWanted = false;
    this.#abort?.abort();
  }

  async #run() {
    this.#isRunning = true;
    while (this.#isWanted) {
      const wait_ms = await this.#readOnce().catch(() => this.#isLost("the router does not answer"));
      if (this.#isWanted) await delay(wait_ms);
    }
    this.#isRunning = false;
  }

  #isLost(text) {
    if (this.#isWanted) say("lost", `${text}; trying again`);
    return RETRY_MS;
  }

  // Reads one stream to its end; returns how long to wait before the next.
  async #readOnce() {
    const abort = this.#abort = new AbortController();
    let silence = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const answer = await ask("live/events", abort.signal);
      if (!answer.ok) return this.#refused(answer.status, (await answer.json()).error);
      $("login").hidden = true;
      for await (const frame of framesOf(answer.body)) {
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE_MS);
        say("live", frame.router.is_draining ? "live, and draining" : "live");
        board.show(frame);
      }
      return this.#isLost("the stream ended");
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  #refused(status, error) {
    if (status !== 401 && status !== 403) return this.#isLost(error.message);
    const hadToken = sessionStorage.getItem(TOKEN_KEY) !== null;
    sessionStorage.removeItem(TOKEN_KEY);
    this.#isWanted = false;
    if (status === 401 || hadToken) showLogin(hadToken ? error.message : "");
    else say("lost", error.message);
    return 0;
  }
}

async function* framesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
  }
}

const detail = new Detail();
const board = new Board();
const connection = new Connection();

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  if (!/^[!-~]+$/.test(token)) return showLogin("no token looks like that");
  sessionStorage.setItem(TOKEN_KEY, token);
  connection.start();
});
// a page that nobody sees takes no stream
document.addEventListener("visibilitychange", () => {
  if (document.hidden) connection.stop();
  else if ($("login").hidden) connection.start();
});
connection.start();
