"""What every method must satisfy, whatever it is about. A registered method joins by its entry in `tiny.TINY`."""

from __future__ import annotations

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import hlo, hlo_counts, registry, session, sharding
from jaxvl.core import state as states
from jaxvl.core import step as step_module
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.loop import CompileCounter
from jaxvl.core.method import Aux
from jaxvl.verbs import aot
from tests.methods.tiny import MESHES, TINY, Tiny

ONE = {"data": 1, "fsdp": 1, "tensor": 1}


class Bench:
    """A tiny method on one device, its initial state and its gradient, computed once for all tests."""

    def __init__(self, tiny: Tiny):
        self.tiny = tiny

    def config(self, *overrides, mesh=ONE):
        config = configs.from_json(configs.to_json(self.tiny.config))
        config.mesh.update(mesh)
        return configs.apply(config, overrides)

    @functools.cached_property
    def compiled(self):
        """On one device, each update with its gradient beside the loss: a program of its own would compile for as long
        once more."""
        compiled = session.compile_method(self.config())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_module, "_gradient", beside_the_loss(step_module._gradient))
            for name, program in compiled.updates.items():
                program.compile(compiled.target, self.put(0, compiled.mesh, compiled.method.objectives[name].streams))
        return compiled

    @functools.cached_property
    def initial(self):
        return self.compiled.fresh_state()

    @functools.cached_property
    def on_host(self):
        """The initial state as numpy arrays, of which a copy needs no program."""
        return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), self.initial)

    def fresh(self, shardings=None):
        """A copy that may be donated."""
        copy = jax.tree.map(lambda x: jnp.copy(x) if is_key(x) else x, self.on_host)
        return jax.device_put(copy, shardings or self.compiled.shardings)

    def put(self, seed, mesh=None, streams=None):
        batch = self.tiny.batch(seed)
        return sharding.put_batch({s: batch[s] for s in streams or batch}, mesh or self.compiled.mesh)

    def streams(self, step):
        return self.compiled.method.objectives[self.compiled.method.objective_at(step)].streams

    def train(self, compiled, state, steps, first=0, seed=None, only=None):
        """`steps` updates; batch `seed` each time, or a new one every step. only: those of this objective."""
        losses = []
        for step in range(first, first + steps):
            name = compiled.method.objective_at(step)
            if only not in (None, name):
                continue
            batch = self.put(step if seed is None else seed, compiled.mesh, self.streams(step))
            state, scalars = compiled.updates[name](state, batch)
            losses.append(float(scalars["loss"]))
        assert int(state.bad_step) == -1
        return state, losses

    @functools.cache  # noqa: B019 (one bench a method, for the whole module)
    def gradient(self, objective):
        """`(loss, {path: gradient})` of the first update, with respect to all that it trains, before clipping."""
        batch = self.put(0, streams=self.compiled.method.objectives[objective].streams)
        _, scalars = self.compiled.updates[objective](self.fresh(), batch)
        return float(scalars["loss"]), flat(scalars["gradient"])

    def gradient_alone(self, objective, *overrides):
        """The same of the loss of another config."""
        method = session.build_method(self.config(*overrides))
        o, state = method.objectives[objective], self.initial
        batch = self.put(0, streams=o.streams)

        @jax.jit
        def run(params):
            rng = jax.random.fold_in(state.rng, state.step)
            with jax.default_matmul_precision("highest"):
                return jax.value_and_grad(lambda p: o.value(p, state.mutables, batch, rng, state.step)[0])(params)

        loss, grads = run(state.params)
        return float(loss), {k: np.asarray(v, np.float32) for k, v in states.flatten(grads).items()}

    @property
    def objectives(self):
        return list(self.compiled.method.objectives)


def beside_the_loss(gradient):
    """`step._gradient` with what it gives in the update's scalars, too."""

    def both(*args):
        (loss, aux), grads = gradient(*args)
        return (loss, Aux(aux.mutables, {**aux.scalars, "gradient": grads})), grads

    return both


@functools.cache
def bench_of(name):
    if name not in TINY:
        pytest.fail(f"method {name!r} is registered but tests/methods/tiny.py has no TINY[{name!r}]")
    return Bench(TINY[name]())


@pytest.fixture(params=registry.names())
def bench(request):
    return bench_of(request.param)


