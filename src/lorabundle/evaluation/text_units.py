"""What texts are counted in: words where a script puts spaces between them, characters where it does not.

The reference implementations of ROUGE and BLEU are made for English. `rouge_score` keeps a to z and 0 to 9 only, so that two equal
Chinese texts have nothing in common. The references of the test split decide which tokenizers are used, so that both models are
measured alike, and `verify` can decide the same again.
"""

from dataclasses import dataclass

import regex

# Scripts without spaces between words. A character is a unit with the marks that belong to it (Thai vowels and tones).
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
UNIT = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]+", regex.VERSION1)
LETTER = regex.compile(r"\p{L}")
ENGLISH_LETTER = regex.compile(r"[A-Za-z]")
IN = {
    "unspaced": regex.compile(rf"[{UNSPACED}]"),
    "chinese": regex.compile(r"\p{Han}"),
    "kana": regex.compile(r"[\p{Hiragana}\p{Katakana}]"),
}
# Largest share of other letters in texts that count as English. The default data has 0.005 % in its training answers and none in its test
# answers; a paragraph of German has 4.6 %, one of French 2.6 %.
NOT_ENGLISH = 0.005


@dataclass(frozen=True)
class TextUnits:
    """How the texts of one dataset are cut into units.

    Attributes:
        is_english: whether ROUGE uses its own tokenizer and stemmer, and repetition counts what is between spaces.
        bleu_tokenizer: name of sacrebleu's tokenizer.
    """

    is_english: bool
    bleu_tokenizer: str

    def tokenize(self, text: str) -> list[str]:
        """The units of a text, case folded. The name is what `rouge_score` asks of a tokenizer."""
        return UNIT.findall(text.casefold())

    def words(self, text: str) -> list[str]:
        """The units in which repetition is counted."""
        return text.split() if self.is_english else self.tokenize(text)

    def described(self) -> str:
        """For the report, as a sentence."""
        if self.is_english:
            return "ROUGE counts English words (a to z and digits, stemmed); BLEU uses sacrebleu's tokenizer 13a."
        return (
            "ROUGE and repetition count words, or characters where the script puts no spaces between words; BLEU uses sacrebleu's "
            f"tokenizer {self.bleu_tokenizer}."
        )


def text_units(references: list[str]) -> TextUnits:
    """The units for answers to be compared with these references."""
    text = "\n".join(references)
    num_letters = len(LETTER.findall(text))
    count = {name: len(pattern.findall(text)) for name, pattern in IN.items()}
    if num_letters - len(ENGLISH_LETTER.findall(text)) <= NOT_ENGLISH * num_letters:
        return TextUnits(is_english=True, bleu_tokenizer="13a")
    if count["unspaced"] * 2 <= num_letters:
        return TextUnits(is_english=False, bleu_tokenizer="intl")
    # sacrebleu's own Japanese tokenizer needs a dictionary that is not among the locked packages
    is_chinese = count["chinese"] * 2 > count["unspaced"] and count["kana"] * 20 < count["unspaced"]
    return TextUnits(is_english=False, bleu_tokenizer="zh" if is_chinese else "char")
