"""The five metrics of the E2E challenge as its official scorer (tuetschek/e2e-metrics) computes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

from tasks.metrics import Card, Scores, Unavailable, java, need, paired
from tasks.metrics.nist import nist


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """bleu, meteor and rouge_l in points (0 to 100), nist and cider as they are, of a whole set: Table 3's columns.

    BLEU and NIST are mteval-v13a's (its Perl), METEOR 1.5, ROUGE-L and CIDEr coco-caption's, on Stanford's tokens.
    CIDEr weighs words by the references of this very set: scores of subsets do not compare. Without Java or
    pycocoevalcap the last three are missing. Raises Refused on differing lengths, no outputs, no references.
    """
    outputs, several = paired(hypotheses, references)
    card = Card()
    card.add("bleu", lambda: bleu(outputs, several))
    card.add("nist", lambda: nist(outputs, several))
    try:
        words, known = card.timed("tokens (Java)", lambda: tokenized(outputs, several))
    except Unavailable as reason:
        card.missing |= dict.fromkeys(("meteor", "rouge_l", "cider"), str(reason))
        return card.scores()
    card.add("meteor", lambda: meteor(words, known), 100)
    card.add("rouge_l", lambda: _coco("rouge.rouge", "Rouge", words, known), 100)
    card.add("cider", lambda: _coco("cider.cider", "Cider", words, known))
    return card.scores()


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU in points, mteval-v13a's: not cased, closest reference length, its smoothing (1/2, 1/4, ... of a match for
    an order without any), which sets of some size never need. Raises Unavailable without sacrebleu."""
    made = need("sacrebleu.metrics").BLEU(lowercase=True, tokenize="13a", smooth_method="exp", force=True)
    return made.corpus_score(list(hypotheses), list(zip_longest(*references))).score


def tokenized(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Both in Stanford's tokens, from one JVM. Raises Unavailable."""
    lines = iter(java.tokens([*hypotheses, *chain(*references)]))
    return [next(lines) for _ in hypotheses], [[next(lines) for _ in group] for group in references]


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 (0 to 1) of tokenised text, in a JVM of its own. Raises Unavailable."""
    with java.Meteor() as jvm:
        return jvm.score(hypotheses, references)[0]


def _coco(module: str, name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    scorer = getattr(need(f"pycocoevalcap.{module}"), name)()
    made = {place: [text] for place, text in enumerate(hypotheses)}
    return scorer.compute_score(dict(enumerate(references)), made)[0]
