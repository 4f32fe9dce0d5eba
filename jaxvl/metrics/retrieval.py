"""Text-video retrieval metrics in numpy: recall at k, median and mean rank, both ways, one or several captions a video.

Ranks are 0-based numbers of better-scored candidates. Ties with the gold score are counted by one of three rules:

    'optimistic'   only strictly better candidates count (default; equals the official code when nothing ties)
    'official'     as CLIP4Clip's and CenterCLIP's code for one caption a video: a query with ties counts once for
                   each position that the gold score takes in the sorted row
    'pessimistic'  ties count as better; constant embeddings then get R@1 of 0 instead of 100

NaN scores are taken as −inf. Percentages are 0-100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxvl.core.errors import InputError

TIE_RULES = ("optimistic", "official", "pessimistic")
TIE_WARNING_SHARE = 0.01
RECALL_AT = (1, 5, 10)


def gold_ranks(scores: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the gold candidates: scores `[n, m]`, gold `[n]` column indices -> (better `[n]`, tied `[n]`) int64.

    `better` counts strictly higher scores, `tied` equal ones other than the gold itself. Rows are independent, so
    a large matrix may be handed over in chunks of rows.
    """
    scores = _clean(scores)
    target = np.take_along_axis(scores, np.asarray(gold)[:, None], axis=1)
    return (scores > target).sum(1), (scores == target).sum(1) - 1


def apply_ties(better: np.ndarray, tied: np.ndarray, ties: str = "optimistic") -> np.ndarray:
    """Ranks by a tie rule from what `gold_ranks` gives; under 'official' there are more ranks than queries."""
    if ties == "optimistic":
        return better
    if ties == "pessimistic":
        return better + tied
    if ties == "official":
        repeats = tied + 1
        first = np.repeat(np.cumsum(repeats) - repeats, repeats)
        return np.repeat(better, repeats) + np.arange(repeats.sum()) - first
    raise InputError(f"ties: {ties!r} is unknown; use one of {TIE_RULES}")


