from difflib import SequenceMatcher

from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.method.texts import broken_pairs, missing, new_text, words

lists = st.lists(st.sampled_from("abcd"), max_size=12)


def test_words_are_cased_alike_and_scripts_without_spaces_are_split() -> None:
    assert words("Don't PANIC, 42!") == ["don", "t", "panic", "42"]
    assert words("红烧肉 x") == ["红", "烧", "肉", "x"]
    assert words("ครับ") == list("ครับ")
    assert words("snake_case") == ["snake", "case"]


@given(lists, lists)
def test_what_is_missing_makes_a_part_of_the_whole(part: list[str], whole: list[str]) -> None:
    lacking = missing(part, whole)
    assert not missing(part, whole + lacking)
    assert len(lacking) == sum(max(0, part.count(word) - whole.count(word)) for word in "abcd")


@given(lists, lists)
def test_order_does_not_matter_to_what_is_missing(part: list[str], whole: list[str]) -> None:
    assert sorted(missing(part, whole)) == sorted(missing(part[::-1], whole[::-1]))


def test_pieces_that_moved_break_few_pairs_and_scrambled_words_most() -> None:
    text = words("Write in French. Describe how the old harbour looks at dawn in winter")
    moved = words("Describe how the old harbour looks at dawn in winter. Write in French")
    scrambled = words("winter dawn looks the harbour how old Describe in at")
    assert broken_pairs(moved, text) <= 1
    assert broken_pairs(scrambled, text) >= 8


def test_what_is_new_is_told_as_it_stands() -> None:
    assert new_text("Write about rain.", "Write about rain in two lines.") == "in two lines"
    assert new_text("Write about rain", "Please write about rain, in French!") == "Please … in French"
    assert new_text("写一首诗", "写一首诗，用法语") == "用法语"
    assert new_text("two lines of rain", "three lines of rain") == "three"
    often = "the cat sat on the mat and the dog lay by the door. " * 20  # words that difflib would take for noise
    assert new_text(often, f"Rhyme. {often}") == "Rhyme"


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_is_new_is_made_of_the_later_text(before: str, after: str) -> None:
    assert not missing(words(new_text(before, after)), words(after))


def compared(before: str, after: str) -> list[str]:
    """The new words as a comparison of all with all finds them."""
    old, new = words(before), words(after)
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [word for kind, _, _, start, end in blocks if kind in ("insert", "replace") for word in new[start:end]]


FEW_WORDS = st.lists(st.sampled_from(["a", "b", "ab", "诗"]), max_size=6).map(" ".join)


@given(FEW_WORDS, FEW_WORDS, FEW_WORDS)
def test_what_a_text_stands_in_whole_is_found_as_a_comparison_finds_it(first: str, before: str, last: str) -> None:
    for after in (f"{first} {before} {last}", f"{first} {last}"):
        assert words(new_text(before, after)) == compared(before, after)


def test_a_long_text_of_few_words_costs_no_more_than_its_length() -> None:
    long = "very " * 30_000  # whose comparison would take minutes
    assert new_text(long, f"Please: {long}, in French.") == "Please … in French"
    assert new_text("诗" * 30_000, "诗" * 30_000 + "短") == "短"
