"""What is true of an answer, or not. Each function is pure, raises nothing and takes linear time."""

import csv
import json
import re
import unicodedata
from itertools import pairwise
from typing import Any

from ultraif_ray.method.checkers import counts, parts
from ultraif_ray.method.checkers.parts import find, folded, lines, without_markup, word_set

_AROUND = " \t\r\n\"'“”‘’*_"
_TITLE = re.compile(r"<<([^\n<>]++)>>")
_SMALL_WORDS = word_set("a an the and but or nor for of in on at to by as with from into over via vs")
_FIRST_PERSON = word_set("i me my mine myself we us our ours ourselves i'm i've i'd i'll we're we've we'd we'll")
_CONTRACTION = re.compile(
    r"n't\b|\b(?:i'm|let's|(?:he|she|it|that|there|here|what|who|where|how|when|why)'s|[a-z]++'(?:re|ve|ll|d))\b"
)
_SCRIPTS = {"latin": "LATIN", "cyrillic": "CYRILLIC", "greek": "GREEK", "arabic": "ARABIC", "hebrew": "HEBREW",
            "devanagari": "DEVANAGARI", "bengali": "BENGALI", "tamil": "TAMIL", "thai": "THAI", "hangul": "HANGUL",
            "hiragana": "HIRAGANA", "katakana": "KATAKANA", "georgian": "GEORGIAN", "armenian": "ARMENIAN"}  # fmt: skip
"""How Unicode's names of a script's letters begin."""


# ---- words ---------------------------------------------------------------------------------------


def includes(text: str, texts: list[str]) -> bool:
    """Each word or phrase stands in it whole, whatever its case."""
    whole = folded(text)
    return all(find(folded(one), whole) >= 0 for one in texts)


def avoids(text: str, texts: list[str]) -> bool:
    """No word or phrase stands in it whole, whatever its case."""
    whole = folded(text)
    return all(find(folded(one), whole) < 0 for one in texts)


def in_this_order(text: str, texts: list[str]) -> bool:
    """The words or phrases stand in it whole, each for the first time behind where the one before it does."""
    whole = folded(text)
    places = [find(folded(one), whole) for one in texts]
    return min(places) >= 0 and all(before < after for before, after in pairwise(places))


def without_first_person(text: str) -> bool:
    """No English pronoun of the first person: I, me, my, we, us, our and so on."""
    return not any(folded(word) in _FIRST_PERSON for word in parts.words(text))


def without_contractions(text: str) -> bool:
    """No English contraction, such as don't, it's or we'll. A genitive is none."""
    return _CONTRACTION.search(folded(text)) is None


def varied_openings(text: str) -> bool:
    """No two sentences begin with the same word."""
    opening = [folded(parts.words(without_markup(sentence))[0]) for sentence in parts.sentences(text)]
    return len(set(opening)) == len(opening) > 1


# ---- case and script -----------------------------------------------------------------------------


def all_capitals(text: str) -> bool:
    """All letters that have a case are capitals."""
    return text.isupper()


def all_lower_case(text: str) -> bool:
    """No letter is a capital."""
    return text.islower()


def title_case(text: str) -> bool:
    """Each word begins with a capital, but for articles, conjunctions and short prepositions after the first."""
    found = [word for word in parts.words(text) if word[0].isupper() or word[0].islower()]
    return bool(found) and all(
        word[0].isupper() or (number > 0 and word in _SMALL_WORDS) for number, word in enumerate(found)
    )


def knows_script(name: str) -> bool:
    """Whether `in_script` knows a script by this name."""
    return _bare_name(name) in _SCRIPTS


def in_script(text: str, texts: list[str]) -> bool:
    """All its letters are of one script."""
    letters = [char for char in set(text) if char.isalpha()]
    prefix = _SCRIPTS.get(_bare_name(texts[0]), "?")
    return bool(letters) and all(unicodedata.name(char, "").startswith(prefix) for char in letters)


def _bare_name(name: str) -> str:
    return folded(name).removesuffix(" script").removesuffix(" alphabet").removesuffix(" letters")


# ---- beginning and end ---------------------------------------------------------------------------


def starts_with(text: str, texts: list[str]) -> bool:
    """It begins with this word or phrase, whatever its case; marks of emphasis and quotation before it do not count."""
    return _begins(text, texts[0]) or _begins(text.lstrip(_AROUND), texts[0])


def ends_with(text: str, texts: list[str]) -> bool:
    """It ends with this word or phrase, whatever its case. Marks of emphasis and quotation behind it do not count, nor
    does punctuation behind a phrase that has none.
    """
    return _ends(text, texts[0])


def ends_with_a_question(text: str) -> bool:
    """Its last mark is a question mark."""
    return text.rstrip(_AROUND + ")]").endswith(("?", "？", "؟"))


def in_quotation_marks(text: str) -> bool:
    """It stands in double quotation marks as a whole."""
    text = text.strip()
    return len(text) > 2 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("„", "“"), ("«", "»")}


def has_postscript(text: str, texts: list[str]) -> bool:
    """A line begins with this mark, such as `P.S.`."""
    return any(_begins(without_markup(line), texts[0]) for line in lines(text))


