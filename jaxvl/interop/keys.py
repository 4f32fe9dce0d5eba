"""Key mapping between a published layout and a tree of ours, rule by rule, with a report of what became of each key.

A `Rule` ties one published tensor to one or several leaves; `forward` and `backward` apply a list of rules in either
direction. Pure functions on numpy arrays; nothing is skipped in silence.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.files import printable

BATCH_STATS = "batch_stats/"
"""Prefix of the flat paths of running statistics."""


class Transform(NamedTuple):
    """How one published array becomes the arrays of its leaves, and back. `name` as printed, '' for no change."""

    name: str
    forward: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    backward: Callable[..., np.ndarray]


class Rule(NamedTuple):
    """One published tensor: its key and shape, the paths of its leaves, how it changes, and whether it counts (all
    others must hold floats)."""

    key: str
    shape: tuple[int, ...]
    paths: tuple[str, ...]
    transform: Transform
    counts: bool = False


class Dropped(NamedTuple):
    """Published keys (full match of `pattern`) that no leaf holds, and why."""

    pattern: str
    reason: str


def same() -> Transform:
    """The array as it is."""
    return Transform("", lambda x: (x,), lambda x: x)


def transpose(*axes: int) -> Transform:
    """Axes permuted."""
    inverse = tuple(int(i) for i in np.argsort(axes))
    return Transform(f"transpose{axes}", lambda x: (x.transpose(axes),), lambda x: x.transpose(inverse))


def linear() -> Transform:
    """PyTorch's `[out, in]` to `[in, out]`."""
    return Transform("transpose", lambda x: (x.T,), lambda x: x.T)


def split_heads(heads: int) -> Transform:
    """Input projection `[W, W_in]` to `[W_in, H, D]`; head h is rows h·D to (h+1)·D."""
    return Transform(
        f"transpose, {heads} heads",
        lambda x: (x.T.reshape(x.shape[1], heads, -1),),
        lambda x: x.reshape(x.shape[0], -1).T,
    )


def split_heads_bias(heads: int) -> Transform:
    """Bias `[W]` to `[H, D]`."""
    return Transform(f"{heads} heads", lambda x: (x.reshape(heads, -1),), lambda x: x.reshape(-1))


def merge_heads(heads: int) -> Transform:
    """Output projection `[W_out, W]` to `[H, D, W_out]`."""
    return Transform(
        f"transpose, {heads} heads",
        lambda x: (x.T.reshape(heads, -1, x.shape[0]),),
        lambda x: x.reshape(-1, x.shape[-1]).T,
    )


def fused(part: Transform) -> Transform:
    """Rows of query, key and value above each other, each third changed by `part`."""
    return Transform(
        f"thirds, {part.name}",
        lambda x: tuple(part.forward(third)[0] for third in np.split(x, 3)),
        lambda *thirds: np.concatenate([part.backward(x) for x in thirds]),
    )


