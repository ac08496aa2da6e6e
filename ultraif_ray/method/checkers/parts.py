"""What a word, a sentence, a paragraph and a line is, so that they can be counted.

Each function takes any text, raises nothing, and takes time in proportion to the text. Quantifiers are possessive
(`++`), and none begins inside a run that it has read before.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import groupby

# Kana, Han, Thai and Lao, Myanmar, Khmer: written without spaces. Korean is not.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\s—–…{_UNSPACED}]++")

_END_OF_SENTENCE = re.compile(
    r"(?<![.!?…])(?P<marks>[.!?…]++)(?P<closing>[\"'”’»)\]*_]*+)(?=\s|\Z)|[。！？]++[\"'”’」』）]*+"
)
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")


def word_set(text: str) -> frozenset[str]:
    """The words of a list that spaces set apart."""
    return frozenset(text.split())


_ABBREVIATIONS = word_set("mr mrs ms dr prof rev st vs cf ca approx dept inc ltd corp jr sr etc usw bzw")
_MAY_END = word_set("inc ltd corp jr sr etc usw")
"""Abbreviations that end a sentence where a capital letter follows."""

_ITEM = re.compile(r"[ \t]*+(?:[-*+•‣◦]|\d{1,4}[.)])[ \t]++(?=\S)")
_BULLET = re.compile(r"[ \t]*+[-*+•‣◦][ \t]++(?=\S)")
_HEADING = re.compile(r"[ ]{0,3}#{1,6}[ \t]++(?=\S)")
_FENCE = re.compile(r"[ ]{0,3}(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)")
_MARKUP = " \t*_#>\"'“”‘’"


def bare(text: str) -> str:
    """A text without what is neither letter nor digit at its ends."""
    start, end = 0, len(text)
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not (text[end - 1].isalnum() or _is_mark(text[end - 1])):
        end -= 1
    return text[start:end]


def words(text: str) -> list[str]:
    """Words, as they stand there: what is set apart by spaces or dashes and holds a letter or a digit, without the
    punctuation around it. "don't", "well-known" and "3.5" are one word. In scripts without spaces, each character is.
    """
    return [word for piece in _PIECE.findall(text) if (word := bare(piece))]


def lines(text: str) -> list[str]:
    """The lines that are not blank, without the spaces around them."""
    return [line.strip() for line in _all_lines(text) if line.strip()]


def paragraphs(text: str) -> list[str]:
    """What blank lines, or lines without a letter or a digit, set apart."""
    groups = groupby(_all_lines(text), key=lambda line: any(map(str.isalnum, line)))
    return ["\n".join(group) for is_text, group in groups if is_text]


def sentences(text: str) -> list[str]:
    """What ends with `.`, `!`, `?`, `…` before a space (`。`, `！`, `？` anywhere), or with a paragraph, a list item or
    a heading; and holds a letter or a digit. A dot of an abbreviation, of initials or of a list's number ends none.
    """
    found = []
    for block in _blocks(text):
        start = 0
        for match in _END_OF_SENTENCE.finditer(block):
            if _ends_here(block, start, match):
                found.append(block[start : match.end()].strip())
                start = match.end()
        found.append(block[start:].strip())
    return [sentence for sentence in found if bare(sentence)]


def _blocks(text: str) -> list[str]:
    """Paragraphs, cut before and behind each heading and before each list item."""
    blocks: list[list[str]] = []
    for paragraph in paragraphs(text):
        goes_on = False
        for line in paragraph.split("\n"):
            heading = _HEADING.match(line)
            if goes_on and not heading and not _ITEM.match(line):
                blocks[-1].append(line)
            else:
                blocks.append([line])
            goes_on = not heading
    return ["\n".join(block) for block in blocks]


def _ends_here(block: str, start: int, match: re.Match[str]) -> bool:
    marks, closing = match["marks"], match["closing"]
    if not marks:  # a full stop of Chinese or Japanese
        return True
    following = next((char for char in block[match.end() : match.end() + 10] if not char.isspace()), "")
    if following.islower() and (closing or "…" in marks or ".." in marks):  # "Stop!" he said … and went
        return False
    before = block[max(start, match.start() - 20) : match.start()].split()
    word = before[-1].lstrip("(\"'“‘[*_") if before else ""
    if marks != "." or not word:
        return True
    if word.isdecimal():  # perhaps the number of a list item
        return bool(block[start : match.start() - len(word)].strip())
    if _INITIALS.fullmatch(word) and word != "I":
        return len(word) > 1 and not following.islower()
    if word.casefold() in _ABBREVIATIONS:
        return word.casefold() in _MAY_END and not following.islower()
    return True


def list_items(text: str, numbered: bool) -> list[str]:
    """The items of lists outside code, without their marks: of numbered lists, or of bulleted ones."""
    found = []
    for line in outside_code(text):
        mark = _ITEM.match(line)
        if mark and (_BULLET.match(line) is None) is numbered:
            found.append(line[mark.end() :].strip())
    return found


def headings(text: str) -> list[str]:
    """The Markdown headings outside code, without their marks."""
    return [line[m.end() :].strip().rstrip("# ") for line in outside_code(text) if (m := _HEADING.match(line))]


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: the language that its fence names, in lower case, and its text."""

    language: str
    text: str


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced code blocks that are closed."""
    return _fenced(text)[0]


def outside_code(text: str) -> list[str]:
    """The lines outside fenced code blocks."""
    return _fenced(text)[1]


def _fenced(text: str) -> tuple[list[CodeBlock], list[str]]:
    blocks: list[CodeBlock] = []
    outside: list[str] = []
    inside: list[str] = []
    fence, language = "", ""
    for line in _all_lines(text):
        mark = _FENCE.match(line)
        if not fence and mark:
            fence, language, inside = mark.group(1), mark.group(2).casefold(), []
        elif fence and mark and mark.group(1).startswith(fence) and not line.strip(" \t`~"):
            blocks.append(CodeBlock(language, "\n".join(inside)))
            fence = ""
        elif fence:
            inside.append(line)
        else:
            outside.append(line)
    return blocks, outside


@dataclass(frozen=True)
class MarkdownTable:
    """How many columns a table's head has, and how many rows follow it."""

    columns: int
    rows: int


