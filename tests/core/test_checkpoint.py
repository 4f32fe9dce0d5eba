import gc
import itertools
import time

import jax
import numpy as np
import pytest

from jaxvl.core import checkpoint, session, sharding, storage
from jaxvl.core.errors import InputError
from tests import toys


@pytest.fixture(scope="module")
def trained():
    """Three states of one run, after 1, 2 and 3 updates, with their compiled pieces."""
    config = toys.toy_config(ema=0.9)
    compiled = session.compile_method(config, toys.contrastive())
    state, states = compiled.fresh_state(), []
    for batch in toys.host_batches(3):
        state, _ = compiled.updates["pair"](state, {"train": sharding.put_batch(batch["train"], compiled.mesh)})
        states.append(jax.tree.map(lambda x: x.copy(), state))
    return config, compiled, states


def save_all(path, config, states, metrics=None):
    checkpoints = checkpoint.Checkpoints(path, config)
    for i, state in enumerate(states):
        assert checkpoints.save(state, {"train": 16 * (i + 1)}, {"config": "x"}, metrics[i] if metrics else None)
    checkpoints.close()


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def biggest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_round_trip_is_exact_and_keeps_the_last(trained, tmp_path):
    config, compiled, states = trained
    save_all(tmp_path, config, states)
    checkpoints = checkpoint.Checkpoints(tmp_path, config)
    assert checkpoints.steps() == [2, 3]
    state, meta = checkpoints.restore(compiled.target)
    equal(state, states[2])
    assert meta["positions"] == {"train": 48}
    assert sorted(p.stem for p in (tmp_path / "integrity").glob("*.json")) == ["2", "3"]
    assert not checkpoints.save(state, {}, {})  # this step is on disk already
    checkpoints.close()


def test_a_folder_is_looked_up_once_for_all_its_arrays(trained, tmp_path):
    """What TensorStore says of it would stay in memory, each time."""
    config, _, states = trained
    save_all(tmp_path / "a", config, states[:1])
    looked_up = checkpoint.tensorstore_utils._build_ocdbt_kvstore_tspec
    once, before = looked_up.once, looked_up.once.cache_info()
    save_all(tmp_path / "b", config, states[:1])
    after = once.cache_info()
    assert after.misses - before.misses < after.hits - before.hits  # nine folders, and seventeen arrays more
    for name in ("params.kernel", None):
        assert looked_up(str(tmp_path), name) == once.__wrapped__(str(tmp_path), name)


def test_a_save_leaves_nothing_in_memory(trained, tmp_path):
    """What TensorStore counts is asked for by nobody: each answer would stay for ever, 48 lists a save."""

    def left():
        gc.collect()
        lists = (x for x in gc.get_objects() if type(x) is list and len(x) == 1 and type(x[0]) is dict)
        return sum("value" in x[0] for x in lists)

    config, _, states = trained
    save_all(tmp_path / "a", config, states[:1])
    gc.collect()
    gc.freeze()  # what other tests of this process have left is not looked at
    try:
        before = left()
        save_all(tmp_path / "b", config, states)
        assert left() == before
    finally:
        gc.unfreeze()


def test_a_clock_that_jumps_by_weeks_does_not_end_a_save(trained, tmp_path, monkeypatch):
    config, compiled, states = trained
    now, weeks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + next(weeks) * 7 * 24 * 3600)
    save_all(tmp_path, config, states[:1])
    checkpoints = checkpoint.Checkpoints(tmp_path, config)
    equal(checkpoints.restore(compiled.target)[0], states[0])
    checkpoints.close()


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (
            TimeoutError("Timed out after 9 seconds."),
            "Timed out after 9 seconds.); look whether its disk still answers",
        ),
        (ValueError("OS error 28: No space left on device [x]"), "No space left on device); free space there"),
        (OSError(30, "Read-only file system"), "Read-only file system); make it writable"),
    ],
)
def test_a_save_that_fails_says_what_happened_and_where(trained, tmp_path, monkeypatch, raised, says):
    config, _, states = trained
    checkpoints = checkpoint.Checkpoints(tmp_path, config)

    def fails():
        raise raised

    assert checkpoints.save(states[0], {}, {})
    checkpoints.wait()
    assert checkpoints.save(states[1], {}, {})
    monkeypatch.setattr(checkpoints._manager, "check_for_errors", fails)
    with pytest.raises(InputError) as line:
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.close()
    assert f"cannot be written to {tmp_path / 'checkpoints'} ({says} and give the same command again" in str(line.value)
    assert "which goes on from step 1" in str(line.value)


def test_best_is_kept_beside_the_last(trained, tmp_path):
    config, _, states = trained
    config = config.copy_and_resolve_references()
    config.checkpoint.update({"best_metric": "r1", "keep_last": 1})
    save_all(tmp_path, config, states, [{"r1": 5.0}, {"r1": 3.0}, {"r1": 4.0}])
    checkpoints = checkpoint.Checkpoints(tmp_path, config)
    assert checkpoints.steps() == [1, 3]
    assert checkpoints.best_step() == 1
    checkpoints.close()


