// A request as a command for bash.

/** A word of bash that stands for `text`, whatever is in it. */
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * The command that posts `body` to `url`. A token is named, not shown: it would stay in the clipboard and in the history
 * of the shell.
 */
export function command(url, body, wantsToken) {
  const parts = [`curl -sS ${quoted(url)}`, "-H 'Content-Type: application/json'", `-d ${quoted(printable(body))}`];
  if (wantsToken) parts.splice(1, 0, `-H "Authorization: Bearer \${ULTRAIF_SERVE_TOKEN:?is the token of the service}"`);
  return parts.join(" \\\n  ");
}

/** JSON without characters that a terminal acts on, or that let a text look like another one. */
function printable(body) {
  return JSON.stringify(body).replace(
    /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
