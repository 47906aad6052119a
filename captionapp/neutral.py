"""English captions without guesses at gender: people and children in place of men, women, boys and
girls, and "they" in place of "he" and "she". A pure function of words; nothing stored is changed.

A captioner guesses gender from little, and is often wrong in ways that hurt; what it says of
people's doings is worth reading all the same. The words of a caption are replaced one by one, so
that each shown word still knows which written word it stands for. Where two people of one kind are
counted together they are added: "a man and a woman" is "two people", not "a person and a person".

Left alone: names of roles ("bride", "king", "cowboy", "mermaid"), "male" and "female" of animals,
and words inside others ("snowman", "man-made").
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

_PEOPLE = {
    "man": "person", "woman": "person", "guy": "person", "lady": "person", "gentleman": "person",
    "boy": "child", "girl": "child", "son": "child", "daughter": "child",
    "mother": "parent", "father": "parent", "mom": "parent", "dad": "parent",
    "grandmother": "grandparent", "grandfather": "grandparent",
    "brother": "sibling", "sister": "sibling", "husband": "spouse", "wife": "spouse",
    "boyfriend": "partner", "girlfriend": "partner",
    "mum": "parent", "mommy": "parent", "mama": "parent", "daddy": "parent", "papa": "parent",
    "grandma": "grandparent", "grandpa": "grandparent",
    "grandson": "grandchild", "granddaughter": "grandchild",
    "aunt": "relative", "uncle": "relative", "niece": "relative", "nephew": "relative",
    "schoolboy": "schoolchild", "schoolgirl": "schoolchild",
    "policeman": "police officer", "policewoman": "police officer",
    "fireman": "firefighter", "firewoman": "firefighter",
    "businessman": "businessperson", "businesswoman": "businessperson",
    "salesman": "salesperson", "saleswoman": "salesperson",
    "sportsman": "athlete", "sportswoman": "athlete",
    "horseman": "rider", "horsewoman": "rider",
    "fisherman": "fisher", "cameraman": "camera operator", "stuntman": "stunt performer",
    "batsman": "batter", "baseman": "base player", "swordsman": "sword fighter",
    "mailman": "mail carrier", "postman": "mail carrier", "workman": "worker",
    "crewman": "crew member", "guardsman": "guard",
    "actress": "actor", "hostess": "host", "waiter": "server", "waitress": "server",
    "stewardess": "flight attendant",
}  # fmt: skip
_PLURALS = {
    "person": "people", "child": "children", "grandchild": "grandchildren",
    "schoolchild": "schoolchildren", "businessperson": "businesspeople",
    "salesperson": "salespeople",
}  # fmt: skip
_IRREGULAR = {"lady": "ladies", "wife": "wives"}


def _plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


def _plural_of(word: str) -> str:
    if word.endswith("man"):
        return word[:-3] + "men"
    return _IRREGULAR.get(word, word + ("es" if word.endswith("ss") else "s"))


#: Written word -> shown word, and the singular of the latter; "person" stands for itself, so that
#: "a person and a man" is counted.
_NOUNS = {word: (noun, noun) for word, noun in _PEOPLE.items()} | {
    noun: (noun, noun) for noun in ("person", "child")
}
_MANY = {_plural_of(word): (_plural(noun), noun) for word, noun in _PEOPLE.items()} | {
    _plural(noun): (_plural(noun), noun) for noun in ("person", "child")
}
#: What takes "two of them".
_COUNTED = {
    "person", "child", "parent", "grandparent", "grandchild", "sibling", "relative", "spouse",
    "partner",
}  # fmt: skip
#: Of these "male" and "female" are said without a guess.
_ANIMALS = frozenset(
    "animal antelope ape bear bird bison buffalo bull calf camel cat cheetah chicken cow deer dog "
    "donkey duck elephant elk fish fox giraffe goat goose gorilla hen horse kangaroo kitten lamb "
    "leopard lion llama monkey moose ostrich panda peacock pheasant pig pony puppy rabbit ram "
    "seal sheep swan tiger turkey walrus wolf zebra".split()
)

_PRONOUNS = {
    "he": "they", "she": "they", "him": "them", "his": "their", "hers": "theirs",
    "himself": "themselves", "herself": "themselves",
}  # fmt: skip
_VERBS = {"is": "are", "was": "were", "has": "have", "does": "do", "isn't": "aren't",
          "wasn't": "weren't", "hasn't": "haven't", "doesn't": "don't"}  # fmt: skip
#: Words in s behind "he" that are no verbs.
_NO_VERBS = frozenset({"perhaps", "besides", "his", "its", "this"})
_ADVERBS = frozenset({"always", "sometimes", "also", "just", "still", "often", "never"})
#: Behind "her" they show that it was no "his".
_NO_NOUNS = frozenset(
    "a an the and or but while as in on at by for from with to of into onto over near through is "
    "are was were has".split()
)
#: So do these, which would be nouns or adjectives behind "his" ("his up").
_NO_NOUNS_BEHIND_HER = _NO_NOUNS | frozenset(
    "up away along again together too there here above across after against around before below "
    "beneath beside between during past toward towards under when who his her their this that "
    "these those some two three it them then".split()
)
#: And these, if no noun comes behind them in turn: "her down", and not "her down jacket".
_PERHAPS_NO_NOUNS = frozenset("down off out close high inside outside behind".split())
#: Before "her back" they show that it is not the back which is meant: "she lies on her back".
_GIVING = frozenset("bring call carry drag get give guide lead pull push send take throw".split())
#: What people in captions do: with these words "and" goes on about the same person.
_DOINGS = frozenset(
    "aim attempt balance bend bike blow bounce bow brush build buy carry catch chase check cheer "
    "chew clap clean climb close come cook cover crawl cross cry cut dance dig dive do drag draw "
    "drink drive drop eat embrace enjoy examine exercise face fall feed fight film fish fix flip "
    "float fly fold follow gaze gesture get give go grab grin hang have hit hold hop hug hurdle "
    "jog jump keep kick kiss kneel knit laugh lay lead lean leap let lick lie lift listen look "
    "make mow move open paddle paint pass perform pet pick play point pose pour practice prepare "
    "pretend pull punch push put raise reach read relax rest ride roll row run sail say scream "
    "see sell serve shake shoot shop shout show sing sit skate ski slide sleep smell smile smoke "
    "snowboard speak spin splash spray squat stand stare stay step stick stop stretch study surf "
    "swim swing take talk taste throw touch train travel try tumble turn twirl type use wade wait "
    "walk warm wash watch wave wear whisper work wrestle write yell".split()
)
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ONE = {"a": 1, "an": 1, "one": 1, "another": 1}
_COUNTS = _ONE | {word: i for i, word in enumerate(_NUMBERS) if i}
_PARTS = re.compile(r"(\W*)(.*?)((?:'s|s')?)(\W*)", re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A word as it is shown, and the place of the written word that it stands for."""

    text: str
    place: int