@dataclasses.dataclass(frozen=True)
class KeyReport:
    """What became of every key of one conversion.

    used: the rules that were applied. unused: keys of the source that no rule names. missing: keys that rules ask
    for and the source lacks. dropped: `(key, reason)` of keys left out on purpose. wrong_shape, wrong_values: one line
    each. numbers: how many values the used rules moved; dropped_numbers: how many values were left out.
    """

    used: tuple[Rule, ...] = ()
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    wrong_shape: tuple[str, ...] = ()
    wrong_values: tuple[str, ...] = ()
    numbers: int = 0
    dropped_numbers: int = 0

    @property
    def reshaped(self) -> tuple[Rule, ...]:
        """The used rules that change their array."""
        return tuple(r for r in self.used if r.transform.name)

    def check(self, allow: Iterable[str] = (), source: str = "the file") -> None:
        """Raises InputError with every unused and missing key that no regular expression of `allow` matches whole,
        and for any wrong shape."""
        if self.wrong_shape:
            raise InputError(f"{source}: tensors of another shape than the config asks for: {_some(self.wrong_shape)}")
        if self.wrong_values:
            raise InputError(f"{source}: tensors that are no weights: {_some(self.wrong_values)}")
        unused, missing = not_allowed(self.unused, allow), not_allowed(self.missing, allow)
        parts = [f"{len(v)} {n}: {_some(v)}" for n, v in (("missing", missing), ("unused", unused)) if v]
        if parts:
            raise InputError(f"{source}: keys do not match; {'; '.join(parts)}; allow them by name with --allow REGEX")

    def table(self) -> str:
        """The mapping as text, keys that differ by a number only in one line, then all that was left over."""
        groups: dict[Any, list[Rule]] = {}
        for rule in self.used:
            pattern = re.sub(r"\.\d+(?=\.)", ".*", rule.key)
            groups.setdefault((pattern, rule.shape, rule.transform.name), []).append(rule)
        rows = [("published key", "shape", "times", "leaf", "change")]
        for (pattern, shape, change), rules in groups.items():
            leaf = _braces([_common([r.paths[i] for r in rules]) for i in range(len(rules[0].paths))])
            rows.append((pattern, "x".join(map(str, shape)) or "scalar", str(len(rules)), leaf, change or "-"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, [*widths, 0])).rstrip() for row in rows]
        lines += [f"dropped  {key}  ({reason})" for key, reason in self.dropped]
        lines += [f"MISSING  {key}" for key in self.missing] + [f"UNUSED   {key}" for key in self.unused]
        lines += [f"SHAPE    {line}" for line in self.wrong_shape] + [f"VALUES   {line}" for line in self.wrong_values]
        lines.append(
            f"{len(self.used)} tensors mapped ({self.numbers:,} numbers), {len(self.reshaped)} of them changed in "
            f"form; {len(self.dropped)} dropped, {len(self.missing)} missing, {len(self.unused)} unused"
        )
        return "\n".join(map(printable, lines))

    def summary(self) -> dict[str, Any]:
        """Counts and the names left over, for JSON."""
        return {
            **{"mapped": len(self.used), "changed": len(self.reshaped), "numbers": self.numbers},
            **{"missing": list(self.missing), "unused": list(self.unused), "dropped": [k for k, _ in self.dropped]},
            "dropped_numbers": self.dropped_numbers,
        }


def forward(
    rules: Sequence[Rule], arrays: Mapping[str, np.ndarray], dropped: Sequence[Dropped] = ()
) -> tuple[dict[str, np.ndarray], KeyReport]:
    """Published arrays to flat leaves, all float32: `({path: array}, report)`. Rules whose key is absent, has another
    shape (a number may be written as a list of one), or holds what is no finite float give no leaf; see
    `KeyReport.check`."""
    flat, used, missing, wrong, values, numbers = {}, [], [], [], [], 0
    for rule in rules:
        if rule.key not in arrays:
            missing.append(rule.key)
            continue
        array = np.asarray(arrays[rule.key])
        if array.shape == (1,) and rule.shape == ():
            array = array.reshape(())
        if array.shape != rule.shape:
            wrong.append(f"{rule.key} is {list(array.shape)}, not {list(rule.shape)}")
            continue
        array, odd = _floats(array, rule.counts)
        if odd:
            values.append(f"{rule.key} {odd}")
            continue
        parts = rule.transform.forward(array)
        flat |= {path: np.ascontiguousarray(x) if x.ndim else x for path, x in zip(rule.paths, parts)}
        used.append(rule)
        numbers += array.size
    named = {r.key for r in rules}
    left_out, unused = [], []
    for key in arrays:
        if key not in named:
            reason = next((d.reason for d in dropped if re.fullmatch(d.pattern, key)), None)
            unused.append(key) if reason is None else left_out.append((key, reason))
    lost = sum(int(np.size(arrays[k])) for k, _ in left_out)
    sorted_out = (tuple(unused), tuple(missing), tuple(left_out), tuple(wrong), tuple(values))
    report = KeyReport(tuple(used), *sorted_out, numbers, lost)
    return flat, report


def _floats(array: np.ndarray, counts: bool) -> tuple[np.ndarray, str]:
    """The array as float32, and what is wrong with its values, '' for nothing."""
    if array.dtype.kind in ("bc" if counts else "biuc"):
        return array, f"holds {array.dtype}, not floats"
    with np.errstate(over="ignore", invalid="ignore"):
        out = array.astype(np.float32)
    bad = out.size - int(np.isfinite(out).sum())
    return out, f"holds {bad} of {out.size} values that are not finite in float32" if bad else ""


