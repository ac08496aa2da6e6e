// The page: steps that each make one request, and what they leave for the next one.

import { command } from "./curl.js";
import { element, foundItem, Question, roundItem, turnItem, turnsOf } from "./parts.js";
import { Fault, get, hasToken, keepToken, post, stream, urlOf } from "./service.js";

const at = (id) => document.getElementById(id);
const written = (id) => at(id).value;

let questions = [];

// ---- requests --------------------------------------------------------------------------------------------------------

const REQUESTS = {
  compose: () => ["v1/compose", { prompt: written("prompt"), ...history(), rounds: at("rounds").valueAsNumber || 1 }],
  decompose: () => ["v1/decompose", { prompt: written("prompt"), ...history() }],
  answer: () => [
    "v1/chat/completions",
    { model: written("model"), messages: [...turnsOf(at("turns")), { role: "user", content: written("query") }] },
  ],
  judge: () => [
    "v1/judge",
    { query: written("query"), response: written("answer"), ...whatIsAsked(), ...history() },
  ],
};

function history() {
  const turns = turnsOf(at("turns"));
  return turns.length ? { history: turns } : {};
}

function whatIsAsked() {
  const checked = asked().filter((one) => one.checker);
  return {
    questions: asked().map((one) => one.text),
    ...(checked.length && { checkers: Object.fromEntries(checked.map((one) => [one.text, one.checker])) }),
  };
}

function asked() {
  return questions.filter((one) => one.text);
}

// ---- steps -----------------------------------------------------------------------------------------------------------

const STEPS = { compose, decompose, answer, judge };

async function compose(signal) {
  needs("prompt", "Write a prompt first");
  const [path, body] = REQUESTS.compose();
  const from = source("compose");
  let before = body.prompt;
  let made = 0;
  let why = null;
  say("compose", `Composing round 1 of ${body.rounds}`);
  for await (const { data } of stream(path, { ...body, stream: true }, signal)) {
    const added = data.constraints.slice(made);
    why = data.stopped;
    if (!added.length) continue;
    if (!made) at("rounds-made").replaceChildren();
    made = data.constraints.length;
    at("rounds-made").append(roundItem(made, before, data.query, added));
    at("query").value = before = data.query;
    replaceQuestions(data);
    madeFrom.compose = from;
    changed();
    if (made < body.rounds) say("compose", `Composing round ${made + 1} of ${body.rounds}`);
  }
  if (!made) throw new Fault(`The composer added nothing (${why ?? "no reason was given"})`);
  say("compose", plural(made, "constraint", "added") + (why ? `; ${why}` : ""));
}

async function decompose(signal) {
  needs("prompt", "Write a prompt first");
  const [path, body] = REQUESTS.decompose();
  say("decompose", "Looking for constraints");
  const { constraints, stopped } = await post(path, body, signal);
  at("found").replaceChildren(...constraints.map(foundItem));
  if (stopped) throw new Fault(`The decomposer gave nothing of use: ${stopped}`);
  say("decompose", plural(constraints.length, "constraint", "found"));
}

async function answer(signal) {
  if (!written("query").trim()) at("query").value = written("prompt");
  needs("query", "Write a prompt or a query first");
  say("answer", "Waiting for the first word");
  await modelIsKnown(signal);
  const [path, body] = REQUESTS.answer();
  const from = source("answer");
  let text = "";
  let finish = null;
  let tokens = null;
  const asStream = { stream: true, stream_options: { include_usage: true } };
  for await (const { data } of stream(path, { ...body, ...asStream }, signal)) {
    const choice = data.choices?.[0];
    finish = choice?.finish_reason ?? finish;
    tokens = data.usage?.completion_tokens ?? tokens;
    if (!choice?.delta?.content) continue;
    if (!text) say("answer", "Answering");
    text += choice.delta.content;
    showAtEnd(at("answer"), text);
    madeFrom.answer = from;
    changed();
  }
  if (!text) throw new Fault("The model answered nothing");
  const cut = finish === "length" ? ", cut off at the limit: in a run it would not pass" : "";
  say("answer", (tokens === null ? "Done" : plural(tokens, "token")) + cut);
}

/** A quick hand is here before the names of the models are. */
async function modelIsKnown(signal) {
  if (!written("model")) await load(signal);
}

