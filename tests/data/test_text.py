"""Texts that lose their end when they are packed."""

import numpy as np

from jaxvl.data.text import WordTokenizer, cut_note, is_cut, pack

WORDS = WordTokenizer(("red", "green", "blue"), 16)


def test_a_text_is_cut_where_packing_it_loses_ids():
    for text in ("", "red", "red green", "red green blue", "red green blue red"):
        for length in range(2, 8):
            kept = np.count_nonzero(pack(WORDS, text, length)) - 2
            assert is_cut(WORDS, text, length) == (kept < len(WORDS.ids(text)))


def test_cut_texts_are_counted_by_part_in_one_line():
    texts = {"train": ["red", "red green", "red green blue"], "val": ["red"], "test": ["red green blue"] * 1200}
    found = cut_note(WORDS, texts, 4, "captions")
    assert found == "captions: 1,201 of 1,204 are longer than 4 tokens and are cut (train 1, test 1,200)"
    assert cut_note(WORDS, {"": ["red green"]}, 3, "texts") == "texts: 1 of 1 are longer than 3 tokens and are cut"
    assert cut_note(WORDS, texts, 5, "captions") is None
    assert cut_note(WORDS, {}, 5, "captions") is None
