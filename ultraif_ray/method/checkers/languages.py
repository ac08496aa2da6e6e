"""Which language a text is in, by py3langid: its model comes with it, and it downloads nothing."""

from functools import cache
from typing import Any

from ultraif_ray.method.checkers.parts import folded, outside_code, word_set

_CODES = dict(
    pair.split(":")
    for pair in word_set(
        "afrikaans:af albanian:sq amharic:am arabic:ar armenian:hy azerbaijani:az basque:eu belarusian:be "
        "bengali:bn bulgarian:bg burmese:my catalan:ca chinese:zh croatian:hr czech:cs danish:da dutch:nl "
        "english:en esperanto:eo estonian:et farsi:fa filipino:tl finnish:fi french:fr galician:gl georgian:ka "
        "german:de greek:el gujarati:gu hebrew:he hindi:hi hungarian:hu icelandic:is indonesian:id irish:ga "
        "italian:it japanese:ja kannada:kn kazakh:kk khmer:km korean:ko lao:lo latin:la latvian:lv lithuanian:lt "
        "macedonian:mk malay:ms malayalam:ml mandarin:zh marathi:mr mongolian:mn nepali:ne norwegian:no persian:fa "
        "polish:pl portuguese:pt punjabi:pa romanian:ro russian:ru serbian:sr sinhala:si slovak:sk slovenian:sl "
        "spanish:es swahili:sw swedish:sv tagalog:tl tamil:ta telugu:te thai:th turkish:tr ukrainian:uk urdu:ur "
        "vietnamese:vi welsh:cy"
    )
)
"""The languages told apart, by their English names: the fewer, the surer a short text's is."""

_ALIKE = {"hr": "sr", "ms": "id"}
"""Croatian and Serbian, Malay and Indonesian: too near to each other to tell apart in a short text."""


def knows_language(name: str) -> bool:
    """Whether `in_language` knows a language by this English name."""
    return folded(name) in _CODES


def in_language(text: str, texts: list[str]) -> bool:
    """It is in this language, going by its lines outside code; one without any letter there is in none."""
    prose = "\n".join(outside_code(text))
    if not any(map(str.isalpha, prose)):
        return False
    found, _ = _identifier().classify(prose)
    wanted = _CODES.get(folded(texts[0]), "")
    return bool(_ALIKE.get(found, found) == _ALIKE.get(wanted, wanted))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(set(_CODES.values())))
    return identifier
