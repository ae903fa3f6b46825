"""What texts of other scripts are counted in, and that equal texts score as equal in all of them."""

import pytest

from lorabundle.evaluation.answer_scores import SacreBleu, score_answers
from lorabundle.evaluation.text_units import TextUnits, text_units

TEXTS = {
    "en": "The small house is near the river, and its door is red.",
    "de": "Das größte Haus steht nördlich der Brücke über den Fluß.",
    "fr": "La maison où il est né se trouve près de l'église du château.",
    "el": "Ένα μικρό σπίτι δίπλα στο ποτάμι, με κόκκινη πόρτα.",
    "ru": "Маленький дом стоит у самой реки, и дверь у него красная.",
    "ar": "البيت الصغير قرب النهر وبابه أحمر اللون.",
    "hi": "छोटा घर नदी के पास है और उसका दरवाज़ा लाल है।",
    "ko": "작은 집은 강가에 있고 그 문은 빨간색입니다.",
    "zh": "小房子在河边，它的门是红色的。",
    "ja": "小さな家は川のそばにあり、そのドアは赤いです。",
    "th": "บ้านหลังเล็กอยู่ริมแม่น้ำและประตูของมันเป็นสีแดง",
    "km": "ផ្ទះតូចនៅជិតទន្លេ ហើយទ្វាររបស់វាមានពណ៌ក្រហម",
}
BLEU = {"en": "13a", "zh": "zh", "ja": "char", "th": "char", "km": "char"}


@pytest.mark.parametrize("language", TEXTS)
def test_the_tokenizers_of_a_language(language):
    assert text_units([TEXTS[language]]) == TextUnits(language == "en", BLEU.get(language, "intl"))


@pytest.mark.parametrize("language", TEXTS)
def test_equal_texts_score_as_equal_and_others_do_not(language):
    text = TEXTS[language]
    (scores,) = score_answers([text], [text])
    assert [scores[key] for key in ("rouge1", "rouge2", "rougeL", "chrf")] == pytest.approx([1, 1, 1, 100])
    assert scores["repetition_rate"] == 0
    corpus = SacreBleu(keep_in_memory=True).compute(predictions=[text], references=[text])
    assert (corpus["bleu"], corpus["length_ratio"]) == (pytest.approx(100), 1)
    (other,) = score_answers(["7 7 7 7"], [f"{text} 7"])
    assert other["rougeL"] < 0.35  # only the digit is in common


def test_units_by_hand():
    units = text_units(["中文"])
    assert units.tokenize("中文 GPT-4，很好") == ["中", "文", "gpt", "4", "很", "好"]
    assert units.tokenize("น้ำ") == ["น้", "ำ"]  # a character keeps the marks that belong to it
    assert units.tokenize("नदी के") == ["नदी", "के"]
    assert units.tokenize("Größe, Straße") == ["grösse", "strasse"]


def test_a_few_foreign_letters_leave_english_english():
    assert text_units(["It is the angle α. " + "The function returns the angle in radians. " * 10]).is_english
    assert text_units([""]).is_english


def test_repetition_counts_characters_where_there_are_no_words():
    (scores,) = score_answers(["很好很好很好"], ["很好"])
    # four-character sequences: 很好很好, 好很好很, 很好很好: one of three is a repetition
    assert scores["repetition_rate"] == pytest.approx(1 / 3)
