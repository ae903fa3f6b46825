"""What one example, or a set of answers, scores: overlap with the references, repetition, and the unigram baseline."""

import math
from collections import Counter

import evaluate
import sacrebleu
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer

ROUGE_TYPES = ["rouge1", "rouge2", "rougeL"]
TEXTS = Features({"predictions": Value("string"), "references": Value("string")})


class Rouge(evaluate.Metric):
    """ROUGE F1 (Lin 2004) by its reference implementation, `rouge_score`, with stemming: a list with one value an example.

    `evaluate.load("rouge", ...).compute(use_aggregator=False)` is the same, but downloads its script from a hub at run time.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F1 between predictions and references, example by example.",
            citation="Lin, C.-Y. (2004). ROUGE: A Package for Automatic Evaluation of Summaries.",
            inputs_description="predictions, references: one text each per example",
            features=TEXTS,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, list[float]]:
        scorer = RougeScorer(ROUGE_TYPES, use_stemmer=True)
        scores = [scorer.score(reference, text) for reference, text in zip(references, predictions, strict=True)]
        return {kind: [score[kind].fmeasure for score in scores] for kind in ROUGE_TYPES}


class SacreBleu(evaluate.Metric):
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015), both 0..100, by `sacrebleu` (Post 2018).

    `length_ratio` is the answers' length over the references', in BLEU's tokens.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU and chrF between predictions and references.",
            citation="Post, M. (2018). A Call for Clarity in Reporting BLEU Scores.",
            inputs_description="predictions, references: one text each per example",
            features=TEXTS,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        bleu = sacrebleu.corpus_bleu(predictions, [references])
        chrf = sacrebleu.corpus_chrf(predictions, [references])
        return {"bleu": bleu.score, "chrf": chrf.score, "length_ratio": bleu.sys_len / bleu.ref_len}


def sentence_chrf(prediction: str, reference: str) -> float:
    """Score one answer by chrF, 0..100."""
    return sacrebleu.sentence_chrf(prediction, [reference]).score


def score_answers(texts: list[str], references: list[str]) -> list[dict]:
    """For each answer, what can be said of it by its text and its reference alone, under the keys of examples.jsonl."""
    rouge = Rouge(keep_in_memory=True).compute(predictions=texts, references=references)
    return [
        {kind: values[index] for kind, values in rouge.items()}
        | {"chrf": sentence_chrf(text, expected), "exact_match": text == expected}
        | {"repetition_rate": repetition_rate(text)}
        for index, (text, expected) in enumerate(zip(texts, references, strict=True))
    ]


def repetition_rate(text: str, n: int = 4) -> float:
    """Share of a text's word n-grams that stood in it before (seq-rep-n of Welleck et al. 2020, arXiv 1908.04319)."""
    words = text.split()
    ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def unigram_baseline(train_ids: list[int], test_ids: list[int], vocab_size: int) -> dict[str, float]:
    """What knowing only how often each token occurs in the training responses (add-one smoothed) scores on the test's.

    Returns {"loss": nats a token, "perplexity", "token_accuracy": of always saying the most frequent token}.
    """
    counts = Counter(train_ids)
    total = len(train_ids) + vocab_size
    loss = -sum(math.log((counts[token] + 1) / total) for token in test_ids) / len(test_ids)
    most_frequent = min(counts, key=lambda token: (-counts[token], token))
    accuracy = test_ids.count(most_frequent) / len(test_ids)
    return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": accuracy}