def backward(rules: Sequence[Rule], flat: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], KeyReport]:
    """Flat leaves to published arrays, float32; in the report `missing` and `unused` are paths of leaves."""
    arrays, used, missing, wrong, numbers = {}, [], [], [], 0
    for rule in rules:
        absent = [p for p in rule.paths if p not in flat]
        if absent:
            missing += absent
            continue
        try:
            array = rule.transform.backward(*(np.asarray(flat[p], np.float32) for p in rule.paths))
        except ValueError:  # parts that do not even fit each other
            array = None
        if array is None or array.shape != rule.shape:
            wrong.append(f"{', '.join(rule.paths)} give no {rule.key} of {list(rule.shape)}")
            continue
        arrays[rule.key] = np.ascontiguousarray(array) if array.ndim else array
        used.append(rule)
        numbers += array.size
    named = {p for r in rules for p in r.paths}
    unused = tuple(p for p in flat if p not in named)
    return arrays, KeyReport(tuple(used), unused, tuple(missing), (), tuple(wrong), (), numbers)


def prefixed(rules: Iterable[Rule], key: str = "", path: str = "") -> list[Rule]:
    """The same rules with a prefix before every key and before every path."""
    return [r._replace(key=key + r.key, paths=tuple(path + p for p in r.paths)) for r in rules]


def plain_keys(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keys without a leading `module.` and with `gamma, beta` (old BERT names) as `weight, bias`. Raises
    InputError for two keys that then are the same."""
    out = {}
    for key, value in arrays.items():
        plain = re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", key.removeprefix("module.")))
        if plain in out:
            raise InputError(f"the file holds {plain} twice, the second time as {key}; leave one out with --drop REGEX")
        out[plain] = value
    return out


def check_copies(arrays: Mapping[str, np.ndarray], copies: Mapping[str, str]) -> None:
    """Raises InputError where a tensor differs from its copy in the file; copies: key -> key of the copy."""
    for key, copy in copies.items():
        if copy in arrays and not np.array_equal(arrays[key], arrays[copy]):
            raise InputError(f"tensor {copy}: differs from {key}, of which it should be the copy")


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{'a/b': x} -> {'a': {'b': x}}`."""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return out


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `nest`."""
    out = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        out |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return out


def to_variables(flat: Mapping[str, np.ndarray], collections: Sequence[str] = ("batch_stats",)) -> dict[str, Any]:
    """Flat paths -> `{'params': tree}`, and each of the collections of which a path begins with `COLLECTION/`."""
    out: dict[str, dict[str, Any]] = {"params": {}}
    for path, value in flat.items():
        first, _, rest = path.partition("/")
        collection, inside = (first, rest) if first in collections else ("params", path)
        out.setdefault(collection, {})[inside] = value
    return {collection: nest(leaves) for collection, leaves in out.items()}


def to_flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_variables`: parameters under their path, other collections under `COLLECTION/path`."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return flatten(variables["params"]) | flatten(rest)


def with_step_counters(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the int64 counter that PyTorch keeps beside the statistics of every BatchNorm."""
    out: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        out[key] = value
        if key.endswith(".running_var"):
            out[key.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    return out


def not_allowed(keys: Iterable[str], allow: Iterable[str]) -> list[str]:
    """Keys that no regular expression matches whole. Raises InputError for an invalid expression."""
    patterns = []
    for text in allow:
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            raise InputError(f"allow {text!r}: not a regular expression ({error})") from None
    return [k for k in keys if not any(p.fullmatch(k) for p in patterns)]


def _some(items: Sequence[str], most: int = 6) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _common(paths: Sequence[str]) -> str:
    """One text for paths that differ by numbers: `a/blocks_*/b`."""
    columns = zip(*(p.split("/") for p in paths))
    return "/".join(c[0] if len(set(c)) == 1 else re.sub(r"\d+$", "*", c[0]) for c in columns)


def _braces(paths: Sequence[str]) -> str:
    """`a/query/kernel, a/key/kernel` as `a/{query,key}/kernel`."""
    if len(paths) == 1:
        return paths[0]
    parts = [p.split("/") for p in paths]
    if len({len(p) for p in parts}) > 1:
        return ", ".join(paths)
    columns = [list(dict.fromkeys(c)) for c in zip(*parts)]
    return "/".join(c[0] if len(c) == 1 else "{" + ",".join(c) + "}" for c in columns)