@dataclass
class _Word:
    """A word on its way: ``before`` and ``after`` are punctuation, ``noun`` the singular that was
    put for it, empty if none was."""

    before: str
    text: str
    after: str
    place: int
    noun: str = ""
    many: bool = False

    @property
    def lower(self) -> str:
        return self.text.lower()


def neutral(text: str, given: int = 0) -> str:
    """The text without guesses at gender. The first ``given`` words are a person's, and stay.

    >>> neutral("a man and a woman walk her dog while he smiles")
    'two people walk their dog while they smile'
    """
    return " ".join(word.text for word in neutral_words(text.split(), given))


def neutral_words(words: Sequence[str], given: int = 0) -> list[Shown]:
    """The same, word by word."""
    kept = [Shown(word, place) for place, word in enumerate(words[:given])]
    taken = [_taken(word, place) for place, word in enumerate(words)][given:]
    for i, word in enumerate(taken):
        _replace_pronoun(word, taken[i + 1 :], taken[i - 1].lower if i else "")
    taken = _without_sexes(taken)
    for i, word in enumerate(taken):
        if _replace_noun(word) and i:
            _fit_article(taken[i - 1], word)
    added = _added(taken)
    return kept + [Shown(word.before + word.text + word.after, word.place) for word in added]


def _taken(word: str, place: int) -> _Word:
    """ "man's," is "man" with "'s," behind it."""
    found = _PARTS.fullmatch(word)
    assert found
    before, core, owner, after = found.groups()
    if owner == "s'":  # "boys'": the s is the plural's
        core, owner = core + "s", "'"
    return _Word(before, core, owner + after, place)


