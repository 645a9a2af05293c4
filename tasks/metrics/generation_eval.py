"""BLEU, METEOR and TER of WebNLG and DART as microsoft/LoRA ran WebNLG/GenerationEval on its outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from statistics import fmean

from engine.contract import Numbers
from tasks.metrics import Card, Scores, Unavailable, java, need, paired

MOST = 6  # references an input is judged by; microsoft/LoRA's --ref_num for both data sets
Words = list[str]


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]], parts: Sequence[str | None] = ()) -> Scores:
    """bleu in points (0 to 100), meteor and ter as fractions (a lower TER is better): as in Tables 13 and 14.

    Both sides are first put in lower case with blanks around every sign, as microsoft/LoRA does before it scores, and
    the first six references count. BLEU is multi-bleu-detok's (cased, unsmoothed), METEOR 1.5 with -norm, and TER is
    pyter3's, by sentence against the nearest reference, then the mean; tercom and sacrebleu's TER give other numbers.

    Two things differ from GenerationEval. nltk's sentence splitter needs data from the network, so a line is cut into
    words as one sentence: with blanks around every full stop that is the same (on all 32,022 texts of WebNLG, DART's
    and E2E's validation). And if the files end with a line end, the script there takes what follows it for one more
    sentence with TER 1, which adds (1 - TER) / (sentences + 1), and its METEOR fails.

    parts: of each output, the part of the data set that is judged by itself too (bleu_seen, …), if any.

    What needs a package or Java that is not there is missing, with the reason. Raises Refused on differing lengths, no
    outputs, no references.
    """
    outputs, several = paired(hypotheses, references)
    outputs = [plain(text) for text in outputs]
    several = [list(dict.fromkeys(map(plain, group[:MOST]))) for group in several]  # a copy changes no maximum
    sets = {"": list(range(len(outputs)))}
    for place, part in enumerate(parts):
        if part is not None:
            sets.setdefault(f"_{part}", []).append(place)
    card = Card()
    for ending, places in sets.items():
        card.add(f"bleu{ending}", partial(bleu, [outputs[i] for i in places], [several[i] for i in places]))
    try:
        words, known = card.timed("tokens", lambda: (tokenized(outputs), list(map(tokenized, several))))
    except Unavailable as reason:
        card.missing |= {f"{name}{ending}": str(reason) for name in ("meteor", "ter") for ending in sets}
        return card.scores()
    try:
        card.numbers |= card.timed("meteor", lambda: meteor(words, known, sets))
    except Unavailable as reason:
        card.missing |= {f"meteor{ending}": str(reason) for ending in sets}
    rates = card.timed("ter", lambda: list(map(ter, words, known)))
    card.numbers |= {f"ter{ending}": fmean(rates[i] for i in places) for ending, places in sets.items()}
    return card.scores()


def plain(text: str) -> str:
    """Lower case with one blank around every character that is no letter, digit or underscore."""
    return " ".join(" ".join(re.split(r"(\W)", text.lower())).split())


def tokenized(lines: Sequence[str]) -> list[Words]:
    """nltk's word tokens of each line, taken as one sentence. Raises Unavailable without nltk."""
    tokenize = need("nltk.tokenize").word_tokenize
    return [tokenize(line, preserve_line=True) for line in lines]


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU in points as multi-bleu-detok counts it. Raises Unavailable without sacrebleu."""
    made = need("sacrebleu.metrics").BLEU(tokenize="13a", smooth_method="none", force=True)
    return made.corpus_score(list(hypotheses), list(zip_longest(*references))).score


def meteor(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]],
           sets: Mapping[str, Sequence[int]]) -> Numbers:
    """METEOR 1.5 (0 to 1) of each set of places, as meteor and the set's ending, in one JVM. Raises Unavailable."""
    with java.Meteor() as jvm:
        counts = jvm.statistics(list(map(" ".join, hypotheses)), [list(map(" ".join, group)) for group in references])
        return {f"meteor{ending}": jvm.total([counts[i] for i in places])[0] for ending, places in sets.items()}


def ter(output: Words, references: Sequence[Words]) -> float:
    """The lowest translation edit rate of an output: edits and moves per word of the reference, exactly pyter3's
    numbers (of all moves of a run of words to where the reference has it, always the one that saves most).

    Moves change neither how many words there are nor which, so no order of the words does better than the floor:
    references that cannot win are not tried, and the search for moves ends at the floor.
    """
    mine = Counter(output)
    best = float("inf")
    for floor, place in sorted((_floor(mine, words) / max(len(words), 1), place)
                               for place, words in enumerate(references)):
        if floor >= best:
            break
        best = min(best, _rate(output, references[place]))
    return best


def _floor(output: Counter[str], reference: Words) -> int:
    """The edits that remain if the words may stand in any order."""
    return max(output.total(), len(reference)) - (output & Counter(reference)).total()


def _rate(words: Words, reference: Words) -> float:
    if not reference:
        return 1.0
    floor, moves = _floor(Counter(words), reference), 0
    distance = _Distance(reference)
    while True:
        rows = list(distance.rows(words))
        edits = rows[-1][0]
        if edits == floor:
            break
        gain, moved = max(((edits - distance.after(rows[kept], shifted[kept:]), shifted)
                           for kept, shifted in _moves(words, reference)), default=(0, words))
        if gain <= 0:
            break
        words, moves = moved, moves + 1
    return (moves + edits) / len(reference)


def _moves(words: Words, reference: Words) -> Iterator[tuple[int, Words]]:
    """Every run of words moved to where the reference has it, and how many words in front of it stay as they are."""
    for start, word in enumerate(words):
        for place, other in enumerate(reference):
            if word != other or start == place:
                continue
            end = start + 1
            while (end < len(words) and place + end - start < len(reference)
                   and words[end] == reference[place + end - start]):
                end += 1
            rest = words[:start] + words[end:]
            yield min(start, place), rest[:place] + words[start:end] + rest[place:]


Row = tuple[int, int, int]  # edits so far; the bits where the next cell of the column is one more, and one less


class _Distance:
    """Levenshtein distances to one reference, a column of the table in the bits of two integers (Myers 1999)."""

    def __init__(self, reference: Words) -> None:
        self.size = len(reference)
        self.places: dict[str, int] = {}
        for place, word in enumerate(reference):
            self.places[word] = self.places.get(word, 0) | 1 << place

    def rows(self, words: Words) -> Iterator[Row]:
        """The column before the first word and after every one."""
        row = (self.size, (1 << self.size) - 1, 0)
        yield row
        for word in words:
            row = self._next(row, word)
            yield row

    def after(self, row: Row, words: Words) -> int:
        """The distance of a text, from the column after its beginning and the words that follow."""
        for word in words:
            row = self._next(row, word)
        return row[0]

    def _next(self, row: Row, word: str) -> Row:
        edits, more, less = row
        mask, same = (1 << self.size) - 1, self.places.get(word, 0)
        level = (((same & more) + more) ^ more) | same
        up = less | (mask & ~(level | more))
        down = more & level
        edits += (up >> self.size - 1 & 1) - (down >> self.size - 1 & 1)
        up = up << 1 | 1
        return edits, (down << 1 | ~(same | less | up)) & mask, up & (same | less) & mask
