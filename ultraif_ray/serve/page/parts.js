// What the page shows, built of elements and text nodes: no text of a model is ever read as markup.

import { newWords } from "./words.js";

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A text with what is new in it marked. */
export function marked(before, after) {
  return newWords(before, after).flatMap(({ text, isNew }) => {
    const [, space, words, spaceAfter] = /^(\s*)([^]*?)(\s*)$/.exec(text);
    return isNew ? [space, element("ins", {}, words), spaceAfter] : [text];
  });
}

/** One round: what it made of the query, and what an answer must meet. */
export function roundItem(number, before, after, constraints) {
  const kinds = constraints.map((one) => one.category).filter(Boolean);
  return element(
    "li",
    { className: "round" },
    element("p", { className: "small" }, [`Round ${number}`, ...kinds].join(" · ")),
    element("p", { className: "text" }, ...marked(before, after)),
    ...constraints.map(checkLine),
  );
}

/** A constraint that was found in the prompt. */
export function foundItem({ text, category, question, checker }) {
  return element(
    "li",
    { className: "round" },
    element("p", { className: "small" }, category ?? ""),
    element("p", { className: "text" }, text),
    checkLine({ question, checker }),
  );
}

/** What an answer must meet, and the code that checks it, where any does. */
function checkLine({ question, checker }) {
  const line = element("p", { className: "quiet" }, question ?? "");
  if (checker) line.append(" ", element("span", { className: "badge" }, `Checked by code: ${inWords(checker)}`));
  return line;
}

function inWords({ name, relation, number, texts = [] }) {
  const count = typeof number === "number" ? [relation, number] : [];
  return [name.replaceAll("_", " "), ...count, texts.join(", ")].join(" ");
}

/** A turn of the earlier conversation, with fields for its role and text. */
export function turnItem(number, removed) {
  const role = element("select", { ariaLabel: `Who speaks in turn ${number}` });
  role.append(...["user", "assistant", "system"].map((name) => element("option", {}, name)));
  role.value = number % 2 ? "user" : "assistant";
  const text = element("textarea", { className: "text", rows: 1, ariaLabel: `Turn ${number}` });
  const item = element("li", { className: "turn" }, role, text);
  item.append(removeButton(`Remove turn ${number}`, item, removed));
  return item;
}

/** The turns of a list of them; one without text is none. */
export function turnsOf(list) {
  return [...list.children]
    .map((item) => ({ role: item.querySelector("select").value, content: item.querySelector("textarea").value }))
    .filter((turn) => turn.content.trim());
}

const ANSWERS = { yes: "Yes", no: "No", missing: "Missing", "not asked": "Not asked" };

/**
 * A question that can be edited, with its verdict. It has a `checker` where code can answer it as it stands; `isMine`
 * where it was typed or edited here: composing again does not take it away.
 */
export class Question {
  constructor(text, checker, isMine, removed) {
    Object.assign(this, { checker, isMine });
    this.field = element("textarea", { className: "text", rows: 1, value: text, ariaLabel: "Question" });
    this.verdict = element("p", { className: "verdict" });
    this.details = element("p", { className: "details" });
    this.item = element("li", { className: "question" }, this.verdict, this.field);
    this.item.append(removeButton("Remove this question", this.item, () => removed(this)), this.details);
    this.field.addEventListener("input", () => {
      Object.assign(this, { checker: null, isMine: true });
      this.show(null);
    });
    this.show(null);
  }

  get text() {
    return this.field.value.trim();
  }

  /** Show a verdict; null where there is none yet. */
  show(verdict) {
    this.item.dataset.answer = verdict?.answer ?? "";
    this.verdict.textContent = verdict ? (ANSWERS[verdict.answer] ?? verdict.answer) : "Not judged";
    this.details.replaceChildren();
    if (!verdict || verdict.answer === "not asked") return;
    if (typeof verdict.p_yes === "number") this.details.append(bar(verdict.p_yes), `p(yes) ${verdict.p_yes.toFixed(2)}, `);
    this.details.append(verdict.by === "judge" ? "by the judge" : `by ${verdict.by}`);
    if (verdict.explanation) this.details.append(element("span", { className: "reason" }, verdict.explanation));
  }
}

/** A share as the filled part of a line. */
function bar(share) {
  const made = element("span", { className: "bar", ariaHidden: "true" });
  made.style.setProperty("--share", Math.min(1, Math.max(0, share)));
  return made;
}

function removeButton(label, item, removed) {
  const button = element("button", { type: "button", className: "remove", ariaLabel: label, title: label }, "×");
  button.addEventListener("click", () => {
    const near = item.nextElementSibling ?? item.previousElementSibling;
    (near?.querySelector("textarea") ?? item.closest("section").querySelector("summary, form input")).focus();
    item.remove();
    removed();
  });
  return button;
}
