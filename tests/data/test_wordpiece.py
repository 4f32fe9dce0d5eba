from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxvl.core.errors import InputError
from jaxvl.data import wordpiece
from jaxvl.data.text import pack
from tests.data import google_wordpiece

LETTERS = "abcdefghijklmnopqrstuvwxyzßœøıσςабδοъ一日本あ𠀀🙂0123456789.,!?'[]()-_$+~^«»、。£€×½²"
PIECES = [
    *wordpiece.SPECIAL,
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    "who",
    "sep",
    "##ing",
    "play",
    "man",
    "the",
    "\u2028",
]
ODD = [
    "Playing with the MAN",
    "caf\u00e9 e\u0301 \u00c5ngstr\u00f6m na\u00efve",
    "\u039f\u0394\u039f\u03a3 \u03a3 a\u03a3b",
    "\u03a3\u03a3 \u03a3. \u03a3\u200b",
    "\u0130stanbul I\u0307 \u0131",
    "\u1e9e stra\u00dfe",
    "\ufb01ne \uff21\uff22 \u00b2 \u00bd",
    "a\u200bb c\u00add\u202ee",
    "x\u00a0y\u3000z\u2003w\u2028v",
    "\u65e5\u672c\u8a9e\U00020000ab",
    "\U0001f642\U0001f642 ok\U0001f642",
    "don't-stop_it $5+3~4^2 `x`",
    "a\0b\ufffdc\td\ne\r\nf",
    "\u0441\u044a\u0435\u0448\u044c \u0439",
    "\uac01 \u1100\u1161",
    "a" * 101,
    "z" * 100,
    "",
    "   ",
    "\u05e9\u05c1\u05c2 \u064b\u0628",
    "pla\u0378y\ufff0 \ud800man \ue000",
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(PIECES)) + "\n", encoding="utf-8", newline="\n")
    return path


@pytest.fixture(scope="module")
def tokenizer(vocabulary):
    return wordpiece.WordPieceTokenizer(vocabulary)


@pytest.mark.parametrize("text", ODD)
def test_ids_are_the_published_ones(tokenizer, text):
    known = wordpiece.read_vocabulary(tokenizer.path)
    assert tokenizer.ids(text) == google_wordpiece.ids(text, known)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.characters(max_codepoint=0x52F, exclude_categories=()) | st.sampled_from(LETTERS), max_size=12))
def test_ids_are_the_published_ones_for_any_text(tokenizer, text):
    assume(not any(name in text for name in wordpiece.SPECIAL))
    known = wordpiece.read_vocabulary(tokenizer.path)
    assert tokenizer.ids(text) == google_wordpiece.ids(text, known)


def test_special_tokens_inside_a_text_are_ids_of_their_own(tokenizer):
    known = wordpiece.read_vocabulary(tokenizer.path)
    who, man, end = known["who"], known["man"], known["[SEP]"]
    assert tokenizer.ids("who [SEP] man") == [who, end, man]
    assert tokenizer.ids("who[SEP]man") == [who, end, man]
    assert tokenizer.ids("[sep]") == [known["["], known["sep"], known["]"]]
    assert tokenizer.ids("[CLS] [MASK] [PAD] [UNK]") == [known[x] for x in ("[CLS]", "[MASK]", "[PAD]", "[UNK]")]


def test_packing_cuts_and_keeps_the_end(tokenizer):
    known = wordpiece.read_vocabulary(tokenizer.path)
    start, end = known["[CLS]"], known["[SEP]"]
    row = pack(tokenizer, "the man", 6)
    assert row.tolist() == [start, known["the"], known["man"], end, 0, 0]
    assert row.dtype == np.int32
    assert pack(tokenizer, "the the the the man", 4).tolist() == [start, known["the"], known["the"], end]
    assert pack(tokenizer, "", 3).tolist() == [start, end, 0]


def test_unknown_words_and_a_copy_in_another_process(tokenizer):
    assert tokenizer.unknown("the \u0e01\u0e02 man \u0e01x") == ["\u0e01\u0e02", "\u0e01x"]
    assert tokenizer.unknown("m\u0378an \u0378\u0e01 man") == ["\u0e01"]
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.ids("Playing, man") == tokenizer.ids("Playing, man")


def test_wrong_vocabularies_are_one_line(tmp_path, vocabulary):
    def refused(match, content=None):
        path = tmp_path / "vocab.txt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=match) as error:
            wordpiece.WordPieceTokenizer(path)
        assert "\n" not in str(error.value)

    refused("no such file")
    refused("lacks .*MASK", "\n".join(wordpiece.SPECIAL[:-1]).encode())
    refused("first line", "\n".join(["the", *wordpiece.SPECIAL]).encode())
    refused("UTF-8", b"\xff\xfe[\0")
    windows = tmp_path / "windows.txt"
    windows.write_bytes(vocabulary.read_bytes().replace(b"\n", b"\r\n"))
    assert wordpiece.read_vocabulary(windows) == wordpiece.read_vocabulary(vocabulary)


def test_known_ids_of_bert_base_uncased():
    if importlib.util.find_spec(wordpiece.PACKAGE) is None:
        with pytest.raises(InputError, match=r"bert_vocabulary.*pip install"):
            wordpiece.find_vocabulary()
        return
    tokenizer = wordpiece.WordPieceTokenizer()
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end) == (30522, 101, 102)
    assert tokenizer.ids("Hello, World!") == [7592, 1010, 2088, 999]
    assert tokenizer.ids("who? [SEP] embeddings") == [2040, 1029, 102, 7861, 8270, 4667, 2015]