def _without_sexes(words: list[_Word]) -> list[_Word]:
    """A person in place of "a male", and no "male" before what a person is: "a male singer". Where
    an animal is said to be one, all stay."""
    sexes = [i for i, word in enumerate(words) if word.lower in ("male", "female")]
    if any(_of_animal(words[i + 1 :]) for i in sexes):
        return words
    left = list(words)
    kept: list[_Word] = []
    while left:
        word = left.pop(0)
        if word.lower in ("males", "females"):
            word.text = _cased("people", word.text)
        elif word.lower in ("male", "female"):
            follows = left[0] if left and not word.after and not left[0].before else None
            if follows is None or _is_no_noun(follows):
                word.text = _cased("person", word.text)
            else:
                follows.text = _cased(follows.text, word.text)
                follows.before = word.before
                if kept:
                    _fit_article(kept[-1], follows)
                continue
        kept.append(word)
    return kept


def _of_animal(behind: Sequence[_Word]) -> bool:
    """Whether "male" before these words is said of an animal: "a male [golden lion] in the sun"."""
    named = itertools.takewhile(lambda word: word.lower not in _NO_NOUNS, behind[:3])
    return any({word.lower, word.lower.removesuffix("s")} & _ANIMALS for word in named)


def _is_no_noun(word: _Word) -> bool:
    """Whether "male" before this word is a noun: "a male [in a hat]", "a male [jumps]"."""
    return (
        word.lower in _NO_NOUNS_BEHIND_HER
        or word.lower.endswith(("ing", "ed"))
        or _is_doing(word.lower)
    )


def _is_doing(word: str) -> bool:
    """Whether this is what "he" does: "jumps"."""
    return word in _VERBS or (word.endswith("s") and _for_they(word) in _DOINGS)


def _fit_article(article: _Word, word: _Word) -> None:
    """ "a" or "an", before a word that was put for another."""
    if article.lower in ("a", "an") and not article.after and not word.before:
        vowel = re.match("[aeio]|u(?!ni|s)", word.lower)
        article.text = _cased("an" if vowel else "a", article.text)


def _replace_noun(word: _Word) -> bool:
    """Whether it was one of those that are replaced."""
    one, many = _NOUNS.get(word.lower), _MANY.get(word.lower)
    if not one and not many:
        return False
    shown, word.noun = one or many or ("", "")
    word.many = many is not None
    if word.after.startswith("'") and not word.after.startswith("'s") and not shown.endswith("s"):
        word.after = "'s" + word.after[1:]  # "boys'" -> "children's"
    word.text = _cased(shown, word.text)
    return True


def _replace_pronoun(word: _Word, behind: Sequence[_Word], previous: str) -> None:
    follows = behind[0] if behind and not word.after.strip("'s") else None
    if word.lower == "her":
        is_owner = follows is not None and _is_owned(behind, previous)
        word.text = _cased("their" if is_owner else "them", word.text)
    elif word.lower == "his" and (follows is None or follows.lower in _NO_NOUNS):
        word.text = _cased("theirs", word.text)
    elif word.lower in _PRONOUNS:
        is_subject = word.lower in ("he", "she")
        word.text = _cased(_PRONOUNS[word.lower], word.text)
        if is_subject and word.after.startswith("'s"):  # "he's running"
            word.after = "'re" + word.after[2:]
        elif is_subject:
            for verb in _verbs(behind):
                verb.text = _cased(_for_they(verb.lower), verb.text)


def _is_owned(behind: Sequence[_Word], previous: str) -> bool:
    """Whether these words begin with what is "hers": "her [red hat]", and not "her [up]"."""
    first, *rest = behind
    if first.before or first.lower in _NO_NOUNS_BEHIND_HER:
        return False
    if first.lower == "back":
        return _for_they(previous) not in _GIVING
    if first.lower in _PERHAPS_NO_NOUNS:
        return bool(rest) and not first.after and rest[0].lower not in _NO_NOUNS_BEHIND_HER
    return True


