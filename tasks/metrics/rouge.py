"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries, by the rouge_score package."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from engine.contract import Numbers
from tasks.metrics import Card, Scores, Unavailable, need, paired

NAMES = ("rouge1", "rouge2", "rougeL")


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """rouge1, rouge2 and rougeL in points (0 to 100): the mean F1, with Porter's stemmer.

    Of several references the best counts, each metric choosing its own. The paper (SAMSum, Table 4) does not say which
    ROUGE it used; rouge_score with the stemmer is what most later work on SAMSum reports. Newlines count as blanks, so
    rougeL is that of the whole text. Raises Refused on differing lengths, no outputs, no references.
    """
    outputs, several = paired(hypotheses, references)
    card = Card()
    try:
        best = card.timed("rouge", lambda: _best(outputs, several))
    except Unavailable as reason:
        card.missing |= dict.fromkeys(NAMES, str(reason))
        return card.scores()
    card.numbers |= {name: 100 * fmean(numbers[name] for numbers in best) for name in NAMES}
    return card.scores()


def _best(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Numbers]:
    scorer = need("rouge_score.rouge_scorer").RougeScorer(list(NAMES), use_stemmer=True)
    numbers = []
    for output, group in zip(outputs, references, strict=True):
        every = [scorer.score(reference, output) for reference in group]
        numbers.append({name: max(one[name].fmeasure for one in every) for name in NAMES})
    return numbers