@pytest.mark.parametrize(("mode", "values"), [("max", (5.0, 5.0, 4.0)), ("min", (3.0, 3.0, 4.0))])
def test_of_equally_good_steps_the_later_is_the_best(trained, tmp_path, mode, values):
    """The published selection, `best <= new`."""
    config, _, states = trained
    config = config.copy_and_resolve_references()
    config.checkpoint.update({"best_metric": "r1", "best_mode": mode, "keep_last": 1})
    save_all(tmp_path / "kept", config, states, [{"r1": v} for v in values])
    config.checkpoint.keep_last = 3  # all are there to choose from, also when they are read back
    save_all(tmp_path / "all", config, states, [{"r1": v} for v in values])
    for folder, steps in (("kept", [2, 3]), ("all", [1, 2, 3])):
        checkpoints = checkpoint.Checkpoints(tmp_path / folder, config)
        assert checkpoints.steps() == steps
        assert checkpoints.best_step() == 2
        checkpoints.close()


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "half", "unlisted", "list", "shape", "shorter list"])
def test_damage_falls_back_with_a_line(trained, tmp_path, damage):
    config, compiled, states = trained
    save_all(tmp_path, config, states)
    file = biggest(tmp_path / "checkpoints" / "3")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "unlisted":  # the copy of the list inside of the step tells
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        (tmp_path / "integrity" / "3.json").unlink()
    elif damage == "list":
        (tmp_path / "integrity" / "3.json").write_bytes(b"\xff[")
    elif damage == "shape":
        (tmp_path / "integrity" / "3.json").write_text('{"params/_METADATA": [1, "x"]}')
    elif damage == "shorter list":  # what is not listed is not trusted
        (tmp_path / "integrity" / "3.json").write_text("{}")
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "delete":
        file.unlink()
    else:  # killed while it was written, before its checksum list
        file.write_bytes(content[: len(content) // 3])
        (tmp_path / "integrity" / "3.json").unlink()
        (tmp_path / "checkpoints" / "3" / "checksums.json").unlink()
    lines = []
    checkpoints = checkpoint.Checkpoints(tmp_path, config, lines.append)
    state, _ = checkpoints.restore(compiled.target)
    equal(state, states[1])
    assert any(line.startswith("checkpoint 3: damaged") and "the one before" in line for line in lines)
    # the damaged step is set aside, not lost, and its number is free again
    checkpoints.set_aside_after(2)
    assert (tmp_path / "damaged" / "3").is_dir()
    assert checkpoints.save(states[2], {"train": 48}, {"config": "x"})
    checkpoints.close()
    assert checkpoint.check_list(storage.Disk(tmp_path), "checkpoints/3", "integrity/3.json") is None


def test_unlisted_but_whole_step_is_used(trained, tmp_path):
    config, compiled, states = trained
    save_all(tmp_path, config, states)
    (tmp_path / "integrity" / "3.json").unlink()
    (tmp_path / "checkpoints" / "3" / "checksums.json").unlink()
    lines = []
    checkpoints = checkpoint.Checkpoints(tmp_path, config, lines.append)
    state, _ = checkpoints.restore(compiled.target)
    checkpoints.close()
    equal(state, states[2])
    assert lines == ["checkpoint 3: has no checksum list (killed while it was written); used unverified"]


def test_all_damaged_is_an_error_and_none_is_none(trained, tmp_path):
    config, compiled, states = trained
    checkpoints = checkpoint.Checkpoints(tmp_path / "empty", config)
    assert checkpoints.restore(compiled.target) is None
    checkpoints.close()
    save_all(tmp_path / "full", config, states)
    for step in (2, 3):
        biggest(tmp_path / "full" / "checkpoints" / str(step)).unlink()
    checkpoints = checkpoint.Checkpoints(tmp_path / "full", config, lambda line: None)
    with pytest.raises(InputError, match=r"every usable checkpoint .* is damaged; start again with --fresh"):
        checkpoints.restore(compiled.target)
    with pytest.raises(InputError, match=r"--checkpoint 7: not in"):
        checkpoints.restore(compiled.target, step=7)
    checkpoints.close()


@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 1}, {"data": 1, "fsdp": 8}])
def test_another_mesh_restores_every_leaf(trained, tmp_path, mesh):
    config, _, states = trained
    save_all(tmp_path, config, states)
    other = config.copy_and_resolve_references()
    other.mesh.update(mesh)
    compiled = session.compile_method(other, toys.contrastive())
    checkpoints = checkpoint.Checkpoints(tmp_path, other)
    state, _ = checkpoints.restore(compiled.target)
    checkpoints.close()
    equal(state, states[2])
    assert state.params["left"]["kernel"].sharding.is_equivalent_to(compiled.shardings.params["left"]["kernel"], 2)


def test_only_parameters_can_be_read(trained, tmp_path):
    config, compiled, states = trained
    save_all(tmp_path, config, states)
    checkpoints = checkpoint.Checkpoints(tmp_path, config)
    items, meta = checkpoints.restore_variables({"ema": compiled.target.ema})
    checkpoints.close()
    equal(items["ema"], states[2].ema)
    assert meta["step"] == 3


def test_a_reader_leaves_the_step_alone_that_a_trainer_is_writing(trained, tmp_path):
    config, compiled, states = trained
    save_all(tmp_path, config, states[:1])
    (tmp_path / "integrity" / "1.json").unlink()
    writing = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "params"
    writing.mkdir(parents=True)
    (writing / "data").write_bytes(b"half")
    before = sorted(p for p in tmp_path.rglob("*"))
    reader = checkpoint.Checkpoints(tmp_path, config, lambda line: None, read_only=True)
    equal(reader.restore_variables({"params": compiled.target.params})[0]["params"], states[0].params)
    reader.close()
    assert sorted(p for p in tmp_path.rglob("*")) == before
    nowhere = checkpoint.Checkpoints(tmp_path / "nowhere", config, read_only=True)
    assert nowhere.restore_variables({"params": compiled.target.params}) is None
    nowhere.close()
    assert not (tmp_path / "nowhere").exists()