def _verbs(behind: Sequence[_Word]) -> list[_Word]:
    """What the person does: "he slowly [turns] and [smiles] at dogs"."""
    left = _from_verb(behind)
    found = left[:1]
    while len(left) > 2 and left[1].lower == "and" and not left[0].after:
        left = _from_verb(left[2:])
        if not left or not _is_doing(left[0].lower):  # "he sits and dogs run"
            break
        found.append(left[0])
    return found


def _from_verb(words: Sequence[_Word]) -> list[_Word]:
    """What is left of the words without adverbs at the beginning."""
    left = list(words)
    while left and (left[0].lower in _ADVERBS or left[0].lower.endswith("ly")):
        left.pop(0)
    return left


def _for_they(verb: str) -> str:
    """The form that goes with "they" of one that goes with "he"; other words as they are."""
    if verb in _VERBS:
        return _VERBS[verb]
    if verb in _NO_VERBS or not verb.endswith("s") or verb.endswith("ss") or len(verb) < 4:
        return verb
    if verb.endswith("ies") and len(verb) > 4:
        return verb[:-3] + "y"
    if verb.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")):
        return verb[:-2]
    return verb[:-1]


def _added(words: Sequence[_Word]) -> list[_Word]:
    """People of one kind that are counted side by side, put together."""
    left, done = list(words), []
    while left:
        if together := _together(left):
            left = together  # and perhaps with the next ones
        else:
            done.append(left.pop(0))
    return done


@dataclass(frozen=True)
class _Group:
    """People at the beginning of some words: "two people", "the person", "people".

    ``count`` is 0 if they are not counted. ``length`` is in words.
    """

    before: str
    count: int
    has_article: bool
    noun: _Word
    length: int


def _group(words: Sequence[_Word]) -> _Group | None:
    if words and words[0].noun in _COUNTED:
        return _Group(words[0].before, 0, False, words[0], 1)
    if len(words) < 2 or words[1].noun not in _COUNTED or words[0].after or words[1].before:
        return None
    first = words[0]
    count = _COUNTS.get(first.lower, 0)
    if count and (count > 1) == words[1].many or first.lower == "the":
        return _Group(first.before, count, first.lower == "the", words[1], 2)
    return None


def _together(words: Sequence[_Word]) -> list[_Word] | None:
    """The words, with the two groups at their beginning made one; None if there are no two."""
    first = _group(words)
    if first is None:
        return None
    behind = list(words[first.length :])
    if behind and behind[0].text == "and" and not first.noun.after:
        behind.pop(0)
    elif first.noun.after != ",":
        return None
    second = _group(behind)
    if second is None or second.before or second.noun.noun != first.noun.noun:
        return None
    sum_up = _sum(first, second)
    if sum_up is None:
        return None
    place, noun = first.noun.place, first.noun.noun
    shown = [_Word("", text, "", place) for text in sum_up]
    shown.append(_Word("", _plural(noun), second.noun.after, place, noun, many=True))
    shown[0].before = first.before
    return shown + behind[second.length :]


def _sum(first: _Group, second: _Group) -> list[str] | None:
    """What stands before the people of both: "two", "the two", or nothing."""
    if first.noun.many and second.noun.many and not first.count and not second.count:
        return ["the"] if first.has_article else []  # "men and women"
    if not first.noun.many and not second.noun.many and first.has_article and not second.count:
        return ["the", "two"]  # "the man and (the) woman"
    if second.has_article or not first.count:
        return None
    # Of "a man and woman" the second has no word of its own.
    count = second.count or (1 if not second.noun.many and first.count == 1 else 0)
    total = first.count + count
    return [_NUMBERS[total]] if count and total < len(_NUMBERS) else None


def _cased(shown: str, written: str) -> str:
    """In the case of the word that it replaces."""
    if written.isupper() and len(written) > 1:
        return shown.upper()
    return shown[:1].upper() + shown[1:] if written[:1].isupper() else shown