def tables(text: str) -> list[MarkdownTable]:
    """The Markdown tables outside code: a head, a line of dashes, rows."""
    found = []
    rows = [_cells(line) for line in outside_code(text)]
    at = 0
    while at + 1 < len(rows):
        head, rule = rows[at], rows[at + 1]
        if head and len(head) == len(rule) and all(_is_rule(cell) for cell in rule):
            end = at + 2
            while end < len(rows) and rows[end]:
                end += 1
            found.append(MarkdownTable(columns=len(head), rows=end - at - 2))
            at = end
        else:
            at += 1
    return found


def _cells(line: str) -> list[str]:
    return line.strip().strip("|").split("|") if "|" in line else []


def _is_rule(cell: str) -> bool:
    cell = cell.strip()
    return "-" in cell and not cell.strip("-:")


def without_markup(line: str) -> str:
    """A line without quotation marks, emphasis and marks of headings, lists and quotations at its beginning."""
    mark = _ITEM.match(line)
    return line[mark.end() if mark else 0 :].lstrip(_MARKUP)


def folded(text: str) -> str:
    """A text as it is compared: one case, one kind of apostrophe and of quotation mark, single spaces."""
    text = unicodedata.normalize("NFC", text).casefold()
    return " ".join(text.translate(_SAME).split())


_SAME = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " "})


def find(part: str, text: str, start: int = 0) -> int:
    """Where a word or phrase stands whole in a text, both folded; -1 where it does not."""
    while part and (start := text.find(part, start)) >= 0:
        end = start + len(part)
        if not _joined(text[start - 1 : start], part[0]) and not _joined(part[-1], text[end : end + 1]):
            return start
        start += 1
    return -1


def occurrences(part: str, text: str) -> int:
    """How often a word or phrase stands whole in a text, whatever its case."""
    part, text = folded(part), folded(text)
    count, at = 0, find(part, text)
    while at >= 0:
        count, at = count + 1, find(part, text, at + len(part))
    return count


def _joined(before: str, after: str) -> bool:
    """Whether two characters belong to one word."""
    if not before or not after or _IS_UNSPACED.match(before) or _IS_UNSPACED.match(after):
        return False
    return (before.isalnum() or _is_mark(before)) and (after.isalnum() or _is_mark(after))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


def _all_lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")
