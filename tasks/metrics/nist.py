"""NIST, as mteval-v13a.pl counts it: matched n-grams weighted by how much the references say they inform.

Doddington (2002); no library gives the official number (nltk's corpus_nist is another formula, 6.22 for 7.82). The
tokens are mteval's, by sacrebleu.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from tasks.metrics import need

ORDERS = range(1, 6)
BETA = math.log(2) / math.log(1.5) ** 2  # an output of two thirds of the references' length is worth half
Words = list[str]
Gram = tuple[str, ...]


def nist(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """NIST of a whole set with mteval's length penalty: the mean length of *all* references. This is the published one.

    Raises Unavailable without sacrebleu. No output matches: 0.
    """
    outputs, several = _tokenized(hypotheses, references)
    length = sum(len(words) for group in several for words in group) * len(several) / sum(map(len, several))
    return _information(outputs, several) * _penalty(outputs, length)


def nist_python(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The same with the length penalty of the official scorer's option -p: the sum of each input's mean length."""
    outputs, several = _tokenized(hypotheses, references)
    length = math.fsum(sum(map(len, group)) / len(group) for group in several)
    return _information(outputs, several) * _penalty(outputs, length)


def _tokenized(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[Words], list[list[Words]]]:
    tokenize = need("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    return ([tokenize(text.lower()).split() for text in hypotheses],
            [[tokenize(text.lower()).split() for text in group] for group in references])


def _information(outputs: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    total = 0.0
    shorter: Counter[Gram] = Counter({(): sum(len(words) for group in references for words in group)})
    for order in ORDERS:
        known, matched, made = _matches(outputs, references, order)
        # fsum: the same number in whatever order the inputs come
        informed = math.fsum(times * math.log2(shorter[gram[:-1]] / known[gram]) for gram, times in matched.items())
        total += informed / max(made, 1)
        shorter = known
    return total


def _matches(outputs: Sequence[Words], references: Sequence[Sequence[Words]],
             order: int) -> tuple[Counter[Gram], Counter[Gram], int]:
    """Counts of the n-grams of all references, of those matched (at most as often as in one reference), and how many
    the outputs have."""
    known: Counter[Gram] = Counter()
    matched: Counter[Gram] = Counter()
    made = 0
    for output, group in zip(outputs, references, strict=True):
        grams = [list(_grams(words, order)) for words in group]
        there = list(chain.from_iterable(grams))
        known.update(there)
        once = set(there)
        for gram, times in Counter(_grams(output, order)).items():
            if gram in once:  # to count in each reference is slow and needed only for what the output repeats
                matched[gram] += times if times == 1 else min(times, max(several.count(gram) for several in grams))
        made += max(len(output) - order + 1, 0)
    return known, matched, made


def _grams(words: Words, order: int) -> Iterable[Gram]:
    return zip(*(words[start:] for start in range(order)), strict=False)


def _penalty(outputs: Sequence[Words], length: float) -> float:
    ratio = sum(map(len, outputs)) / length if length else 0.0
    return 0.0 if ratio == 0 else math.exp(-BETA * math.log(min(ratio, 1)) ** 2)
