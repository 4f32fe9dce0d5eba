from __future__ import annotations

import gzip
import importlib.util
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvl.core.errors import InputError
from jaxvl.data import clip_bpe
from jaxvl.data.text import pack

START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer():
    return clip_bpe.CLIPTokenizer()


def test_known_ids(tokenizer):
    assert tokenizer.vocab_size == 49408
    assert (tokenizer.start, tokenizer.end) == (START, END)
    assert tokenizer.ids("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenizer.ids("the") == [518]
    assert tokenizer.tokenize("Hello World!")[0, :6].tolist() == [START, 3306, 1002, 256, END, 0]
    assert tokenizer.ids("") == []
    assert tokenizer.unknown("日本 zzzqqq") == []


def test_vocabulary_layout(tokenizer):
    assert tokenizer.decode([0]) == "!"  # first of the byte symbols
    assert tokenizer.decode([256]) == "! "  # the same, at the end of a word
    assert tokenizer.decode([512]) == "in"  # first merge
    table = clip_bpe.byte_symbols()
    assert len(table) == len(set(table.values())) == 256
    assert [ord(table[b]) for b in (0, 32, 127, 160, 173)] == [256, 288, 289, 322, 323]
    assert list(table)[187:190] == [255, 0, 1]


def test_merges_follow_their_rank_not_the_text(tokenizer):
    # every merge's own text must come out as few symbols as possible; rank order makes 'in' + 'g' before 'n' + 'g'
    assert len(tokenizer.ids("photographs")) == 1
    naive = []
    for i in range(512, 512 + 2000):
        text = tokenizer._symbols[i]
        if text.endswith("</w>") and text[:-4].isascii() and text[:-4].isalpha():
            naive.append(tokenizer.ids(text[:-4]) == [i])
    assert len(naive) > 800
    assert np.mean(naive) > 0.99


def test_every_digit_is_a_token_and_contractions_are_cut_off(tokenizer):
    assert tokenizer.ids("2024") == [tokenizer.ids(d)[0] for d in "2024"]
    assert tokenizer.decode(tokenizer.ids("It's 25% off, they'LL say")) == "it 's 2 5 % off , they 'll say "


def test_cleaning():
    assert clip_bpe.clean("  A\t&amp;amp; B\n\n<b>&lt;</b> ") == "a & b <b><</b>"
    assert clip_bpe.clean("schÃ¶n") == "schön"  # mojibake: UTF-8 read as Latin-1


def test_special_strings_are_special_ids(tokenizer):
    assert tokenizer.ids("<|startoftext|>a cat<|endoftext|>") == [START, 320, 2368, END]
    assert tokenizer.ids("<|EndOfText|>") == [END]


def test_any_script_survives_a_round_trip(tokenizer):
    for text in ("größe und straße ", "日本語 の 猫 ", "кошка ", "🐈 "):
        assert tokenizer.decode(tokenizer.ids(text)) == text


IOTA = "\N{COMBINING GREEK YPOGEGRAMMENI}"


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))))
def test_decode_gives_the_cleaned_text_but_for_blanks(text):
    tokenizer = shared()
    cleaned = clip_bpe.clean(text)
    if clip_bpe.START in cleaned or clip_bpe.END in cleaned or IOTA in cleaned:
        return
    assert "".join(tokenizer.decode(tokenizer.ids(text)).split()) == "".join(cleaned.split())


def test_the_one_character_that_the_published_pattern_drops(tokenizer):
    """A mark whose upper case is a letter: ignoring case, it is neither in `[\\p{L}]` nor in `[^\\s\\p{L}\\p{N}]`."""
    assert tokenizer.ids(f"a{IOTA}b") == tokenizer.ids("a b")


def shared(_kept=[]):  # noqa: B006 (one tokenizer for all examples)
    if not _kept:
        _kept.append(clip_bpe.CLIPTokenizer())
    return _kept[0]


def test_decode_stops_at_the_end_token(tokenizer):
    assert tokenizer.decode(tokenizer.tokenize("a cat", 6)[0]) == "<|startoftext|>a cat <|endoftext|>!!"
    with pytest.raises(InputError, match="50000 is outside"):
        tokenizer.decode([50000])


def test_clip_packing(tokenizer):
    rows = tokenizer.tokenize(["a cat", "the"])
    assert rows.shape == (2, 77)
    assert rows.dtype == np.int32
    assert rows[0, :5].tolist() == [START, 320, 2368, END, 0]
    long = "cat " * 100
    with pytest.raises(InputError, match=r"'cat cat .*102 tokens do not fit context_length 77"):
        tokenizer.tokenize(long)
    cut = tokenizer.tokenize(long, truncate=True)[0]
    assert cut.tolist() == [START, *[2368] * 75, END]
    assert tokenizer.tokenize("cat " * 75)[0, -1] == END  # exactly full


def test_clip4clip_packing(tokenizer):
    assert pack(tokenizer, "a cat", 6).tolist() == [START, 320, 2368, END, 0, 0]
    assert pack(tokenizer, "a photo of a cat", 5).tolist() == [START, 320, 1125, 539, END]
    assert pack(tokenizer, "cat " * 100, 32).argmax() == 31


def test_full_and_cut_vocabulary_are_the_same(tmp_path, tokenizer, monkeypatch):
    full = tmp_path / "full.txt.gz"
    content = gzip.decompress(clip_bpe.VENDORED.read_bytes())
    assert content.count(b"\n") == 48895
    full.write_bytes(gzip.compress(content + b"".join(b"junk%d junk</w>\n" % i for i in range(1000)), 1))
    monkeypatch.setenv(clip_bpe.VARIABLE, str(full))
    other = clip_bpe.CLIPTokenizer()
    assert other.path == full
    assert other._symbols == tokenizer._symbols
    assert other._rank == tokenizer._rank


def test_the_variable_names_a_file_or_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv(clip_bpe.VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"JAXVL_CLIP_BPE=.*gone: no such file"):
        clip_bpe.find_vocabulary()
    monkeypatch.setenv(clip_bpe.VARIABLE, "")
    assert clip_bpe.find_vocabulary() == clip_bpe.VENDORED


def test_packages_are_searched_when_the_vendored_file_is_gone(tmp_path, monkeypatch):
    monkeypatch.delenv(clip_bpe.VARIABLE, raising=False)
    monkeypatch.setattr(clip_bpe, "VENDORED", tmp_path / "gone")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="set JAXVL_CLIP_BPE"):
        clip_bpe.find_vocabulary()
    (tmp_path / clip_bpe.PUBLISHED_NAME).write_bytes(b"")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "clip" else None)
    assert clip_bpe.find_vocabulary() == tmp_path / clip_bpe.PUBLISHED_NAME


DAMAGED = {"no_gzip": b"no gzip", "two_lines": gzip.compress(b"a\nb c\n"), "cut": gzip.compress(b"x" * 999)[:20]}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_wrong_vocabulary_file_is_named(tmp_path, content):
    path = tmp_path / "vocab.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"vocab\.gz"):
        clip_bpe.CLIPTokenizer(path)
    with pytest.raises(InputError, match=r"nowhere\.gz"):
        clip_bpe.CLIPTokenizer(tmp_path / "nowhere.gz")


def test_pickling_carries_the_path_only(tokenizer):
    data = pickle.dumps(tokenizer)
    assert len(data) < 1000
    assert pickle.loads(data).ids("a cat") == [320, 2368]
