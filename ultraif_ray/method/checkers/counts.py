"""How many of something an answer has. Each function is pure, raises nothing and takes linear time."""

import re
import unicodedata

from ultraif_ray.method.checkers import parts

_HIGHLIGHT = re.compile(r"\*{1,3}+(?=[^\s*])[^\n*]++(?<=\S)\*{1,3}+")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]++)\](?!\()")
_NUMBER = re.compile(r"\d++(?:[.,]\d++)*+")
_LINK = re.compile(r"(?<![^\W_])(?:https?://|www\.)[^\s<>\[\]()\"]++", re.IGNORECASE)
_HASHTAG = re.compile(r"(?<![\w&/#])#(\w++)")
_PERCENTAGE = re.compile(r"\d ?(?:%|percent\b|per cent\b)", re.IGNORECASE)
_CURRENCY = "$€£¥₹₽₩₺₫₪₴฿"
_MONEY = re.compile(
    rf"[{_CURRENCY}] ?\d++(?:[.,]\d++)*+"
    rf"|\d ?(?:[{_CURRENCY}]|(?:USD|EUR|GBP|JPY|CHF|dollars?|euros?|pounds|yen|cents)\b)",
    re.IGNORECASE,
)
_CHECKBOX = re.compile(r"[ \t]*+(?:[-*+]|\d{1,4}[.)])[ \t]++\[[ xX]\][ \t]++(?=\S)")
_EMOJI = re.compile(
    "(?:[\U0001f1e6-\U0001f1ff]{2}|[\u2600-\u27bf\u2b50\u2b55\U0001f300-\U0001faff]"
    "[\ufe0f\U0001f3fb-\U0001f3ff]*+(?:\u200d[\u2600-\u27bf\U0001f300-\U0001faff][\ufe0f\U0001f3fb-\U0001f3ff]*+)*+)"
)


# ---- of the whole answer -------------------------------------------------------------------------


def words(text: str) -> int:
    """See `parts.words`."""
    return len(parts.words(text))


def sentences(text: str) -> int:
    """See `parts.sentences`."""
    return len(parts.sentences(text))


def paragraphs(text: str) -> int:
    """See `parts.paragraphs`."""
    return len(parts.paragraphs(text))


def lines(text: str) -> int:
    """Lines that are not blank."""
    return len(parts.lines(text))


def characters(text: str) -> int:
    """Characters, spaces and line breaks included, without those around the answer. An accent is part of its letter."""
    return sum(not unicodedata.combining(char) for char in unicodedata.normalize("NFC", text.strip()))


def distinct_words(text: str) -> int:
    """Different words, whatever their case."""
    return len({parts.folded(word) for word in parts.words(text)})


def capital_words(text: str) -> int:
    """Words of two letters and more that are all capitals."""
    return sum(word.isupper() and sum(map(str.isalpha, word)) > 1 for word in parts.words(text))


def bullet_points(text: str) -> int:
    """Lines that begin with `-`, `*`, `+` or `•` and a space, outside code."""
    return len(parts.list_items(text, numbered=False))


def numbered_points(text: str) -> int:
    """Lines that begin with a number, `.` or `)`, and a space, outside code."""
    return len(parts.list_items(text, numbered=True))


def highlights(text: str) -> int:
    """Passages between asterisks, on one line."""
    return sum(1 for _ in _HIGHLIGHT.finditer(text))


def placeholders(text: str) -> int:
    """Words in square brackets, such as `[name]`; no links, check boxes or numbers."""
    return sum(len(parts.bare(inner)) > 1 and not parts.bare(inner).isdecimal() for inner in _PLACEHOLDER.findall(text))


def numbers(text: str) -> int:
    """Numbers in digits; `1,000.5` is one."""
    return sum(1 for _ in _NUMBER.finditer(text))


def emoji(text: str) -> int:
    """Emoji, those that are put together of several as one."""
    return sum(1 for _ in _EMOJI.finditer(text))


def exclamation_marks(text: str) -> int:
    """`!` and `！`."""
    return text.count("!") + text.count("！")


def headings(text: str) -> int:
    """Markdown headings outside code."""
    return len(parts.headings(text))


def code_blocks(text: str) -> int:
    """Fenced code blocks that are closed."""
    return len(parts.code_blocks(text))


def links(text: str) -> int:
    """Web addresses."""
    return sum(1 for _ in _LINK.finditer(text))


def hashtags(text: str) -> int:
    """`#` and a word that is no number."""
    return sum(not tag.isdecimal() for tag in _HASHTAG.findall(text))


def percentages(text: str) -> int:
    """Numbers in digits with `%`, `percent` or `per cent`."""
    return sum(1 for _ in _PERCENTAGE.finditer(text))


def amounts_of_money(text: str) -> int:
    """Numbers in digits with the sign or the name of a currency."""
    return sum(1 for _ in _MONEY.finditer(text))


def checkboxes(text: str) -> int:
    """Items of a Markdown task list, ticked or not."""
    return sum(_CHECKBOX.match(line) is not None for line in parts.outside_code(text))


# ---- of a word, a letter or a label in it --------------------------------------------------------


def occurrences(text: str, word: str) -> int:
    """How often a word or phrase stands whole, whatever its case."""
    return parts.occurrences(word, text)


def letters(text: str, letter: str) -> int:
    """How often a letter, or another sign, stands there, whatever its case."""
    return text.casefold().count(letter.casefold())


def labelled_sections(text: str, label: str) -> int:
    """Lines that begin with a label and a number, such as `Section 2`: different numbers."""
    found = set()
    label = parts.folded(label)
    for line in parts.lines(text):
        line = parts.folded(parts.without_markup(line)[: len(label) + 20])
        if line.startswith(label) and (number := _NUMBER.match(line[len(label) :].lstrip())):
            found.add(number.group())
    return len(found)


# ---- of each of its parts ------------------------------------------------------------------------


def line_lengths(text: str) -> list[int]:
    """Characters of each line that is not blank."""
    return [len(line) for line in parts.lines(text)]


def sentence_lengths(text: str) -> list[int]:
    """Words of each sentence."""
    return [len(parts.words(sentence)) for sentence in parts.sentences(text)]


def paragraph_lengths(text: str) -> list[int]:
    """Sentences of each paragraph."""
    return [len(parts.sentences(paragraph)) for paragraph in parts.paragraphs(text)]


def table_rows(text: str) -> list[int]:
    """Rows of each Markdown table, without its head."""
    return [table.rows for table in parts.tables(text)]


def table_columns(text: str) -> list[int]:
    """Columns of each Markdown table."""
    return [table.columns for table in parts.tables(text)]
