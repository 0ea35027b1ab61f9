// The start page's explorer, live events, and the event that a mail points to. No library, nothing but this server.

const KEY = "voltwire.key";
const MOST_EVENTS = 100;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;

const EXAMPLES = [
  {
    title: "Meters with their customers",
    query: `{
  meters(first: 10) {
    nodes {
      number
      type
      status
      customer { name email }
    }
    pageInfo { hasNextPage endCursor }
  }
}`,
  },
  {
    title: "Customers",
    query: `{
  customers(first: 10) {
    nodes {
      id
      name
      email
      meters(first: 5) { nodes { number status } }
    }
  }
}`,
  },
  {
    title: "The event log, its latest ten",
    query: `{
  events(last: 10) {
    nodes {
      sequence
      name
      occurredAt
      data
    }
  }
}`,
  },
  {
    title: "Where the event stream begins and ends",
    query: `{
  eventStream { oldestCursor latestCursor }
}`,
  },
  {
    title: "Readings: the last day of each meter, by the hour",
    query: `{
  meters(first: 3) {
    nodes {
      number
      intervalData(granularity: HOUR) {
        from
        to
        total
        unit
        intervals { startAt consumption quality }
      }
    }
  }
}`,
  },
  {
    title: "Deliveries by webhook and email",
    query: `{
  deliveries(first: 10) {
    nodes {
      status
      event { sequence name }
      endpoint { url }
      emailSubscription { email }
      attempts { number outcome responseStatus durationMs }
    }
  }
}`,
  },
  {
    title: "Create a customer",
    query: `mutation ($input: CreateCustomerInput!) {
  createCustomer(input: $input) {
    customer { id name email createdAt }
    userErrors { code field message }
  }
}`,
    // An address is taken once in an account, so each time another one is offered.
    variables: () => ({
      input: { name: "Ann Example", email: `ann.${Date.now().toString(36)}@example.com` },
    }),
  },
  {
    title: "Who am I",
    query: `{
  viewer {
    account { name }
    apiKey { name prefix lastUsedAt }
    scopes
  }
}`,
  },
  {
    title: "The catalogue, which needs no key",
    query: `{
  eventTypes { name description schema example }
}`,
  },
];

const SUBSCRIPTION = `subscription ($after: String) {
  events(after: $after) { id name sequence cursor occurredAt data }
}`;

const at = (id) => document.getElementById(id);
const words = new Map([...document.querySelectorAll("[data-event]")].map((one) => [one.dataset.event, one.dataset.words]));
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit", timeZone: "Europe/London", timeZoneName: "short",
});

function say(id, text, kind = "") {
  at(id).textContent = text;
  at(id).className = `status ${kind}`;
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// --- the key, in this tab only ---

let key = sessionStorage.getItem(KEY) ?? "";
// Counts the keys that were used or forgotten, so that the answer to an earlier one changes nothing.
let checks = 0;

function keep(value) {
  key = value;
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  at("key-forget").hidden = !key;
}

async function useKey() {
  const mine = ++checks;
  say("key-status", "Checking …");
  try {
    const { viewer } = await answer("{ viewer { account { name } scopes } }");
    if (mine !== checks) return;
    say("key-status", `This key belongs to ${viewer.account.name} and may ${viewer.scopes.join(", ")}.`, "right");
  } catch (error) {
    if (mine !== checks) return;
    stop();
    say("key-status", error.message, "wrong");
    return;
  }
  showEvent();
  follow();
}

at("key-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const given = at("key").value.trim();
  if (!given) {
    say("key-status", "Enter an API key first; voltwire accounts create prints one.", "wrong");
    at("key").focus();
    return;
  }
  keep(given);
  stop();
  cursor = null;
  useKey();
});

at("key-forget").addEventListener("click", () => {
  checks += 1;
  keep("");
  stop();
  cursor = null;
  at("key").value = "";
  say("key-status", "Forgotten.");
  at("key").focus();
});

// --- asking ---

