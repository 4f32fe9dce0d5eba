"""What `jaxvl.verbs.aot` found, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxvl.core import flops
from jaxvl.core.memory import gib

ROWS = 12
"""So many of a long list are shown; `--json` has all."""


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The whole report; its last line says whether everything fits."""
    t = report["topology"]
    mesh = ", ".join(f"{axis} {n}" for axis, n in t["mesh"].items())
    yield (
        f"{report['method']} on {t['name']}: {_many(t['chips'], 'chip')}, {_many(t['devices'], 'device')} of kind "
        f"{t['kind']}, {_many(t['hosts'], 'host')}; mesh {mesh}"
    )
    p = report["precision"]
    yield f"precision {p['compute']}, products {p['matmul']}, remat {p['remat']}, accumulate {report['accumulate']}"
    if (chip := t["chip"]) is not None:
        ici = f", {chip['ici'] / 1e9:.0f} GB/s to its neighbours" if chip["ici"] else ""
        yield (
            f"a chip: {chip['hbm']} GiB, {chip['flops'] / 1e12:.0f} TFLOP/s in bf16, memory "
            f"{chip['bandwidth'] / 1e9:.0f} GB/s{ici}; {_many(chip['cores'], 'device')} a chip"
        )
    yield "a device's part of the state: " + ", ".join(f"{k} {gib(v)}" for k, v in report["state"].items())
    for rows, hosts in report["hosts"].items():
        yield f"rows of a batch of {rows}, by host"
        yield from _shown([f"  host {host}: {part}" for host, part in hosts.items()], "hosts", 16)
    for program in report["programs"]:
        yield ""
        yield from _program(program)
    if report["second"] is not None:
        yield ""
        yield from _second(report["second"])
    if report["trials"]:
        yield ""
        yield "what was tried"
        for trial in report["trials"]:
            needed = f"needs {gib(trial['needed'])}" if trial["needed"] else "needs more"
            result = trial.get("refused") or f"{needed}: {'fits' if trial['fits'] else 'does not fit'}"
            yield f"  {trial['change']}: {result}"
    yield ""
    yield report["line"]


def _program(p: Mapping[str, Any]) -> Iterator[str]:
    yield p["name"]
    fields = [f"{stream}.{k} {x}" for stream, batch in p["batch"].items() for k, x in batch.items()]
    yield f"  batch      {'; '.join(fields)}: {gib(p['batch_bytes'])} a device"
    seconds = p["seconds"]
    spent = (
        f"  compiled   in {seconds['compile']:.0f} s ({seconds['compile_cpu']:.0f} s of CPU); traced in "
        f"{seconds['trace']:.0f} s, lowered in {seconds['lower']:.0f} s; effort {p['compiler']['effort']}, "
        f"{'with' if p['compiler']['code'] else 'without'} machine code"
    )
    if "error" in p:
        yield f"  memory     {p['error']}"
        yield spent
        return
    m, f = p["memory"], p["flops"]
    code = "no code generated" if m["code"] is None else f"code {gib(m['code'])}"
    peak = "" if m["peak"] is None else f" (the compiler's peak: {gib(m['peak'])})"
    yield (
        f"  memory     arguments {gib(m['arguments'])}, outputs of their own {gib(m['outputs'] - m['aliased'])}, "
        f"temporaries {gib(m['temporaries'])}, {code}; beside it {gib(p['resident'])} of the state and "
        f"{gib(p['batch_bytes'])} of the next batch: {gib(p['needed'])}{peak}"
    )
    if "donation" in p:
        d = p["donation"]
        kept = f"all {d['leaves']} leaves of the state stay in place"
        copied = f"{d['copied']} of {d['leaves']} leaves are copied, {gib(d['bytes'])}: {', '.join(d['largest'])}"
        yield f"  donation   {copied if d['copied'] else kept}"
    ratio = "" if f["ratio"] is None else f", {f['ratio']:.2f} times as many"
    passes = f"; {flops.text(f['passes'])} with all passes of float32" if f["passes"] > f["compiled"] else ""
    yield f"  FLOPs      {flops.text(f['traced'])} traced, {flops.text(f['compiled'])} compiled{ratio}{passes}"
    b, r = p["bytes"], p["roofline"]
    xla = "" if b["by_xla"] is None else f" (XLA's analysis: {gib(b['by_xla'])}, every loop turned once)"
    yield (
        f"  bytes      {gib(b['memory'])} through memory, {gib(b['on_chip'])} through memories on the chip{xla}, "
        f"{gib(b['sent'])} sent"
    )
    if r["step"] is not None:
        network = "network unknown" if r["network"] is None else f"network {_ms(r['network'])}"
        yield f"  roofline   compute {_ms(r['compute'])}, memory {_ms(r['memory'])}, {network}: bound by {r['bound']}"
    if "input" in p:
        rate = p["input"]["per_second"]
        pace = f", {rate / 1e6:,.0f} MB/s at the roofline's pace" if rate else ""
        yield f"  input      {gib(p['input']['bytes'])} a host and update{pace}"
    yield from _list("collectives", p["collectives"], _collective, _total)
    yield from _list("loops", p["loops"], _loop)
    yield from _list("sorts", p["sorts"], _named)
    yield from _list("decompositions", p["decompositions"], _named)
    copies = p["relayouts"]
    head = f"relayouts  {copies['count']} copies to another layout, {gib(copies['bytes'])} written"
    yield from _list(head, copies["places"], _relayout)
    if p["f32_products"] is not None:
        share = sum(row["share"] for row in p["f32_products"])
        yield from _list(f"float32 products, {share:.1%} of the FLOPs", p["f32_products"], _f32)
    yield spent


