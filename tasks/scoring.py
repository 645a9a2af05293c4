"""How each task with texts is judged, as conf/task names it: each takes the texts and the inputs they answer."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.generation import Input
from tasks.metrics import Scores, generation_eval, logical_form, rouge
from tasks.metrics import e2e as e2e_metrics


def e2e(texts: Sequence[str], inputs: Sequence[Input]) -> Scores:
    """BLEU, NIST, METEOR, ROUGE-L, CIDEr as the official E2E scorer has them (Table 3)."""
    return e2e_metrics.score(texts, [each.references for each in inputs])


def dart(texts: Sequence[str], inputs: Sequence[Input]) -> Scores:
    """BLEU, METEOR, TER as GenerationEval has them (Table 13)."""
    return generation_eval.score(texts, [each.references for each in inputs])


def webnlg(texts: Sequence[str], inputs: Sequence[Input]) -> Scores:
    """The same over all inputs, and over the categories seen in training and the unseen ones apart (Table 14): bleu,
    bleu_seen, bleu_unseen, …"""
    return generation_eval.score(texts, [each.references for each in inputs], [each.part for each in inputs])


def samsum(texts: Sequence[str], inputs: Sequence[Input]) -> Scores:
    """ROUGE-1, ROUGE-2, ROUGE-L (Table 4)."""
    return rouge.score(texts, [each.references for each in inputs])


def wikisql(texts: Sequence[str], inputs: Sequence[Input]) -> Scores:
    """Logical-form accuracy (Table 4) over all rows; a question that stands twice was decoded once."""
    pairs = [(text, row) for text, each in zip(texts, inputs, strict=True) for row in each.rows]
    return logical_form.score([text for text, _ in pairs], [row["table"]["header"] for _, row in pairs],
                              [row["sql"] for _, row in pairs])


def answers(texts: Sequence[str], inputs: Sequence[Input]) -> Scores:
    """Accuracy: the text is the word for the label, and nothing else."""
    right = sum(text.strip() in each.references for text, each in zip(texts, inputs, strict=True))
    return Scores({"accuracy": 100 * right / len(texts)}, {})