@pytest.fixture
def small_leaves_are_sharded(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_SIZE", 64)


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def flat(tree):
    return {k: np.asarray(v) for k, v in states.flatten(tree).items()}


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if is_key(a):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", sorted(set(registry.names()) | set(TINY)))
def test_every_registered_method_is_tested(name):
    assert name in TINY, f"{name} is registered: give it an entry in tests/methods/tiny.py"
    assert name in registry.names(), f"tests/methods/tiny.py has an entry {name!r} but no such method is registered"
    info = registry.info(name)
    assert all((info.title, info.paper, info.task, info.status))


def test_batch_has_the_shapes_that_the_method_declares(bench):
    batch = bench.tiny.batch(0)
    spec = bench.compiled.method.batch_spec
    assert {s: {k: (v.shape, v.dtype) for k, v in f.items()} for s, f in batch.items()} == {
        s: {k: (v.shape, np.dtype(v.dtype)) for k, v in f.items()} for s, f in spec.items()
    }


def test_initial_state_is_what_tracing_promised(bench):
    target, state = bench.compiled.target, bench.initial
    assert jax.tree.structure(target) == jax.tree.structure(state)
    for want, got in zip(jax.tree.leaves(target), jax.tree.leaves(state), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
    assert all(np.isfinite(v).all() for v in flat(state.params).values())
    assert {str(v.dtype) for v in flat(state.params).values()} == {"float32"}


def test_initial_values_do_not_depend_on_the_batch(bench):
    """The program that makes them takes no argument: what it was given as a batch is not read."""
    method = bench.compiled.method
    rng = jax.random.fold_in(jax.random.key(bench.tiny.config.seed), 0)
    text = jax.jit(lambda b: method.init(rng, b)["params"]).lower(bench.put(1)).as_text()
    assert "public @main()" in text


def products_of_terms(jaxpr, term=None):
    """`(term, precision, dtype)` of every matrix product inside of a loss term, and (term, None, None) of any other
    operation."""
    for eqn in jaxpr.eqns:
        named = re.search(r"loss/(\w+)", str(eqn.source_info.name_stack))
        own = named.group(1) if named else term
        if own:
            yield own, None, None
            if eqn.primitive.name == "dot_general":
                yield own, eqn.params["precision"], eqn.invars[0].aval.dtype
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products_of_terms(inner, own)


def test_terms_of_the_loss_are_named_and_their_products_are_true_float32(bench):
    """Traced with the default precision of products, at which a TPU takes one bfloat16 pass."""
    method, target, found = session.build_method(bench.config("precision.matmul=default")), bench.compiled.target, set()
    for objective in method.objectives.values():
        batch = {stream: method.batch_spec[stream] for stream in objective.streams}
        loss = lambda *args: objective.value(*args)[0]  # noqa: E731, B023
        traced = jax.make_jaxpr(loss)(target.params, target.mutables, batch, target.rng, target.step)
        found |= set(products_of_terms(traced.jaxpr))
    assert {term for term, *_ in found} == set(bench.tiny.terms)
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert {precision for _, precision, dtype in found if dtype == jnp.float32} <= {highest}


def test_loss_is_finite_and_reaches_exactly_what_is_trained(bench):
    method = bench.compiled.method
    for name in bench.objectives:
        loss, grads = bench.gradient(name)
        assert np.isfinite(loss)
        assert all(np.isfinite(g).all() for g in grads.values())
        noise = 1e-6 * np.sqrt(sum((g**2).sum() for g in grads.values()))
        dead = {k for k, g in grads.items() if np.abs(g).max() <= noise}
        assert set(grads) == {k for k in flat(bench.initial.params) if method.objectives[name].trains_path(k)}
        still = bench.tiny.vanishing(name)
        assert dead == ({k for k in grads if re.search(still, k)} if still else set()), f"objective {name!r}"


def test_an_update_moves_the_trained_parameters_and_nothing_else(bench):
    state, compiled = bench.fresh(), bench.compiled
    before = flat(bench.initial.params)
    update = compiled.method.objective_at(0)
    state, _ = bench.train(compiled, state, 1)
    moved = {k for k, v in flat(state.params).items() if not np.array_equal(v, before[k])}
    trained = {k for k in before if compiled.method.objectives[update].trains_path(k)}
    still = bench.tiny.vanishing(update)
    vanish = {k for k in trained if still and re.search(still, k)}
    assert moved - vanish == trained - vanish
    assert int(state.step) == 1


def test_each_objective_compiles_once(bench):
    counter, compiled = CompileCounter.install(), bench.compiled
    steps = 3 * len(bench.objectives)
    batches = [bench.put(i, compiled.mesh, bench.streams(i)) for i in range(steps)]
    state, seen = bench.fresh(), {}
    for step, batch in enumerate(batches):
        name = compiled.method.objective_at(step)
        before = counter.count
        state, _ = compiled.updates[name](state, batch)
        seen.setdefault(name, []).append(counter.count - before)
    assert all(sum(later) == 0 for _, *later in seen.values()), seen
    before = counter.count
    jax.jit(lambda x: x + 1)(state.step)
    assert counter.count == before + 1  # the counter counts


def test_one_batch_is_learned(bench):
    steps, bound = bench.tiny.overfit
    _, losses = bench.train(bench.compiled, bench.fresh(), steps, seed=0)
    assert losses[0] > bound
    assert losses[-1] < bound


@pytest.mark.parametrize(("name", "mesh"), [(name, mesh) for name in TINY for mesh in TINY[name]().meshes])
@pytest.mark.usefixtures("small_leaves_are_sharded")
def test_eight_devices_train_like_one(name, mesh):
    bench = bench_of(name)
    only = bench.tiny.only.get(mesh)
    one, losses = bench.train(bench.compiled, bench.fresh(), 5, only=only)
    compiled = session.compile_method(bench.config(mesh=MESHES[mesh]))
    if MESHES[mesh]["tensor"] > 1:  # over that axis sums are exchanged, of what each device made of its part: no weight
        assert exchanged_over_tensor(bench, compiled) == {"all-reduce"}
    state, sharded_losses = bench.train(compiled, bench.fresh(compiled.shardings), 5, only=only)
    leaves = jax.tree.leaves(state.params)
    assert all(len(x.sharding.device_set) == 8 for x in leaves)
    sharded = MESHES[mesh]["fsdp"] > 1 or MESHES[mesh]["tensor"] > 1
    assert any(not x.sharding.is_fully_replicated for x in leaves) == sharded
    np.testing.assert_allclose(sharded_losses, losses, rtol=1e-5)
    for (path, a), b in zip(flat(one.params).items(), flat(state.params).values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5, err_msg=path)


def exchanged_over_tensor(bench, compiled):
    """Kinds of collectives over the `tensor` axis in the first objective's update, which is compiled for the run."""
    name = bench.objectives[0]
    program, batch = compiled.updates[name], bench.put(0, compiled.mesh, compiled.method.objectives[name].streams)
    program.compile(compiled.target, batch)
    (executable,) = program.ready.values()
    text = hlo.parse(executable.as_text())
    return {c.kind for c in hlo_counts.collectives(text, dict(compiled.mesh.shape)) if c.axis == "tensor"}


def test_bfloat16_is_close_to_float32(bench):
    for name in bench.objectives:
        loss, grads = bench.gradient(name)
        low, rough = bench.gradient_alone(name, "precision.compute=bfloat16")
        assert low == pytest.approx(loss, rel=0.05)
        assert low != loss  # it was computed otherwise
        join = lambda g: np.concatenate([v.ravel() for _, v in sorted(g.items())])  # noqa: E731
        a, b = join(grads), join({k: rough[k] for k in grads})
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.9


def test_predict_gets_what_the_method_declares(bench):
    """Names, dtypes and axes; sizes are the config's, which the tiny batches need not have."""
    look = lambda fields: {name: (str(x.dtype), x.ndim) for name, x in fields.items()}  # noqa: E731
    given = [{stream: look(fields) for stream, fields in batch.items()} for batch in bench.tiny.predict(0)]
    declared = [{s: look(fields) for s, fields in batch.items()} for batch in bench.compiled.method.predict_spec]
    assert declared == given


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install 'jaxvl[aot]'"
)
def test_an_update_compiles_for_a_tpu_and_stays_in_place(bench):
    """Four devices that are not here; what the compiler makes is read to its last collective."""
    name = bench.objectives[0]
    found = aot.aot(bench.config(mesh={"data": -1, "fsdp": 1, "tensor": 1}), "v5e:2x2", objectives=[name], also="none")
    (update,) = found["programs"]
    assert found["fits"]
    assert update["donation"]["copied"] == 0
    # at tiny sizes XLA makes sums of some products, and what all devices compute alike counts four times at most
    assert 0.5 < update["flops"]["ratio"] <= 4
    assert {"all", "data"} & {c["axis"] for c in update["collectives"]}


def test_saved_and_restored_runs_are_the_same_bits(bench, tmp_path):
    state, _ = bench.train(bench.compiled, bench.fresh(), 2)
    checkpoints = Checkpoints(tmp_path, bench.compiled.config)
    checkpoints.save(state, {}, {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(bench.compiled.target)
    checkpoints.close()
    assert_same_bits(restored, state)
    ends = [bench.train(bench.compiled, s, 2, first=2) for s in (state, restored)]
    assert ends[0][1] == ends[1][1]
    assert_same_bits(ends[0][0], ends[1][0])


def test_accumulated_batches_and_frozen_parts(bench):
    """Plain gradient descent of rate 1 shows the gradient: two micro-batches give that of the whole batch, and
    what an objective does not train stays as it is, to the bit."""
    for variant in bench.tiny.variants or ((),):
        for name in bench.objectives:
            _, grads = bench.gradient(name)
            base = bench.config(*variant)
            opt = base.optim[session.build_method(base).objectives[name].optimizer]
            opt.update(configs.optimizer(name="sgd", lr=1.0, schedule="constant", momentum=0.0))
            opt.update({name: neutral for name, neutral in configs.RARE.items() if name in opt})
            base.train.update({"clip_norm": 0.0, "accumulate": 2})
            if not all(o.loss is None or o.per_example for o in session.build_method(base).objectives.values()):
                with pytest.raises(InputError, match="accumulate"):
                    session.compile_method(base)
                if not variant:  # refused in words; the frozen parts are shown by the update that is there
                    assert_only_trained_parts_move(bench, name)
                    continue
                base.train.accumulate = 1
            compiled = session.compile_method(base)
            objective = compiled.method.objectives[name]
            paths = [k for k in grads if objective.trains_path(k)]
            if variant:
                assert 0 < len(paths) < len(grads)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), compiled.target.opt_state)
            state = bench.fresh().replace(opt_state=zeros)
            before = flat(bench.initial.params)
            wanted = {k: v - grads[k] if k in paths else v for k, v in before.items()}
            wanted = compiled.method.after_update(state.replace(params=states.merge(wanted))).params
            state, _ = compiled.updates[name](state, bench.put(0, streams=objective.streams))
            for path, value in flat(wanted).items():
                got = flat(state.params)[path]
                if path in paths:
                    # rounding of a sum is relative to its largest terms, so to the leaf's largest gradient
                    rounding = max(2e-6, 1e-5 * np.abs(grads[path]).max())
                    np.testing.assert_allclose(got, value, rtol=1e-5, atol=rounding, err_msg=path)
                else:
                    np.testing.assert_array_equal(got, before[path], err_msg=path)


def assert_only_trained_parts_move(bench, name):
    """An update moves what has a gradient and is trained, and leaves all else as it is, to the bit."""
    objective = bench.compiled.method.objectives[name]
    state, _ = bench.compiled.updates[name](bench.fresh(), bench.put(0, streams=objective.streams))
    still, before = bench.tiny.vanishing(name), flat(bench.initial.params)
    for path, value in flat(state.params).items():
        if not objective.trains_path(path):
            np.testing.assert_array_equal(value, before[path], err_msg=path)
        elif not (still and re.search(still, path)):
            assert not np.array_equal(value, before[path]), path


def test_predictions_are_finite_and_each_row_is_its_own(bench):
    compiled = bench.compiled
    variables = bench.initial.variables()
    for batch in bench.tiny.predict(0):
        rows = len(jax.tree.leaves(batch)[0])
        order = np.random.default_rng(0).permutation(rows)
        run = lambda b: jax.device_get(compiled.predict(variables, sharding.put_batch(b, compiled.mesh)))  # noqa: E731
        plain, mixed = run(batch), run(jax.tree.map(lambda x: x[order], batch))  # noqa: B023
        assert plain
        for key, value in plain.items():
            assert np.isfinite(value).all(), key
            np.testing.assert_allclose(mixed[key], value[order], rtol=1e-5, atol=1e-5, err_msg=key)
