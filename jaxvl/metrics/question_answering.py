"""Metrics of question answering about videos: accuracy in total and by type, as AGQA 2.0, NExT-QA and STAR report it.

Plain arrays and lists in, percent out. A question whose right answer is outside the vocabulary (label -1) counts as
wrong. Env-QA's score by roles is in `metrics.answer_roles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NEXTQA_TYPES = {
    **{"CW": "Why", "CH": "How", "TN": "Bef&Aft", "TP": "Bef&Aft", "TC": "When"},
    **{"DC": "Cnt", "DL": "Loc", "DO": "Other"},
}
"""NExT-QA's (Xiao et al., CVPR 2021) codes and the columns of its tables."""
STAR_TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")


def hits(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """Whether the right answer is among the k with the highest scores: `[n, V]`, `[n]` -> `[n]` bool.

    Of equal scores the lower index comes first. Label -1: no right answer, False.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    rows = np.arange(len(labels))
    own = logits[rows, np.maximum(labels, 0)]
    before = np.arange(logits.shape[1]) < labels[:, None]
    ahead = (logits > own[:, None]) | ((logits == own[:, None]) & before)
    return (ahead.sum(1) < k) & (labels >= 0) & ~np.isnan(own)


def percent(flags: np.ndarray) -> float:
    """Share of true flags in percent; NaN of none."""
    return 100.0 * float(np.mean(flags)) if len(flags) else float("nan")


def by_group(flags: np.ndarray, groups: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, float]:
    """`{classification/type: percent}`; a question counts in every type that it belongs to."""
    members: dict[str, list[int]] = {}
    for i, own in enumerate(groups):
        for name, types in own.items():
            for kind in dict.fromkeys(types):
                members.setdefault(f"{name}/{kind}", []).append(i)
    flags = np.asarray(flags)
    return {name: percent(flags[rows]) for name, rows in sorted(members.items())}


def open_accuracy(
    logits: np.ndarray, labels: np.ndarray, groups: Sequence[Mapping[str, Sequence[str]]] = ()
) -> dict[str, float]:
    """AGQA 2.0 (Grunde-McLaughlin et al., arXiv 2204.06105): `acc@1`, `acc@10`, acc@1 of every type of every
    classification (`global/obj-rel`, `ans_type/binary`, `semantic/...`, `structural/...`, `compositional/...`), and
    `unanswerable`, the share of questions without a right answer in the vocabulary."""
    first = hits(logits, labels)
    out = {"acc@1": percent(first), "acc@10": percent(hits(logits, labels, 10))}
    out["unanswerable"] = percent(np.asarray(labels) < 0)
    return out | by_group(first, groups)


def nextqa_accuracy(flags: np.ndarray, codes: Sequence[str]) -> dict[str, float]:
    """NExT-QA: `acc` over all, `acc_C`, `acc_T`, `acc_D` (causal, temporal, descriptive; over their questions, not over
    their types) and one figure a column of its tables. codes: `CW`, ... of each question."""
    flags, codes = np.asarray(flags, bool), np.asarray(codes)
    unknown = sorted(set(codes.tolist()) - set(NEXTQA_TYPES))
    if unknown:
        raise ValueError(f"types {', '.join(unknown)}: are none of {', '.join(NEXTQA_TYPES)}")
    out = {"acc": percent(flags)}
    out |= {f"acc_{c}": percent(flags[np.char.startswith(codes, c)]) for c in "CTD"}
    columns = np.array([NEXTQA_TYPES[c] for c in codes.tolist()])
    return out | {name: percent(flags[columns == name]) for name in dict.fromkeys(NEXTQA_TYPES.values())}


def star_accuracy(flags: np.ndarray, types: Sequence[str]) -> dict[str, float]:
    """STAR (Wu et al., NeurIPS 2021): `mean` of the accuracies of its four types, which is the score, `micro` over all
    questions, and each type. A type without a question is left out of the mean."""
    flags, types = np.asarray(flags, bool), np.asarray(types)
    each = {name: percent(flags[types == name]) for name in STAR_TYPES}
    present = [v for v in each.values() if not np.isnan(v)]
    mean = float(np.mean(present)) if present else float("nan")
    return {"mean": mean, "micro": percent(flags), **each}
