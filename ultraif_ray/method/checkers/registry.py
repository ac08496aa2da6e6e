"""Every checker: its name, its family, the benchmark that has the like, and when a model is to name it.

A checker is a pure function of an answer and a `Check`, the one flat record of arguments. It raises nothing on any
text, whatever its length or script, and takes time in proportion to it.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from ultraif_ray.method.checkers import counts, languages, properties
from ultraif_ray.records import Check, CheckerName, Family, Relation

COMPARES: dict[Relation, Callable[[int, int], bool]] = {
    "at least": operator.ge,
    "at most": operator.le,
    "exactly": operator.eq,
    "more than": operator.gt,
    "fewer than": operator.lt,
}


@dataclass(frozen=True)
class Checker:
    """A row of the registry.

    `family` is the kind of constraint. `benchmark` is the instruction of IFEval or IFBench that asks for the like;
    empty where neither has one. `when` tells a model what it checks. Of the arguments it uses the number, with its
    relation, where `number` is true, and from `texts[0]` to `texts[1]` texts, each of which must be one that it
    `knows`.
    """

    name: CheckerName
    family: Family
    benchmark: str
    when: str
    holds: Callable[[str, Check], bool]
    number: bool = False
    texts: tuple[int, int] = (0, 0)
    knows: Callable[[str], bool] = bool


def fits(check: Check) -> bool:
    """Whether a check has the arguments that its checker uses, and no others."""
    checker = CHECKERS[check.name]
    least, most = checker.texts
    return (
        (check.number is not None) is checker.number
        and least <= len(check.texts) <= most
        and all(text.strip() and checker.knows(text) for text in check.texts)
    )


def holds(text: str, check: Check) -> bool:
    """Whether an answer meets a check; no answer meets one that does not fit its checker."""
    return fits(check) and CHECKERS[check.name].holds(text, check)


# ---- the kinds of rows ---------------------------------------------------------------------------


def _count(name: CheckerName, family: Family, benchmark: str, when: str, count: Callable[[str], int]) -> Checker:
    """The number of something."""
    return Checker(name, family, benchmark, when, lambda text, check: _compares(count(text), check), number=True)


def _count_of(
    name: CheckerName,
    family: Family,
    benchmark: str,
    when: str,
    count: Callable[[str, str], int],
    knows: Callable[[str], bool] = bool,
) -> Checker:
    """The number of something that a text names."""
    return Checker(
        name,
        family,
        benchmark,
        when,
        lambda text, check: _compares(count(text, check.texts[0]), check),
        number=True,
        texts=(1, 1),
        knows=knows,
    )


def _each(name: CheckerName, family: Family, benchmark: str, when: str, sizes: Callable[[str], list[int]]) -> Checker:
    """The size of each of its parts; without such a part it does not hold."""

    def holds(text: str, check: Check) -> bool:
        found = sizes(text)
        return bool(found) and all(_compares(size, check) for size in found)

    return Checker(name, family, benchmark, when, holds, number=True)


def _is(name: CheckerName, family: Family, benchmark: str, when: str, is_so: Callable[[str], bool]) -> Checker:
    """A property."""
    return Checker(name, family, benchmark, when, lambda text, check: is_so(text))


def _is_of(
    name: CheckerName,
    family: Family,
    benchmark: str,
    when: str,
    is_so: Callable[[str, list[str]], bool],
    texts: tuple[int, int] = (1, 1),
    knows: Callable[[str], bool] = bool,
) -> Checker:
    """A property that texts name."""
    return Checker(
        name, family, benchmark, when, lambda text, check: is_so(text, check.texts), texts=texts, knows=knows
    )


def _compares(count: int, check: Check) -> bool:
    return check.number is not None and COMPARES[check.relation](count, check.number)


def _is_sign(text: str) -> bool:
    return len(text) == 1


_ANY = (1, 20)
"""One text or several."""

# ---- the registry --------------------------------------------------------------------------------

_ROWS = (
    _count("words", "length", "length_constraints:number_words", "words of the whole answer", counts.words),
    _count("sentences", "length", "length_constraints:number_sentences", "sentences of the whole answer",
           counts.sentences),
    _count("paragraphs", "length", "length_constraints:number_paragraphs", "paragraphs of the whole answer",
           counts.paragraphs),
    _count("lines", "length", "", "lines of the whole answer", counts.lines),
    _count("characters", "length", "", "characters of the whole answer", counts.characters),
    _count("distinct_words", "vocabulary", "count:unique_word_count", "different words", counts.distinct_words),
    _is_of("includes", "keywords", "keywords:existence", "it has each of these words or phrases", properties.includes,
           _ANY),
    _is_of("avoids", "keywords", "keywords:forbidden_words", "it has none of these words or phrases",
           properties.avoids, _ANY),
    _count_of("occurrences", "keywords", "keywords:frequency", "how often it has this word or phrase",
              counts.occurrences),
    _count_of("letters", "keywords", "keywords:letter_frequency", "how often it has this letter or sign",
              counts.letters, _is_sign),
    _is("all_capitals", "case", "change_case:english_capital", "all in capital letters", properties.all_capitals),
    _is("all_lower_case", "case", "change_case:english_lowercase", "all in lower-case letters",
        properties.all_lower_case),
    _count("capital_words", "case", "change_case:capital_word_frequency", "words all in capital letters",
           counts.capital_words),
    _is("title_case", "case", "format:title_case", "all in title case", properties.title_case),
    _is_of("starts_with", "beginning_and_end", "", "its very first words are these", properties.starts_with),
    _is_of("ends_with", "beginning_and_end", "startend:end_checker", "its very last words are these",
           properties.ends_with),
    _is("ends_with_a_question", "beginning_and_end", "", "its last sentence is a question",
        properties.ends_with_a_question),
    _is("in_quotation_marks", "beginning_and_end", "startend:quotation", "the whole of it is in double quotation marks",
        properties.in_quotation_marks),
    _is_of("postscript", "beginning_and_end", "detectable_content:postscript",
           "a postscript that begins with this mark, such as P.S.", properties.has_postscript),
    _is("without_commas", "punctuation", "punctuation:no_comma", "no comma", properties.without_commas),
    _count("exclamation_marks", "punctuation", "", "exclamation marks", counts.exclamation_marks),
    _count("bullet_points", "lists", "detectable_format:number_bullet_lists", "bullet points", counts.bullet_points),
    _count("numbered_points", "lists", "", "points of a numbered list", counts.numbered_points),
    _is("sorted_items", "sorting", "custom:reverse_newline", "its list is in alphabetical order",
        properties.sorted_items),
    _count_of("labelled_sections", "sections", "detectable_format:multiple_sections",
              "sections that begin with this label and a number", counts.labelled_sections),
    _is("title_in_brackets", "title", "detectable_format:title", "a title in double angle brackets, <<title>>",
        properties.has_title),
    _count("highlights", "highlighting", "detectable_format:number_highlighted_sections",
           "passages highlighted with asterisks", counts.highlights),
    _count("placeholders", "slots", "detectable_content:number_placeholders",
           "placeholders in square brackets", counts.placeholders),
    _is("is_json", "json_data", "detectable_format:json_format", "the whole of it is JSON", properties.is_json),
    _is_of("json_with_keys", "json_data", "", "it is a JSON object with exactly these keys", properties.json_with_keys,
           _ANY),
    _is_of("csv_with_columns", "csv_data", "custom:csv_city", "it is comma-separated data with exactly these columns",
           properties.csv_with_columns, (2, 20)),
    _is_of("one_of", "choice", "detectable_format:constrained_response",
           "it is one of these and nothing else", properties.one_of, (2, 20)),
    _is_of("in_language", "language", "language:response_language",
           "it is in this language, by its English name", languages.in_language, knows=languages.knows_language),
    _count("numbers", "figures", "count:numbers", "numbers in digits", counts.numbers),
    _count("emoji", "emojis", "format:emoji", "emoji", counts.emoji),
    _is("without_first_person", "pronouns", "count:pronouns", "no I, me, my, we, us, our",
        properties.without_first_person),
    # Families that neither benchmark has.
    _each("line_lengths", "line_length", "", "characters of every line", counts.line_lengths),
    _each("sentence_lengths", "sentence_length", "", "words of every sentence", counts.sentence_lengths),
    _each("paragraph_lengths", "paragraph_length", "", "sentences of every paragraph", counts.paragraph_lengths),
    _each("table_rows", "tables", "", "rows of its table, without the head", counts.table_rows),
    _each("table_columns", "tables", "", "columns of its table", counts.table_columns),
    _count("headings", "markdown_headings", "", "Markdown headings", counts.headings),
    _is_of("has_headings", "markdown_headings", "", "it has each of these as a Markdown heading",
           properties.has_headings, _ANY),
    _count("code_blocks", "code", "", "fenced code blocks", counts.code_blocks),
    _is_of("code_in", "code", "", "its code blocks are marked as in this programming language", properties.code_in),
    _is("plain_text", "plain", "", "no Markdown", properties.plain_text),
    _count("links", "web", "", "web addresses", counts.links),
    _count("hashtags", "web", "", "hashtags", counts.hashtags),
    _is_of("inside_tag", "tags", "", "the whole of it stands between <tag> and </tag>", properties.inside_tag),
    _count("percentages", "quantities", "", "percentages in digits", counts.percentages),
    _count("amounts_of_money", "quantities", "", "amounts of money in digits", counts.amounts_of_money),
    _count("checkboxes", "task_lists", "", "items of a task list, - [ ]", counts.checkboxes),
    _is_of("acrostic", "verse", "", "the first letters of its lines spell this", properties.acrostic),
    _is_of("every_line_starts_with", "lines_alike", "", "every line begins with this",
           properties.every_line_starts_with),
    _is_of("every_line_ends_with", "lines_alike", "", "every line ends with this", properties.every_line_ends_with),
    _is_of("dialogue", "speakers", "", "every line is said by one of these speakers, Name: words",
           properties.dialogue, (2, 20)),
    _is_of("in_this_order", "order", "", "it has these words or phrases, in this order", properties.in_this_order,
           (2, 20)),
    _is("varied_openings", "variety", "", "no two sentences begin with the same word", properties.varied_openings),
    _is("without_contractions", "contractions", "", "no don't, it's, we'll", properties.without_contractions),
    _is_of("in_script", "script", "", "all its letters are of this script", properties.in_script,
           knows=properties.knows_script),
)  # fmt: skip

CHECKERS: dict[CheckerName, Checker] = {checker.name: checker for checker in _ROWS}
"""All of them, in the order in which models are told of them."""
