"""Turns that ask nothing: a person lets the assistant go on, thanks it, or nods.

A look-up, not a classifier. A turn asks nothing where it is short and all of it, case and punctuation aside, is phrases
of the lists below, in any order: "OK, thank you so much! Please continue." One other word or sign, and the turn is
kept: "continue in French", "thanks, now as a table", "&&". So is one with a question mark, unless it asks to go on:
"OK?" wants an answer, "continue?" nothing new. Bare answers that mean something ("2", "Go", "the first one") and
greetings, which open a conversation, are in no list.
"""

import re
import unicodedata

LONGEST = 100
"""Characters of the longest turn that is looked at."""

GO_ON = """
continue, continue writing, continue from there, continue from where you left off, continue where you left off,
continue from where you stopped, continue where you stopped, go on, go ahead, keep going, keep writing, carry on,
proceed, next, cont, continue generating, can you continue, could you continue, can you go on, you can continue,
lets continue, contine, coninue, contiue, continua, continúa, continuá, continúe, continuar, sigue, adelante,
siguiente, continuez, poursuis, poursuivez, vas y, la suite, weiter, mach weiter, fahre fort, fahr fort,
weitermachen, prossiga, vai avanti, prosegui, avanti, ga door, ga verder, kontynuuj, dalej, devam, devam et,
продолжай, продолжи, продолжайте, продолжить, дальше, далее, продовжуй, далі, 继续, 请继续, 继续吧, 继续写, 请继续写,
继续说, 接着写, 接着说, 下一步, 繼續, 請繼續, 繼續寫, 続けて, 続けてください, 続けて下さい, 続き, 続きを,
続きをお願いします, 続きをお願い, 次, 계속, 계속해, 계속해줘, 계속해주세요, 계속 해줘, 계속 해주세요, 이어서,
이어서 해줘, استمر, أكمل, اكمل, تابع, واصل, जारी रखें, जारी रखो, आगे, lanjut, lanjutkan, teruskan, tiếp tục, tiếp,
tiếp đi, ต่อ, ทำต่อ
"""
"""To go on with what was asked before."""

NODS = """
thanks, thank you, thankyou, thanx, thx, ty, tysm, many thanks, thanks again, thanks a lot, thank you again, so much,
very much, a lot, for your help, for the help, for your time, cheers, much appreciated, i appreciate it, bye,
goodbye, please, pls, plz, yes, ye, yeah, yep, yup, sure, of course, correct, exactly, absolutely, definitely, no,
nope, ok, okay, k, kk, alright, all right, right, fine, good, very good, great, nice, very nice, cool, perfect,
awesome, amazing, excellent, wonderful, fantastic, brilliant, good job, great job, good work, great work, nice work,
well done, sounds good, sounds great, looks good, looks great, that is great, thats great, that is perfect,
thats perfect, that is good, thats good, that works, it works, it worked, that worked, i see, got it, i got it,
understood, i understand, makes sense, that makes sense, noted, oh, ah, wow, lol, haha, hmm, welcome,
you are welcome, youre welcome, i love it, love it, i like it, gracias, muchas gracias, muchísimas gracias,
mil gracias, por favor, sí, si, vale, claro, de acuerdo, perfecto, muy bien, excelente, genial, merci,
merci beaucoup, sil te plaît, sil vous plaît, sil te plait, sil vous plait, svp, oui, non, daccord, parfait, super,
très bien, danke, vielen dank, danke schön, dankeschön, bitte, ja, nein, gut, sehr gut, perfekt, alles klar,
obrigado, obrigada, muito obrigado, muito obrigada, sim, não, perfeito, ótimo, muito bom, certo, grazie,
grazie mille, sì, va bene, perfetto, per favore, dank je, dank je wel, bedankt, dziękuję, dzięki, tak, proszę,
teşekkürler, teşekkür ederim, evet, tamam, lütfen, спасибо, спасибо большое, большое спасибо, пожалуйста, да, нет,
хорошо, отлично, понятно, понял, ок, дякую, так, 谢谢, 谢谢你, 谢谢您, 多谢, 感谢, 非常感谢, 好, 好的, 好吧, 可以,
是, 是的, 对, 嗯, 不用了, 明白了, 很好, 謝謝, 謝謝你, 感謝, はい, いいえ, ありがとう, ありがとうございます,
ありがとうございました, お願いします, お願い, 了解, 了解です, わかりました, 分かりました, なるほど, 네, 예, 응,
아니요, 감사합니다, 고마워, 고마워요, 고맙습니다, 알겠습니다, 좋아, 좋아요, شكرا, شكرا لك, شكرا جزيلا, نعم, لا, حسنا,
من فضلك, धन्यवाद, शुक्रिया, हाँ, हां, जी हाँ, ठीक है, अच्छा, कृपया, terima kasih, makasih, ya, iya, tidak, baik, oke, cảm ơn,
cám ơn, cảm ơn bạn, vâng, được, ขอบคุณ, ขอบคุณครับ, ขอบคุณค่ะ, ครับ, ค่ะ, ใช่
"""
"""Thanks, and answers that add nothing to what they answer."""


def asks_nothing(text: str) -> bool:
    """Whether a human turn asks nothing, by the rule above."""
    if len(text) > LONGEST:
        return False
    words, place, goes_on = _words(text), 0, False
    while place < len(words):
        longest = min(_MOST_WORDS, len(words) - place)
        length = next((n for n in range(longest, 0, -1) if words[place : place + n] in _PHRASES), 0)
        if not length:
            return False
        goes_on = goes_on or _PHRASES[words[place : place + length]]
        place += length
    return goes_on or not _QUESTION.search(text)


_QUESTION = re.compile("[?？؟]")
_SIGNS = re.compile(r"""[-–—~.,;:!?…()"“”«»¡¿。、，；：！？؟،।]""")
_WITHOUT_TRACE = re.compile("['’\u200b-\u200d\ufe0f]")


def _words(text: str) -> tuple[str, ...]:
    """Lower-cased words without apostrophes. The signs of a sentence and emoji are spaces, other signs are words."""
    text = _WITHOUT_TRACE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return tuple(_SIGNS.sub(" ", "".join(" " if unicodedata.category(c) in ("So", "Sk") else c for c in text)).split())


_PHRASES = {_words(phrase): goes_on for goes_on, some in ((False, NODS), (True, GO_ON)) for phrase in some.split(",")}
_MOST_WORDS = max(map(len, _PHRASES))
