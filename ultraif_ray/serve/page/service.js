// The service behind the page: requests, and what went wrong in one sentence.

import { events } from "./events.js";

const TOKEN = "ultraif-token"; // sessionStorage forgets it with the tab
const BROKEN = "The connection broke off; what had come is kept";

/** What went wrong, as one sentence; `wantsToken` where the service asks for a token, or for another one. */
export class Fault extends Error {
  constructor(message, wantsToken = false) {
    super(message[0].toUpperCase() + message.slice(1) + (/[.!?…]$/.test(message) ? "" : "."));
    this.wantsToken = wantsToken;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function hasToken() {
  return Boolean(sessionStorage.getItem(TOKEN));
}

/** Where a path of the service is, also behind a prefix. */
export function urlOf(path) {
  return new URL(path, document.baseURI).href;
}

/** The reply to a GET. */
export async function get(path, signal) {
  return read(await ask(path, { signal }));
}

/** The reply to a POST of JSON. */
export async function post(path, body, signal) {
  return read(await ask(path, posting(body, signal)));
}

/** The events of the reply to a POST, their data parsed: `{event, data}`. A reply in one piece is one event. */
export async function* stream(path, body, signal) {
  const response = await ask(path, posting(body, signal));
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    yield { event: "message", data: await read(response) };
    return;
  }
  const coming = events(response.body);
  try {
    for (;;) {
      const { done, value } = await unlessLost(coming.next(), BROKEN);
      if (done || value.data === "[DONE]") return;
      const data = parse(value.data);
      if (data.error) throw new Fault(data.error.message || "The service gave up");
      yield { event: value.event, data };
    }
  } finally {
    coming.return();
  }
}

function posting(body, signal) {
  return { method: "POST", body: JSON.stringify(body), signal, headers: { "Content-Type": "application/json" } };
}

async function ask(path, options) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await unlessLost(fetch(urlOf(path), { ...options, headers }), "The service cannot be reached");
  if (response.ok) return response;
  const [status, seconds] = [response.status, response.headers.get("Retry-After")];
  if (status === 401) throw new Fault(token ? "The service knows no such token" : "The service wants a token", true);
  if (status === 429) throw new Fault(`The service is busy: try again ${seconds ? `in ${seconds} s` : "in a moment"}`);
  const said = await response.json().catch(() => null);
  throw new Fault(said?.error?.message || `The service answered ${status} and said no more`);
}

/** The value of a promise of the browser's network; that it was stopped is no fault. */
async function unlessLost(promise, message) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Fault(message);
  }
}

async function read(response) {
  return parse(await unlessLost(response.text(), BROKEN));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Fault("The service answered with what is not JSON");
  }
}