def _second(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"{s['topology']}, {s['devices']} devices, as many rows a device"
    if "refused" in s:
        yield f"  refused: {s['refused']}"
    for p in s["programs"]:
        if "error" in p:
            yield f"  {p['name']}: {p['error']}"
            continue
        found = s["grows"].get(p["name"])
        if found is None:
            continue
        yield f"  {p['name']}: {'what a device does more of' if found else 'nothing grows'}"
        yield from _shown([f"    {line}" for line in found], "more", ROWS)


def _list(
    head: str,
    rows: Sequence[Mapping[str, Any]],
    text: Callable[[Mapping[str, Any]], str],
    total: Callable[[Sequence[Mapping[str, Any]]], str] | None = None,
) -> Iterator[str]:
    if not rows:
        yield f"  {head}: none" if "  " not in head else f"  {head}"
        return
    yield f"  {head}{f': {total(rows)}' if total else ''}"
    yield from _shown([f"    {text(row)}" for row in rows], "more, smaller", ROWS)


def _shown(rows: Sequence[str], what: str, most: int) -> Iterator[str]:
    yield from rows[:most]
    if len(rows) > most:
        indent = len(rows[0]) - len(rows[0].lstrip())
        yield f"{' ' * indent}({len(rows) - most} {what})"


def _collective(r: Mapping[str, Any]) -> str:
    return f"{r['count']} {r['kind']} of {r['dtype']} over {r['axis']}, {gib(r['bytes'])}, {r['place']}{_in(r)}"


def _total(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    return f"{sum(r['count'] for r in rows)}, {gib(sum(r['bytes'] for r in rows))}"


def _loop(r: Mapping[str, Any]) -> str:
    turns = "unknown" if r["trips"] is None else f"{r['trips']}"
    inner = f", {_many(r['collectives'], 'collective')} in each turn" if r["collectives"] else ""
    nested = ", inside of another" if r["depth"] else ""
    return f"{turns} turns, entered {r['entered']} times{inner}{nested}, {r['place']}"


def _named(r: Mapping[str, Any]) -> str:
    return f"{r['count']} {r['what']} of {r['of']}, {r['place']}{_in(r)}"


def _relayout(r: Mapping[str, Any]) -> str:
    return f"{r['count']} of {r['of']}, {gib(r['bytes'])}, {r['place']}"


def _f32(r: Mapping[str, Any]) -> str:
    return f"{r['count']} at precision {r['precision']}, {flops.text(r['flops'])} ({r['share']:.1%}), {r['place']}"


def _in(r: Mapping[str, Any]) -> str:
    return f", in a {r['loop']}" if r["loop"] else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