def every_line_starts_with(text: str, texts: list[str]) -> bool:
    """Each line that is not blank does."""
    found = lines(text)
    return bool(found) and all(_begins(line, texts[0]) or _begins(without_markup(line), texts[0]) for line in found)


def every_line_ends_with(text: str, texts: list[str]) -> bool:
    """Each line that is not blank does."""
    found = lines(text)
    return bool(found) and all(_ends(line, texts[0]) for line in found)


def _begins(text: str, with_this: str) -> bool:
    part = folded(with_this)
    return bool(part) and find(part, folded(text[: 4 * len(with_this) + 80])) == 0


def _ends(text: str, with_this: str) -> bool:
    part = folded(with_this)
    end = folded(text.rstrip()[-(4 * len(with_this) + 80) :])
    ends = [end, end.rstrip(_AROUND)]
    if part and part[-1].isalnum():
        ends.append(parts.bare(end))
    return any(find(part, one, max(0, len(one) - len(part))) >= 0 for one in ends)


# ---- layout --------------------------------------------------------------------------------------


def without_commas(text: str) -> bool:
    """No comma of any script."""
    return not set(text) & set(",，،、")


def has_title(text: str) -> bool:
    """There is a title in double angle brackets, `<<title>>`."""
    return any(title.strip() for title in _TITLE.findall(text))


def has_headings(text: str, texts: list[str]) -> bool:
    """Each stands there as a Markdown heading, whatever its case."""
    found = {folded(parts.bare(heading)) for heading in parts.headings(text)}
    return all(folded(parts.bare(one)) in found for one in texts)


def plain_text(text: str) -> bool:
    """No Markdown: no headings, bullets, emphasis with asterisks, code, tables or links with a text."""
    marks = counts.headings(text) + counts.bullet_points(text) + counts.highlights(text) + len(parts.tables(text))
    return not marks and "`" not in text and "](" not in text


def code_in(text: str, texts: list[str]) -> bool:
    """There is a fenced code block, and each names this language."""
    blocks = parts.code_blocks(text)
    return bool(blocks) and all(block.language == folded(texts[0]) for block in blocks)


def inside_tag(text: str, texts: list[str]) -> bool:
    """It stands as a whole between `<tag>` and `</tag>`."""
    tag, text = texts[0].strip().strip("</>"), text.strip()
    return bool(tag) and text.startswith(f"<{tag}>") and text.endswith(f"</{tag}>")


def dialogue(text: str, texts: list[str]) -> bool:
    """Each line that is not blank is said by one of these speakers, `Name: …`, and each says one."""
    names = {folded(name).rstrip(":") for name in texts}
    said = [folded(without_markup(line).split(":", 1)[0]).strip("*_ ") if ":" in line else "" for line in lines(text)]
    return set(said) == names


def acrostic(text: str, texts: list[str]) -> bool:
    """The first letters of its lines that are not blank spell this, whatever its case and spaces."""
    initials = "".join(next(filter(str.isalpha, line), "?") for line in lines(text))
    wanted = "".join(filter(str.isalpha, texts[0]))
    return bool(wanted) and folded(initials) == folded(wanted)


def sorted_items(text: str) -> bool:
    """Its list items, or its lines where it has no list, stand in the order of the alphabet."""
    items = parts.list_items(text, numbered=False) or parts.list_items(text, numbered=True) or lines(text)
    keys = [folded(parts.bare(item)) for item in items]
    return len(keys) > 1 and keys == sorted(keys)


# ---- data ----------------------------------------------------------------------------------------


def is_json(text: str) -> bool:
    """It is a JSON object or array as a whole, in a code block or bare."""
    return isinstance(_json_of(text), dict | list)


def json_with_keys(text: str, texts: list[str]) -> bool:
    """It is a JSON object with these keys and no others."""
    value = _json_of(text)
    return isinstance(value, dict) and set(value) == set(texts)


def csv_with_columns(text: str, texts: list[str]) -> bool:
    """It is comma-separated, in a code block or bare: a head of these columns, and rows with a field for each."""
    try:
        rows = [row for row in csv.reader(_alone(text).split("\n"), skipinitialspace=True) if row]
    except csv.Error:
        return False
    head = [folded(field) for field in rows[0]] if rows else []
    return head == [folded(one) for one in texts] and len(rows) > 1 and all(len(row) == len(texts) for row in rows)


def one_of(text: str, texts: list[str]) -> bool:
    """It is one of these and nothing else, whatever its case and the marks around it."""
    return folded(parts.bare(text)) in {folded(parts.bare(one)) for one in texts}


def _json_of(text: str) -> Any:
    try:
        return json.loads(_alone(text))
    except (ValueError, RecursionError):
        return None


def _alone(text: str) -> str:
    """What stands in a code block, where that is all there is; else the text."""
    blocks = parts.code_blocks(text)
    alone = len(blocks) == 1 and not any(line.strip() for line in parts.outside_code(text))
    return blocks[0].text if alone else text.strip()
