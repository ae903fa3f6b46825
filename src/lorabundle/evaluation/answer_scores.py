"""Scores of generated answers: overlap with their references, exact match, and repetition."""

import evaluate
import sacrebleu
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer

from lorabundle.evaluation.text_units import TextUnits, text_units

ROUGE_TYPES = ["rouge1", "rouge2", "rougeL"]
TEXTS = Features({"predictions": Value("string"), "references": Value("string")})


class Rouge(evaluate.Metric):
    """ROUGE F1 (Lin 2004) by its reference implementation, `rouge_score`: one value for each example.

    English is stemmed; other texts are cut by `text_units`, which are those of all references given.
    `evaluate.load("rouge", ...).compute(use_aggregator=False)` gives the same, but downloads its script from a hub.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F1 between predictions and references, example by example.",
            citation="Lin, C.-Y. (2004). ROUGE: A Package for Automatic Evaluation of Summaries.",
            inputs_description="predictions, references: one text each per example",
            features=TEXTS,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, list[float]]:
        units = text_units(references)
        scorer = RougeScorer(ROUGE_TYPES, use_stemmer=units.is_english, tokenizer=None if units.is_english else units)
        scores = [scorer.score(reference, text) for reference, text in zip(references, predictions, strict=True)]
        return {kind: [score[kind].fmeasure for score in scores] for kind in ROUGE_TYPES}


class SacreBleu(evaluate.Metric):
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015), both 0..100, by `sacrebleu` (Post 2018).

    `length_ratio` is the length of all answers divided by that of all references, in BLEU's tokens.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU and chrF between predictions and references.",
            citation="Post, M. (2018). A Call for Clarity in Reporting BLEU Scores.",
            inputs_description="predictions, references: one text each per example",
            features=TEXTS,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        bleu = sacrebleu.corpus_bleu(predictions, [references], tokenize=text_units(references).bleu_tokenizer)
        chrf = sacrebleu.corpus_chrf(predictions, [references])
        return {"bleu": bleu.score, "chrf": chrf.score, "length_ratio": bleu.sys_len / bleu.ref_len}


def sentence_chrf(prediction: str, reference: str) -> float:
    """The chrF of one answer, 0..100."""
    return sacrebleu.sentence_chrf(prediction, [reference]).score


def score_answers(texts: list[str], references: list[str]) -> list[dict]:
    """The scores of each answer that depend only on its text and its reference, under the keys of examples.jsonl."""
    units = text_units(references)
    rouge = Rouge(keep_in_memory=True).compute(predictions=texts, references=references)
    return [
        {kind: values[index] for kind, values in rouge.items()}
        | {"chrf": sentence_chrf(text, expected), "exact_match": text == expected}
        | {"repetition_rate": repetition_rate(text, units)}
        for index, (text, expected) in enumerate(zip(texts, references, strict=True))
    ]


def repetition_rate(text: str, units: TextUnits, n: int = 4) -> float:
    """Share of a text's n-grams of words that occurred in it before (seq-rep-n of Welleck et al. 2020, arXiv 1908.04319)."""
    words = units.words(text)
    ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
