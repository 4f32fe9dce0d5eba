"""Env-QA's score of answers by roles (Gao et al., ICCV 2021): an answer says which action was done to what, where, in
which state, how often; each role counts for itself.

An answer is a sentence, a mapping role -> value, or a list in the order of `ROLES`. A sentence is parsed with an answer
space: the candidates of each role, 'NONE' first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxvl.core.errors import InputError
from jaxvl.core.files import read_json

ROLES = ("action", "subjects", "prep", "objects", "state", "number", "yes/no", "order")
NONE = "NONE"
EPS = 1e-6
Answer = str | Mapping[str, str] | Sequence[str]
Space = Mapping[str, Sequence[str]]

REPLACED = (
    (",", " , "), ("\uff0c", " \uff0c "), ("(", " ("), ("c d", "cd"), ("t v", "tv"),
    ("don't", "do not"), ("doesn't", "does not"), ("hasn't", "has not"), ("it's", "it is"),
    *((a + b, f"{a} {b}") for a, b in (("scrub", "brush"), ("spray", "bottle"))),
    ("on/in", "on or in"),
    *((a + b, f"{a} {b}") for a, b in (
        ("credit", "card"), ("pepper", "shaker"), ("handtowel", "holder"), ("toilet", "paper"), ("stove", "burner"),
        ("soap", "bar"), ("salt", "shaker"), ("tissue", "box"), ("side", "table"), ("butter", "knife"),
    )),
    ("papertowelroll", "paper towel roll"),
    ("vedio", "video"),
    *((a + b, f"{a} {b}") for a, b in (
        ("remote", "control"), ("shower", "door"), ("shower", "curtain"), ("watering", "can"), ("garbage", "can"),
        ("teddy", "bear"), ("tennis", "racket"), ("alarm", "clock"), ("shower", "glass"), ("tv", "stand"),
        ("towel", "holder"),
    )),
    ("vidio", "video"),
    *((a + b, f"{a} {b}") for a, b in (("dish", "sponge"), ("soap", "bottle"))),
    ("garbagepen", "garbage can"),
    *((a + b, f"{a} {b}") for a, b in (("dining", "table"), ("wine", "bottle"))),
    ("not-used", "not used"),
    ("handtowel", "hand towel"),
)  # fmt: skip
"""Plain replacements, in this order, before lower-casing. One makes the next impossible here and there
('toiletpaperhanger' becomes 'toilet paperhanger'), as in the published scorer."""
DELETED = "*()?."


def read_space(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The answer space: a JSON object, role -> candidates, the first 'NONE'. Raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; Env-QA's score needs the answer space, role -> list of candidates")
    content = read_json(path, dict, f"needs an object with the roles {', '.join(ROLES)}")
    lost = [role for role in ROLES if not isinstance(content.get(role), list)]
    if lost:
        raise InputError(f"{path}: has no list of candidates for {', '.join(lost)}")
    return {role: tuple(map(str, content[role])) for role in ROLES}


def clean(answer: str) -> str:
    """Spelling evened out, lower case, one blank on both sides."""
    for old, new in REPLACED:
        answer = answer.replace(old, new)
    answer = answer.lower()
    for sign in DELETED:
        answer = answer.replace(sign, "")
    return f" {answer} "


def ordered(question: str, answer: str) -> str:
    """The answer to a question for an order ("which came first, a or b"): 'former', 'latter' or 'unanswerable'; as it
    is for any other question."""
    if not (("later" in question or "first" in question) and " or " in question):
        return answer
    choices = None
    for part in question.split(","):
        if " or " in part:
            choices = [c.strip() for c in part.split(" or ")][:2]
    if choices is None:
        return answer
    if answer in choices:
        return ("former", "latter")[choices.index(answer)]
    if "unanswerable" in answer or "nothing" in answer:
        return "unanswerable"
    first, second = (len(set(c.split()) & set(answer.split())) for c in choices)
    return "former" if first > second else "latter"


def present(candidates: Sequence[str], answer: str) -> list[tuple[int, str]]:
    """`(index, candidate)` of those that stand in the cleaned answer joined, or whose words all stand in it; the index
    is where the joined form, or the first of their words, stands, be it inside another word."""
    words, found = set(answer.split()), []
    for candidate in candidates:
        parts = candidate.split()
        joined = "".join(parts)
        if len(parts) > 1 and joined in words:
            found.append((answer.find(joined), candidate))
        elif parts and all(p in words for p in parts):
            found.append((min(answer.find(p) for p in parts), candidate))
    return found


def parse(question: str, answer: str, space: Space) -> dict[str, str]:
    """Role -> value of a sentence, 'NONE' where it says nothing."""
    text = clean(ordered(question, answer))
    out = {}
    for role in ROLES:
        found = present(space[role], text)
        if not found:
            out[role] = NONE
        elif role == "objects":
            last = max((index + len(c), len(c), c) for index, c in found)[2]  # the alphabet decides, as published
            out[role] = last if len(found) > 1 else NONE
        elif role == "prep" and found[0][1] in ("on", "off") and f"turning {found[0][1]}" in text:
            out[role] = NONE  # of the action, not of a place
        else:
            out[role] = min((index, -len(c), c) for index, c in found)[2]
    if out["subjects"] == out["objects"]:
        out["objects"] = NONE
    return out


def roles_of(question: str, answer: Answer | None, space: Space) -> dict[str, str]:
    """Role -> value of an answer in any of its three forms; None is an empty sentence."""
    if answer is None or isinstance(answer, str):
        return parse(question, answer or "", space)
    if isinstance(answer, Mapping):
        return {role: answer.get(role, NONE) for role in ROLES}
    if len(answer) != len(ROLES):
        raise ValueError(f"an answer of {len(answer)} values; a list has {len(ROLES)}: {', '.join(ROLES)}")
    return dict(zip(ROLES, answer))


def role_score(predicted: Mapping[str, str], right: Mapping[str, str]) -> float:
    """`(hits + 1e-6) / (union + 1e-6)`: roles with the same value, over roles where either has one."""
    union = [role for role in ROLES if predicted[role] != NONE or right[role] != NONE]
    same = sum(predicted[role] == right[role] for role in union)
    return (same + EPS) / (len(union) + EPS)


def mean_role_score(
    questions: Sequence[str], predicted: Sequence[Answer | None], right: Sequence[Answer], space: Space
) -> float:
    """The score of Env-QA: mean over questions, in percent."""
    scores = [
        role_score(roles_of(q, p, space), roles_of(q, r, space))
        for q, p, r in zip(questions, predicted, right, strict=True)
    ]
    return 100.0 * sum(scores) / len(scores) if scores else float("nan")
