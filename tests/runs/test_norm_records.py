"""The record of batch normalisation's running statistics, against numpy and the checkpoint."""
import json

import numpy as np

import modern_cnn
from modern_cnn.runs import loop
from modern_cnn.runs.log import Log, read_norms


def test_a_run_records_percentiles_of_the_statistics_it_had(config, tmp_path):
    config.model.name = "lenet_relu_bn"
    del config.model.hidden_sizes
    config.data.image_size = 14
    config.max_steps = 3
    config.log_every_steps = 1
    config.log_norms = True
    loop.train_and_evaluate(config, tmp_path / "run")
    records = read_norms(tmp_path / "run")
    assert [record["step"] for record in records] == [1, 2, 3]
    statistics = modern_cnn.load(tmp_path / "run")[1]["batch_stats"]
    assert set(records[-1]["mean"]) == set(statistics)
    for name, layer in statistics.items():
        np.testing.assert_allclose(records[-1]["mean"][name], np.percentile(layer["mean"], (15, 50, 85)), atol=1e-6)
        np.testing.assert_allclose(records[-1]["deviation"][name],
                                   np.percentile(np.sqrt(layer["var"]), (15, 50, 85)), atol=1e-6)
    assert records[0]["mean"] != records[1]["mean"]


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    statistics = {"block1": {"norm1": {"mean": np.arange(3.0), "var": np.ones(3)}}}
    log = Log(tmp_path, 0)
    assert not (tmp_path / "norms.jsonl").exists()
    for step in (1, 2, 3):
        log.write_norms(step, step / 3, statistics)
    log.close()
    with open(tmp_path / "norms.jsonl", "a") as file:
        file.write('{"step": 4, "epo')  # cut by a kill
    log = Log(tmp_path, 2)
    log.write_norms(3, 1, statistics)
    log.close()
    records = [json.loads(line) for line in (tmp_path / "norms.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[0]["mean"] == {"block1/norm1": [0.3, 1.0, 1.7]}
    assert [{name: record[name] for name in record if name != "crc"} for record in records] == read_norms(tmp_path)