async function ask(query, variables) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  if (key) headers["x-api-key"] = key;
  const response = await fetch("/graphql", { method: "POST", headers, body: JSON.stringify({ query, variables }) });
  let body;
  try {
    body = await response.json();
  } catch {
    body = { errors: [{ message: `The server answered with HTTP ${response.status}.` }] };
  }
  return { status: response.status, body };
}

// The data of a whole answer; otherwise an error with the server's own sentence.
async function answer(query, variables) {
  let got;
  try {
    got = await ask(query, variables);
  } catch {
    throw new Error("The server does not answer: is it still running?");
  }
  if (got.body.errors) throw new Error(got.body.errors[0].message);
  return got.body.data;
}

// --- the explorer ---

EXAMPLES.forEach((example, number) => at("example").append(new Option(example.title, number)));

function offer() {
  const example = EXAMPLES[at("example").value];
  at("query").value = example.query;
  const variables = example.variables?.();
  at("variables").value = variables ? JSON.stringify(variables, null, 2) : "";
  at("variables").closest("details").open = Boolean(variables);
}

async function run() {
  let variables;
  try {
    variables = JSON.parse(at("variables").value.trim() || "{}");
  } catch (error) {
    at("variables").closest("details").open = true;
    say("run-status", `The variables are not JSON: ${error.message}`, "wrong");
    return;
  }
  say("run-status", "Running …");
  at("run").disabled = true;
  const began = performance.now();
  try {
    const { status, body } = await ask(at("query").value, variables);
    const took = `${Math.round(performance.now() - began)} ms`;
    at("result").textContent = JSON.stringify(body, null, 2);
    at("result").hidden = false;
    if (body.errors) say("run-status", `${body.errors[0].message} (HTTP ${status}, ${took})`, "wrong");
    else if (hasRefusals(body.data)) say("run-status", `Refused, and nothing changed: see userErrors (${took})`, "wrong");
    else say("run-status", `HTTP ${status}, ${took}`, "right");
  } catch {
    say("run-status", "The server does not answer: is it still running?", "wrong");
  } finally {
    at("run").disabled = false;
  }
}

const hasRefusals = (data) => Object.values(data ?? {}).some((field) => field?.userErrors?.length);

at("example").addEventListener("change", offer);
at("run").addEventListener("click", run);
for (const id of ["query", "variables"]) {
  at(id).addEventListener("keydown", (pressed) => {
    if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) {
      pressed.preventDefault();
      run();
    }
  });
}
offer();

// --- live events ---

let socket = null;
let cursor = null;
let wait = FIRST_WAIT;
let timer = 0;
let isFollowing = false;
// Counts starts and stops, so that what waited meanwhile knows that it was overtaken.
let turn = 0;

async function follow() {
  if (isFollowing) return;
  isFollowing = true;
  const mine = ++turn;
  at("follow").textContent = "Stop";
  if (cursor === null) {
    say("live-status", "Connecting …");
    try {
      // Fixed first: were the connection lost before its first event, "from now" would have moved.
      const { eventStream } = await answer("{ eventStream { latestCursor } }");
      if (mine !== turn) return;
      cursor = eventStream.latestCursor;
    } catch (error) {
      if (mine !== turn) return;
      stop();
      say("live-status", error.message, "wrong");
      return;
    }
  }
  connect();
}

function stop() {
  turn += 1;
  isFollowing = false;
  clearTimeout(timer);
  const old = socket;
  socket = null;
  old?.close(1000);
  at("follow").textContent = "Follow";
  say("live-status", "Not connected.");
}