/** Follow the end of a text as it grows, unless its reader has scrolled away from there. */
function showAtEnd(field, text) {
  const follows = field.scrollTop + field.clientHeight > field.scrollHeight - 40;
  field.value = text;
  if (follows) field.scrollTop = field.scrollHeight;
}

async function judge(signal) {
  addQuestion();
  needs("query", "Write the query first: the judge reads it too");
  needs("answer", "There is no answer to judge yet");
  if (!asked().length) needs("new-question", "Add a question first");
  const [path, body] = REQUESTS.judge();
  const from = source("judge");
  const rows = asked();
  say("judge", `Judging ${plural(rows.length, "question")}`);
  const { verdicts, passed } = await post(path, body, signal);
  rows.forEach((row, place) => row.text === verdicts[place]?.question && row.show(verdicts[place]));
  const met = verdicts.filter((one) => one.answer === "yes").length;
  say("judge", `${passed ? "Passed" : "Not passed"}: ${met} of ${verdicts.length} answered yes`);
  madeFrom.judge = from;
}

function plural(count, word, ...rest) {
  return [count || "No", count === 1 ? word : `${word}s`, ...rest].join(" ");
}

function needs(id, message) {
  if (written(id).trim()) return;
  at(id).focus();
  throw new Fault(message);
}

// ---- running them: one at a time -------------------------------------------------------------------------------------

const WRITES = { compose: ["query"], decompose: [], answer: ["answer"], judge: [] };
const starters = document.querySelectorAll("button[data-run]");
const stop = element("button", { type: "button", id: "stop" }, "Stop");
const seconds = element("span", { ariaHidden: "true" });
let running = null;

/** Run steps one after another, until one does not come to its end. */
async function run(steps) {
  for (const [place, step] of steps.entries()) {
    if (running) return;
    const fault = await faultOf(step);
    if (fault?.wantsToken) askForToken(() => run(steps.slice(place)));
    if (fault) return;
  }
}

/** Run a step, and say how it ended: null where it came to its end. */
async function faultOf(step) {
  const focused = document.activeElement;
  begin(step);
  try {
    await STEPS[step](running.signal);
    return null;
  } catch (fault) {
    const stopped = fault.name === "AbortError";
    say(step, stopped ? "Stopped" : "");
    if (!stopped) at(`${step}-fault`).textContent = sentence(fault);
    return fault;
  } finally {
    end(step, focused);
  }
}

function sentence(fault) {
  if (fault instanceof Fault) return fault.message;
  console.error(fault);
  return "This page made a mistake; the browser's console has it.";
}

function begin(step) {
  const since = Date.now();
  const tick = () => (seconds.textContent = ` · ${Math.round((Date.now() - since) / 1000)} s`);
  running = new AbortController();
  running.timer = setInterval(tick, 1000);
  seconds.textContent = "";
  at(`${step}-fault`).textContent = "";
  at(`${step}-status`).after(stop);
  show(step, true);
}

function end(step, focused) {
  const hadFocus = document.activeElement === stop;
  clearInterval(running.timer);
  running = null;
  seconds.remove();
  stop.remove();
  show(step, false);
  if (hadFocus) focused.focus(); // else the keyboard would begin at the top again
  changed();
}

function show(step, runs) {
  at(`${step}-status`).parentElement.classList.toggle("runs", runs);
  for (const id of WRITES[step]) at(id).readOnly = runs;
  for (const button of starters) button.ariaDisabled = String(runs); // not `disabled`, which takes the focus away
}

function say(step, text) {
  at(`${step}-status`).replaceChildren(text, ...(running && text ? [seconds] : []));
}

stop.addEventListener("click", () => running.abort());
for (const button of starters) button.addEventListener("click", () => run(button.dataset.run.split(" ")));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !at("curl").open) running.abort();
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const steps = event.target.closest("[data-run]")?.dataset.run;
  if (!steps) return;
  event.preventDefault(); // on a button, it would be a click as well
  run(steps.split(" "));
});

// ---- what belongs together -------------------------------------------------------------------------------------------

const madeFrom = {}; // by step: what its result was made from
const SOURCES = {
  compose: () => [written("prompt"), history()],
  answer: () => [written("query"), history()],
  judge: REQUESTS.judge,
};

