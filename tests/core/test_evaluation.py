"""A pass over a split keeps the device busy."""

import numpy as np

from jaxvl.core import evaluation, sharding

ONE = {"data": 1, "fsdp": 1, "tensor": 1}


def test_outputs_are_fetched_behind_the_batches_that_were_sent(monkeypatch):
    """Five batches of two, nine examples: a later batch is on its way before an earlier one is waited for."""
    mesh, said = sharding.make_mesh(ONE), []

    def read(rows):
        for i in range(5):
            ids = [f"{2 * i + r}" for r in rows]
            yield {"x": np.float32([2 * i, 2 * i + 1]), "_id": ids, "_valid": np.array([True, i < 4])}

    def predict(variables, batch):
        (x,) = batch["s"].values()
        said.append(("sent", int(x[0]) // 2))
        return {"y": 10 * x}

    def fetch(out):
        said.append(("fetched", int(out["y"][0]) // 20))
        return {k: np.asarray(v) for k, v in out.items()}

    monkeypatch.setattr(evaluation, "to_host", fetch)
    pairs = evaluation._outputs(predict, {}, "s", (read, 9, 2), mesh, "test", {})
    assert np.concatenate([out["y"] for out, _ in pairs]).tolist() == [10.0 * i for i in range(9)]
    assert [i for _, fields in pairs for i in fields["_id"]] == [f"{i}" for i in range(9)]
    order = [said.index(("fetched", i)) for i in range(5)]
    assert order == sorted(order)
    for i in range(3):
        assert said.index(("sent", i + evaluation.IN_FLIGHT)) < said.index(("fetched", i))