function connect() {
  const url = new URL("/graphql", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const mine = new WebSocket(url, "graphql-transport-ws");
  socket = mine;
  const send = (message) => mine.send(JSON.stringify(message));
  mine.onopen = () => send({ type: "connection_init", payload: { apiKey: key } });
  mine.onmessage = (received) => {
    if (mine !== socket) return;
    const { type, payload } = JSON.parse(received.data);
    if (type === "connection_ack") {
      wait = FIRST_WAIT;
      say("live-status", "Connected.", "right");
      send({ id: "1", type: "subscribe", payload: { query: SUBSCRIPTION, variables: { after: cursor } } });
    } else if (type === "next" && payload.data) {
      cursor = payload.data.events.cursor;
      list(payload.data.events);
    } else if (type === "ping") {
      cursor = payload?.cursors?.["1"] ?? cursor;
      send({ type: "pong", payload });
    } else if (type === "error") {
      stop();
      // After this one the log has nothing to go on from: the next start is from now.
      if (payload[0].extensions?.code === "CURSOR_EXPIRED") cursor = null;
      say("live-status", payload[0].message, "wrong");
    } else if (type === "complete") {
      mine.close(1000);
    }
  };
  mine.onclose = (closed) => {
    if (mine !== socket) return;
    socket = null;
    if (closed.code === 4403 || closed.code === 4401) {
      stop();
      say("live-status", closed.reason || "The server refuses this key.", "wrong");
      return;
    }
    say("live-status", `Connection lost; again in ${Math.ceil(wait / 1000)} s, from where it was.`);
    timer = setTimeout(connect, wait);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  };
}

function list(event) {
  const item = make("li", undefined, { class: "new" });
  const head = make("div", undefined, { class: "head" });
  head.append(
    make("time", clock.format(new Date(event.occurredAt)), { datetime: event.occurredAt }),
    make("strong", words.get(event.name) ?? event.name),
  );
  if (event.sequence !== null) head.append(make("span", `number ${event.sequence}`, { class: "number" }));
  const details = make("details");
  details.append(make("summary", event.name), make("pre", JSON.stringify(event.data, null, 2)));
  item.append(head, details);
  at("events").prepend(item);
  while (at("events").children.length > MOST_EVENTS) at("events").lastElementChild.remove();
  at("no-events").hidden = true;
}

at("follow").addEventListener("click", () => {
  if (isFollowing) stop();
  else if (key) follow();
  else {
    say("live-status", "Give an API key first.", "wrong");
    at("key").focus();
  }
});

// --- the event of a mail ---

async function showEvent() {
  const place = at("event");
  if (!place) return;
  say("event-status", "Looking for it …");
  let event;
  try {
    ({ event } = await answer("query ($id: ID!) { event(id: $id) { name sequence occurredAt data } }", { id: place.dataset.id }));
  } catch (error) {
    say("event-status", error.message, "wrong");
    return;
  }
  at("event-facts").replaceChildren();
  at("event-facts").hidden = !event;
  if (!event) {
    say("event-status", `Event ${place.dataset.id} is not in this key's account, or it is past the time that events are kept.`, "wrong");
    return;
  }
  at("event-title").textContent = words.get(event.name) ?? event.name;
  say("event-status", calendar.format(new Date(event.occurredAt)));
  fact("Event", `${event.name}${event.sequence === null ? "" : `, number ${event.sequence}`}`);
  for (const [name, value] of Object.entries(event.data)) fact(inWords(name), value);
}

function fact(label, value) {
  const row = make("div");
  const shown = make("dd");
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    shown.append(make("pre", JSON.stringify(value, null, 2)));
  } else {
    shown.textContent = value === null || value.length === 0 ? "–" : Array.isArray(value) ? value.join(", ") : String(value);
  }
  row.append(make("dt", label), shown);
  at("event-facts").append(row);
}

// "intervalCount" as "Interval count"; "id" and "url" as people write them.
function inWords(name) {
  const parts = name.replace(/([A-Z])/g, " $1").toLowerCase().split(" ");
  const text = parts.map((part) => (["id", "ids", "url", "api"].includes(part) ? part.toUpperCase().replace("S", "s") : part)).join(" ");
  return text[0].toUpperCase() + text.slice(1);
}

// A key of before in this tab goes on working after a reload.
if (key) {
  keep(key);
  at("key").value = key;
  useKey();
}