function source(step) {
  return JSON.stringify(SOURCES[step]());
}

/** Say where a result is no longer that of what stands before it. */
function changed() {
  for (const step of Object.keys(SOURCES)) {
    at(`${step}-note`).hidden = !(step in madeFrom) || madeFrom[step] === source(step);
  }
  const turns = at("turns").children.length;
  at("turn-count").textContent = turns ? `(${turns})` : "";
  at("no-rounds").hidden = at("rounds-made").children.length > 0;
  at("no-questions").hidden = questions.length > 0;
}

document.addEventListener("input", changed);

// ---- questions and turns ---------------------------------------------------------------------------------------------

/** The questions of a composed query, and behind them those that were typed or edited here. */
function replaceQuestions({ questions: texts, constraints }) {
  const checkerOf = (text) => constraints.find((one) => one.question === text)?.checker;
  const rowOf = (text) => questions.find((one) => one.text === text) ?? newQuestion(text, checkerOf(text));
  const composed = [...new Set(texts)].map(rowOf);
  questions = [...composed, ...questions.filter((one) => one.isMine && !texts.includes(one.text))];
  at("questions").replaceChildren(...questions.map((one) => one.item));
}

function newQuestion(text, checker, isMine = false) {
  return new Question(text, checker, isMine, (removed) => {
    questions = questions.filter((one) => one !== removed);
    changed();
  });
}

/** Add the question that is typed, if any. */
function addQuestion() {
  const text = written("new-question").trim();
  if (!text) return;
  questions.push(newQuestion(text, null, true));
  at("questions").append(questions.at(-1).item);
  at("new-question").value = "";
  changed();
}

at("add-question").addEventListener("submit", (event) => {
  event.preventDefault();
  addQuestion();
});

at("add-turn").addEventListener("click", () => {
  const turn = turnItem(at("turns").children.length + 1, changed);
  at("turns").append(turn);
  turn.querySelector("textarea").focus();
  changed();
});

// ---- curl ------------------------------------------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-curl]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    if (button.dataset.curl === "answer") await modelIsKnown();
    const [path, body] = REQUESTS[button.dataset.curl]();
    const text = command(urlOf(path), body, hasToken());
    try {
      await navigator.clipboard.writeText(text);
      at("spoken").textContent = "The command is in the clipboard";
      button.textContent = "Copied";
      setTimeout(() => button.replaceChildren(label), 2000);
    } catch {
      at("curl-text").value = text; // without https, a browser gives a page no clipboard
      at("curl").showModal();
      at("curl-text").select();
    }
  });
}

// ---- the service -----------------------------------------------------------------------------------------------------

const WAYS = {
  logprob: "one word a question",
  each: "a reason for each question",
  rationale: "all questions at once, with reasons",
};

/** Show what is served; whether the service told it. */
async function load(signal) {
  at("service-fault").textContent = "";
  try {
    const { name, models, judge, composer, limits } = await get("v1/service", signal);
    const facts = {
      Serves: name,
      Composer: `${composer.model}, ${composer.trained ? "trained for it" : "prompted"}`,
      Judge: `${judge.model}, ${WAYS[judge.way] ?? judge.way}`,
    };
    const shown = ([term, text]) => element("div", {}, element("dt", {}, term), element("dd", {}, text));
    at("facts").replaceChildren(...Object.entries(facts).map(shown));
    at("model").replaceChildren(...models.map((model) => element("option", {}, model)));
    at("models").hidden = models.length < 2;
    at("rounds").max = limits.max_rounds;
    return true;
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    at("service-fault").textContent = sentence(fault);
    if (fault.wantsToken) askForToken();
    return false;
  }
}

let afterToken = () => {};

/** Let a token be typed; then show what is served, and do what it was missing for, also where one is wrong first. */
function askForToken(then = afterToken) {
  afterToken = then;
  at("token").hidden = false;
  at("token-text").select();
}

at("token").addEventListener("submit", async (event) => {
  event.preventDefault();
  keepToken(written("token-text"));
  at("token").hidden = true;
  if (!(await load())) return;
  const then = afterToken;
  afterToken = () => {};
  then();
});

changed();
load();
