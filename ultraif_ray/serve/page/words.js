// Which words of a text are new.

const MOST_CELLS = 4e6; // of the table below: some 16 MB, and tens of milliseconds
const segmenter = new Intl.Segmenter("en", { granularity: "word" }); // also where no spaces stand between words

/**
 * The text `after` in pieces, `{text, isNew}`: joined they are `after`, and those that are not new stand in `before` in
 * the same order. Where both texts are so long and so different that a comparison would take seconds, all between their
 * common beginning and end is new.
 */
export function newWords(before, after) {
  const old = wordsOf(before);
  const words = wordsOf(after);
  let start = 0;
  while (start < old.length && start < words.length && old[start] === words[start]) start += 1;
  let end = 0;
  const most = Math.min(old.length, words.length) - start;
  while (end < most && old[old.length - 1 - end] === words[words.length - 1 - end]) end += 1;

  const middle = words.slice(start, words.length - end);
  const kept = inCommon(old.slice(start, old.length - end), middle);
  const isNew = words.map((_, at) => at >= start && at < words.length - end && !kept.has(at - start));
  return joined(words, bridged(words, isNew));
}

function wordsOf(text) {
  return Array.from(segmenter.segment(text), (part) => part.segment);
}

/** The places in `words` of a longest common subsequence with `old`. */
function inCommon(old, words) {
  const kept = new Set();
  const width = words.length + 1;
  if ((old.length + 1) * width > MOST_CELLS) return kept;
  const longest = new Uint32Array((old.length + 1) * width); // from each pair of places to both ends
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = words.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] =
        old[i] === words[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < old.length && j < words.length; ) {
    if (old[i] === words[j]) {
      kept.add(j);
      i += 1;
      j += 1;
    } else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}

/** Spaces and punctuation between two new words are new with them: one mark, not one for each word. */
function bridged(words, isNew) {
  const marked = [...isNew];
  let last = -1;
  for (let at = 0; at < words.length; at += 1) {
    if (isNew[at]) {
      if (last >= 0) marked.fill(true, last, at);
      last = at;
    } else if (/[\p{L}\p{N}]/u.test(words[at])) last = -1;
  }
  return marked;
}

function joined(words, isNew) {
  const pieces = [];
  words.forEach((word, at) => {
    const last = pieces.at(-1);
    if (last?.isNew === isNew[at]) last.text += word;
    else pieces.push({ text: word, isNew: isNew[at] });
  });
  return pieces;
}