def summarize_ranks(ranks: np.ndarray, *, lower_median: bool = False, std: bool = False) -> dict[str, float]:
    """`R@1`, `R@5`, `R@10` in percent, `MdR` and `MnR` (both from 1), of 0-based ranks `[n]`; optionally `StdR`.

    lower_median: of an even number of ranks take the lower middle one instead of the mean of both.
    """
    ranks = np.asarray(ranks)
    if ranks.size == 0:
        raise InputError("retrieval: no queries to evaluate; the split is empty")
    median = np.sort(ranks)[(ranks.size - 1) // 2] if lower_median else np.median(ranks)
    out = {f"R@{k}": 100.0 * float(np.mean(ranks < k)) for k in RECALL_AT}
    out |= {"MdR": float(median) + 1.0, "MnR": float(ranks.mean()) + 1.0}
    return out | ({"StdR": float(ranks.std())} if std else {})


def chance(gallery: int) -> dict[str, float]:
    """What random scores give on average with `gallery` candidates and one gold: the keys of `summarize_ranks`."""
    out = {f"R@{k}": 100.0 * min(k, gallery) / gallery for k in RECALL_AT}
    return out | {"MdR": (gallery + 1) / 2, "MnR": (gallery + 1) / 2}


def single_caption_metrics(sim: np.ndarray, *, ties: str = "optimistic") -> dict[str, float]:
    """Metrics of a square similarity `[n_text, n_video]` with the gold on the diagonal.

    Returns `t2v/...` and `v2t/...` with the keys of `summarize_ranks` and `tie_share` (share of queries whose gold
    score is not unique; see `tie_warning`). Raises InputError when `sim` is not square.
    """
    sim = np.asarray(sim)
    if sim.ndim != 2 or sim.shape[0] != sim.shape[1]:
        raise InputError(
            f"retrieval: similarity {sim.shape} is not square; with several captions a video give their map"
        )
    gold = np.arange(sim.shape[0])
    return _report("t2v", *gold_ranks(sim, gold), ties) | _report("v2t", *gold_ranks(sim.T, gold), ties)


def multi_caption_metrics(
    sim: np.ndarray, video_of_text: Sequence[int], *, ties: str = "optimistic"
) -> dict[str, float]:
    """Metrics of `[n_text, n_video]` when several captions belong to one video (MSVD).

    Text to video: every caption is a query; lower median, and `StdR` of the ranks. Video to text: the candidates
    are the caption groups, scored by their best caption. `video_of_text [n_text]` is the gold video of each caption;
    every video needs one caption at least. Text to video under ties='official' is counted optimistically: the
    official code orders such ties arbitrarily. Keys as in `single_caption_metrics`.
    """
    sim, owner = np.asarray(sim), _check_owner(video_of_text, *np.shape(sim))
    ranked = gold_ranks(sim, owner)
    return _report("t2v", *ranked, "optimistic" if ties == "official" else ties, lower_median=True, std=True) | _report(
        "v2t", *gold_ranks(group_scores(sim, owner), np.arange(sim.shape[1])), ties
    )


def group_scores(sim: np.ndarray, video_of_text: np.ndarray) -> np.ndarray:
    """Score of caption group g for video j, the best of its captions: sim `[n_text, n_video]` -> `[n_video, n_video]`
    indexed `[j, g]`. Groups without a caption in `sim` (when it is one chunk of rows) get −inf."""
    sim = _clean(sim)
    best = np.full((sim.shape[1], sim.shape[1]), -np.inf, sim.dtype)
    np.maximum.at(best, np.asarray(video_of_text), sim)
    return best.T


def embedding_metrics(
    text: np.ndarray,
    video: np.ndarray,
    video_of_text: Sequence[int] | None = None,
    *,
    ties: str = "optimistic",
    chunk: int = 2048,
) -> dict[str, float]:
    """Metrics from unit features, without ever holding the whole similarity: text `[n_text, E]`, video `[n_video, E]`.

    video_of_text: None for one caption a video in the same order (`single_caption_metrics`), else as in
    `multi_caption_metrics`. Scores are float32 dot products, `chunk` captions at a time.
    """
    text, video = np.asarray(text, np.float32), np.asarray(video, np.float32)
    multi = video_of_text is not None
    if not multi and len(text) != len(video):
        raise InputError(f"retrieval: {len(text)} captions for {len(video)} videos; give the video of each caption")
    owner = _check_owner(video_of_text if multi else np.arange(len(text)), len(text), len(video))
    groups = np.full((len(video), len(video)), -np.inf, np.float32)
    better, tied = [], []
    for scores, rows in _row_chunks(lambda rows: text[rows] @ video.T, len(text), chunk):
        b, t = gold_ranks(scores, owner[rows])
        better.append(b)
        tied.append(t)
        np.maximum(groups, group_scores(scores, owner[rows]), out=groups)
    ranked = np.concatenate(better), np.concatenate(tied)
    back = _report("v2t", *gold_ranks(groups, np.arange(len(video))), ties)
    if not multi:
        return _report("t2v", *ranked, ties) | back
    return _report("t2v", *ranked, "optimistic" if ties == "official" else ties, lower_median=True, std=True) | back


def tie_warning(metrics: dict[str, float]) -> str | None:
    """One line for the user when more than 1 % of the queries tie with their gold (collapsed features), or None."""
    share = max(metrics["t2v/tie_share"], metrics["v2t/tie_share"])
    if share <= TIE_WARNING_SHARE:
        return None
    return (
        f"retrieval: {100 * share:.1f} % of the queries score another candidate exactly as the gold one; "
        "recall counts these as hits (features may have collapsed; compare with ties='pessimistic')"
    )


def _report(prefix: str, better, tied, ties: str, **options) -> dict[str, float]:
    values = summarize_ranks(apply_ties(better, tied, ties), **options)
    values["tie_share"] = float(np.mean(tied > 0))
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _row_chunks(scores: Callable[[slice], np.ndarray], n: int, chunk: int) -> Iterable[tuple[np.ndarray, slice]]:
    for start in range(0, n, chunk):
        rows = slice(start, min(start + chunk, n))
        yield scores(rows), rows


def _check_owner(video_of_text: Sequence[int], n_text: int, n_video: int) -> np.ndarray:
    owner = np.asarray(video_of_text)
    if owner.shape != (n_text,) or owner.size == 0 or owner.min() < 0 or owner.max() >= n_video:
        raise InputError(f"video_of_text: needs {n_text} indices of videos between 0 and {n_video - 1}")
    missing = np.setdiff1d(np.arange(n_video), owner)
    if missing.size:
        raise InputError(f"video_of_text: video {missing[0]} has no caption; remove it from the gallery")
    return owner


def _clean(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), -np.inf, scores)
