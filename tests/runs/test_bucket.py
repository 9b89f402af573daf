"""Runs and data in a bucket: of Google's by a server of these tests, of Amazon's by moto's."""
import contextlib
import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import modern_cnn
from modern_cnn import buckets
from modern_cnn.buckets import Bucket
from modern_cnn.data import sources
from modern_cnn.errors import UserError, parse_json
from modern_cnn.runs import lease, load, loop, mirror, record
from modern_cnn.runs.lease import Lease, LostLease
from modern_cnn.settings import Data
from tests.data import files
from tests.forked import run_script
from tests.runs import gcs as fake
from tests.runs.processes import ROOT, TRAIN, end, final_bits, finish, history, wait

SECONDS = {"LEASE_SECONDS": 3.0, "RENEW_SECONDS": 0.5}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leases of three seconds, patience with the store, no credentials of the user's, no metadata server."""
    for name, value in SECONDS.items():
        monkeypatch.setattr(lease, name, value)
    monkeypatch.setattr(mirror, "SYNC_SECONDS", 0.1)
    monkeypatch.setattr(buckets, "REACH_SECONDS", 60.0)  # a busy machine may need long
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")


@pytest.fixture
def gcs(monkeypatch):
    """The server; gs://bucket is in it."""
    server = fake.Server()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def moto():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(params=["gs", "s3"])
def url(request, monkeypatch):
    """An empty folder of a bucket of each kind."""
    if request.param == "gs":
        request.getfixturevalue("gcs")
        return "gs://bucket/runs/mine"
    environment = {"AWS_ENDPOINT_URL": request.getfixturevalue("moto"), "AWS_ACCESS_KEY_ID": "key",
                   "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    import s3fs

    bucket = f"bucket-{next(NUMBERS)}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/runs/mine"


NUMBERS = itertools.count()


def _run(*script):
    record.draw_curves = lambda *args: None
    for name, value in SECONDS.items():
        setattr(lease, name, value)
    mirror.SYNC_SECONDS, buckets.REACH_SECONDS = 0.1, 60.0
    run_script(*script)


def _run_patiently(*script):
    """Run a script that trains on only when the bucket has the checkpoint that was just saved, however fast it is."""
    mirrors, made, save = [], mirror.Mirror.__init__, record.Record.save

    def make(self, *args):
        made(self, *args)
        mirrors.append(self)

    def patient(self, step, *args):
        save(self, step, *args)
        end = time.monotonic() + 60
        while not mirrors[0]._sent.get(f"checkpoints/{step}") and time.monotonic() < end:
            time.sleep(0.05)

    mirror.Mirror.__init__, record.Record.save = make, patient
    _run(*script)


def begin(server, tmp_path, url, *flags, command=TRAIN, run=_run):
    """Start a run in a process and a folder of its own."""
    folder = tempfile.mkdtemp(dir=tmp_path)
    names = ("MODERN_CNN_", "AWS_", "STORAGE_", "NO_GCE", "HOME")
    environment = {name: value for name, value in os.environ.items() if name.startswith(names)}
    process = server.Process(target=run, args=([*command, f"--workdir={url}", *flags], folder, environment))
    process.start()
    process.folder = Path(folder)
    return process


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """The workdir of a run that nothing stopped, on this machine."""
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    finish(server, workdir)
    return workdir


def upload(url, directory):
    bucket = Bucket(url)
    for path in directory.rglob("*"):
        if path.is_file():
            bucket.write(path.relative_to(directory).as_posix(), path.read_bytes())
    return bucket


# Runs that are killed

@pytest.mark.parametrize("url", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_killed_run_goes_on_elsewhere_with_the_same_bits(server, url, request, trained, tmp_path):
    """Killed while the checkpoint of step 8 is on its way, or some are; resumed in another folder."""
    process = begin(server, tmp_path, url, run=_run_patiently)
    bucket = Bucket(url)
    if url.startswith("gs"):
        request.getfixturevalue("gcs").before = lambda method, name: (
            method == "POST" and "checkpoints/8/training/d/" in name and os.kill(process.pid, signal.SIGKILL))
    else:
        wait(process.is_alive, lambda: any(name.startswith("checkpoints/") for name in bucket.list()))
        process.kill()
    code, _, err = end(process)
    assert code == -signal.SIGKILL, err
    if url.startswith("gs"):
        request.getfixturevalue("gcs").before = lambda method, name: None
        assert {f"checkpoints/8/{mirror.COMPLETE}", f"checkpoints/4/{mirror.COMPLETE}"} & bucket.list().keys() == {
            f"checkpoints/4/{mirror.COMPLETE}"}
    second = begin(server, tmp_path, url)
    code, out, err = end(second)
    assert code == 0, err
    assert "waiting up to 3 s for a sign of life" in out
    assert "resuming from step 4" in out or url.startswith("s3")
    assert err == ""
    assert "/modern_cnn-" not in out  # the address is named, not the folder behind it
    directory = tmp_path / "copy"
    bucket.download(bucket.list(), directory)
    assert final_bits(directory) == final_bits(trained)
    assert history(directory) == history(trained)
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {
        path.name for path in (trained / "checkpoints").iterdir()}
    assert (directory / "tensorboard").is_dir()


def test_a_second_process_is_refused_and_a_holder_that_slept_too_long_stops(server, gcs, tmp_path, monkeypatch):
    """Nothing that it wrote after it woke up is in the bucket, except files that make no checkpoint.

    They were on their way. The second process deletes such files, and writes the list of checkpoints.
    """
    def written():
        objects = {name.removeprefix("runs/mine/"): each for name, each in gcs.buckets["bucket"].items()}
        complete = set(mirror._needed(objects))
        return {name: each for name, each in objects.items() if name != mirror.LIST and "lease" not in name
                and (name in complete or not mirror._checkpoint(name))}

    url = "gs://bucket/runs/mine"
    first = begin(server, tmp_path, url, "--config.epochs=1000")
    wait(first.is_alive, lambda: "metrics.jsonl" in Bucket(url).list())
    monkeypatch.setattr(lease, "LEASE_SECONDS", 60.0)  # a busy machine may need long for a sign of life
    with pytest.raises(UserError, match=rf"another process \(pid {first.pid} on .*\) is training in {url}; wait"):
        Lease(Bucket(url)).take()
    monkeypatch.setattr(lease, "LEASE_SECONDS", SECONDS["LEASE_SECONDS"])
    os.kill(first.pid, signal.SIGSTOP)
    with mirror.opened(url, Data("digits")) as place:
        assert (place.directory / "metrics.jsonl").exists()
        before = written()
        os.kill(first.pid, signal.SIGCONT)
        code, _, err = end(first)
    assert code == 1
    assert re.fullmatch(rf"error: {url} was taken over by another process \(pid {os.getpid()} on .*\), as this one had "
                        "given no sign of life for 3 s: it stops and writes nothing more there\n", err)
    assert before == written()
    Lease(Bucket(url)).take()  # the second has given it back: nobody waits


# The lease

def held(bucket, **content):
    """Put a lease of somebody else there."""
    bucket.write("lease/000007.json", json.dumps({"host": "far", "pid": 5, "id": "x", **content}).encode())


def test_an_object_is_created_once(url):
    bucket = Bucket(url)
    assert bucket.create("lease/000001.json", b"mine")
    assert not bucket.create("lease/000001.json", b"another's")
    assert bucket.create("lease/000001.json", b"mine")  # a second try, as the answer to the first was lost
    assert bucket.read("lease/000001.json") == b"mine"


def test_one_of_several_that_start_at_the_same_moment_gets_the_lease(url, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 60.0)  # a busy machine may need long for a sign of life
    start, outcomes = threading.Barrier(4), []

    def take():
        own = Lease(Bucket(url))
        start.wait()
        try:
            own.take()
            outcomes.append(own)
        except UserError as e:
            outcomes.append(str(e))

    threads = [threading.Thread(target=take) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    winners = [own for own in outcomes if isinstance(own, Lease)]
    assert len(winners) == 1, outcomes
    assert all(f"another process (pid {os.getpid()} on {socket.gethostname()}) is training" in each
               for each in outcomes if isinstance(each, str))
    winners[0].check()
    winners[0].end()


def test_where_the_store_ignores_the_condition_the_last_one_has_it(gcs, monkeypatch):
    monkeypatch.setattr(Bucket, "create", lambda self, name, content: self.write(name, content) or True)
    first, second = Lease(Bucket("gs://bucket/run")), Lease(Bucket("gs://bucket/run"))
    first.take()
    monkeypatch.setattr(second, "_newest", lambda: (0, {}))  # it had looked before
    second.take()
    with pytest.raises(LostLease, match="taken over"):
        first._renew()


def test_a_lease_ends_when_nothing_renews_it(url, caplog):
    bucket, own = Bucket(url), Lease(Bucket(url))
    held(bucket)
    with caplog.at_level(logging.INFO, "modern_cnn"):
        own.take()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("modern_cnn")] == [
        f"{url} was left by pid 5 on far without notice, or is in use: waiting up to 3 s for a sign of life",
        f"the lease of pid 5 on far on {url} has ended: going on from there"]
    assert list(bucket.list()) == ["lease/000008.json"]
    own.end()
    assert json.loads(bucket.read("lease/000008.json"))["ended"]


def test_the_lease_of_a_run_that_ended_is_free_at_once(gcs, monkeypatch):
    bucket = Bucket("gs://bucket/run")
    held(bucket, ended=True)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: pytest.fail("it waits"))
    Lease(bucket).take()


def test_a_lease_is_looked_up_before_a_write_where_it_was_not_renewed(gcs, monkeypatch):
    bucket = Bucket("gs://bucket/run")
    monkeypatch.setattr(lease, "RENEW_SECONDS", 1000.0)
    own = Lease(bucket)
    own.take()
    held(bucket)
    own.check()  # it is fresh
    own._renewed -= 2.0
    with pytest.raises(LostLease, match=r"taken over by another process \(pid 5 on far\)"):
        own.check()
    own.end()
    assert b"ended" not in bucket.read("lease/000007.json")


# What the bucket holds at each moment

def write_step(directory, step, content="x"):
    for name in (mirror.COMPLETE, "variables/d/a", "training/d/b"):
        path = directory / "checkpoints" / str(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_whatever_moment_a_kill_comes_the_bucket_holds_a_run_that_goes_on(gcs, tmp_path):
    url, moments = "gs://bucket/run", []
    (directory := tmp_path / "run").mkdir()
    own = Lease(Bucket(url))
    own.take()
    mine = mirror.Mirror(Bucket(url), directory, own)
    gcs.before = lambda method, name: method in ("POST", "DELETE") and moments.append(
        {key.removeprefix("run/"): content.decode() for key, (_, content) in gcs.buckets["bucket"].items()})
    for step in (4, 8, 12):
        (directory / "metrics.jsonl").write_text(str(step))
        write_step(directory, step)
        if step == 12:
            shutil.rmtree(directory / "checkpoints/4")
        mine.send()
    (directory / "checkpoints/16.orbax-checkpoint-tmp").mkdir()
    (directory / "checkpoints/16.orbax-checkpoint-tmp/a").write_text("half")
    shutil.rmtree(directory / "checkpoints/12")
    write_step(directory, 12, "another one, of the same step")
    mine.send()
    own.end()
    moments.append({key.removeprefix("run/"): content.decode() for key, (_, content) in gcs.buckets["bucket"].items()})
    assert len(moments) > 20
    newest: list[int] = []
    for moment in moments:
        names = [name for name in mirror._needed(moment) if name.startswith("checkpoints/")]
        steps = {int(name.split("/")[1]) for name in names}
        newest.append(max(steps, default=0))
        assert len(names) == 3 * len(steps)
        assert max(steps, default=0) <= int(moment.get("metrics.jsonl", 0))
        listed = set(parse_json(moment.get("checkpoints.json", '{"steps": []}'))["steps"])
        assert listed <= steps or steps == {8}  # 12 is sent anew
    assert [step for step, _ in itertools.groupby(newest)] == [0, 4, 8, 12, 8, 12]
    assert {name for name in moments[-1] if name.startswith("checkpoints/")} == {
        f"checkpoints/{step}/{name}" for step in (8, 12) for name in (mirror.COMPLETE, "variables/d/a", "training/d/b")}
    assert listed == {8, 12}
    assert moments[-1]["checkpoints/12/training/d/b"].startswith("another")


def test_what_a_process_sends_that_slept_too_long_harms_no_checkpoint(url, tmp_path):
    """Before its successor sends a checkpoint of the same step it is replaced; after it, refused."""
    bucket, late = Bucket(url), tmp_path / "late"
    late.write_text("late")
    with mirror.opened(url, Data("digits")) as place:
        bucket.upload({"checkpoints/8/training/d/b": late, "checkpoints/8/training/d/c": late})
        write_step(place.directory, 8)
    names = {f"checkpoints/8/{name}" for name in (mirror.COMPLETE, "variables/d/a", "training/d/b")}
    assert {name for name in bucket.list() if name.startswith("checkpoints/")} == names
    with pytest.raises(FileExistsError):
        bucket.upload({"checkpoints/8/training/d/b": late})
    assert {bucket.read(name) for name in names} == {b"x"}


def test_an_empty_folder_deletes_no_checkpoint(gcs, tmp_path):
    """Something else has emptied the temporary folder: that is not what a run does."""
    bucket = Bucket("gs://bucket/run")
    for name in (mirror.COMPLETE, "a"):
        bucket.write(f"checkpoints/4/{name}", b"x")
    bucket.write("checkpoints/8/a", b"half of one")
    with mirror.opened("gs://bucket/run", Data("digits")) as place:
        assert sorted(path.name for path in place.directory.rglob("*") if path.is_file()) == [mirror.COMPLETE, "a"]
        shutil.rmtree(place.directory / "checkpoints")
    assert {name for name in bucket.list() if "lease" not in name} == {f"checkpoints/4/{mirror.COMPLETE}",
                                                                      "checkpoints/4/a"}
    assert not place.directory.exists()


def test_what_cannot_be_sent_is_kept(gcs, monkeypatch, caplog):
    """The bucket answers no more: the run goes on, and its files stay on this machine."""
    closing = contextlib.ExitStack()
    directory = closing.enter_context(mirror.opened("gs://bucket/run", Data("digits"))).directory
    gcs.down = True
    (directory / "metrics.jsonl").write_text("{}")
    wait(lambda: True, lambda: "trying again" in caplog.text)
    gcs.down = False
    wait(lambda: True, lambda: "run/metrics.jsonl" in gcs.buckets["bucket"])
    gcs.down = True
    (directory / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"the bucket is closed.*what could not be sent is in {directory}"):
        closing.close()
    assert caplog.text.count("trying again") == 1
    assert (directory / "config.json").exists()
    shutil.rmtree(directory)


# Reading

@pytest.mark.parametrize("url", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_run_in_a_bucket_is_read_as_one_on_this_machine(url, trained, tmp_path, config):
    bucket = upload(url, trained)
    bucket.write("checkpoints/99/half", b"a kill came")
    module, variables = modern_cnn.load(url)
    other, wanted = modern_cnn.load(trained)
    assert module == other
    assert all(np.array_equal(a, b) for a, b in zip(*map(leaves, (variables, wanted)), strict=True))
    assert load.evaluate_workdir(url) == load.evaluate_workdir(trained)
    assert np.array_equal(load.predict_split(Path(url)).logits, load.predict_split(trained).logits)
    assert np.array_equal(modern_cnn.data.load("digits", like=url)[0], modern_cnn.data.load("digits", like=trained)[0])
    copy = mirror.local(url)
    assert copy == mirror.local(Path(url))
    assert not (copy / "tensorboard").exists()
    bucket.write("metrics.jsonl", b"")  # a newer state
    assert mirror.local(url) != copy


def leaves(tree):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_scripts_read_a_run_in_a_bucket(server, gcs, trained, tmp_path):
    """A picture goes into the folder where the script runs, named after the run."""
    upload("gs://bucket/runs/mine", trained)
    drawing = begin(server, tmp_path, "gs://bucket/runs/mine/", "--what=filters",
                    command=[str(ROOT / "scripts/visualize.py")])
    code, out, err = end(drawing)
    assert code == 0, err
    assert out.splitlines()[-1] == "mine-filters.png"
    assert (drawing.folder / "mine-filters.png").exists()


# Data

def write(url, directory):
    upload(url, directory)
    return url


def test_data_in_a_bucket_are_those_of_a_folder(url, tmp_path):
    files.write_idx(tmp_path / "mnist")
    write(f"{url}/mnist", tmp_path / "mnist")
    Bucket(f"{url}/mnist").write("", b"")  # a folder's own object, as consoles make it
    here, there = (sources.load(Data(f"idx:{place}")) for place in (tmp_path / "mnist", f"{url}/mnist"))
    assert here.spec.digest == there.spec.digest
    assert there.spec.source == f"idx:{url}/mnist"
    copy = buckets.copied(f"{url}/mnist")
    assert copy.name == "mnist"
    files.write_idx(tmp_path / "mnist", train_labels=files.labels(20)[::-1])
    write(f"{url}/mnist", tmp_path / "mnist")
    assert buckets.copied(f"{url}/mnist") != copy
    assert sources.load(Data(f"idx:{url}/mnist")).spec.digest != here.spec.digest


def test_a_stream_and_a_table_from_a_bucket(gcs, tmp_path):
    source = files.write_digits(tmp_path / "digits", 40)
    folder = Path(source.partition(":")[2])
    write("gs://bucket/data/digits", folder)
    fields = {"stream": True, "image_size": 8}
    here, there = (sources.load(Data(place, **fields)) for place in (source, "folder:gs://bucket/data/digits"))
    assert (here.spec.digest, here.spec.sizes) == (there.spec.digest, there.spec.sizes)
    images = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    table = "\n".join(["path,label", *(f"{name},{name.split('/')[-2]}" for name in images)])
    Bucket("gs://bucket/data/digits").write("table.csv", table.encode())
    assert sources.load(Data("csv:gs://bucket/data/digits/table.csv", **fields)).spec.num_classes == 10
    with pytest.raises(UserError, match=r"there is no file gs://bucket/data/digits/none.csv"):
        sources.load(Data("csv:gs://bucket/data/digits/none.csv", **fields))


def test_a_workdir_in_the_folder_of_the_data_is_refused(config):
    config.data.source = "folder:gs://bucket/data"
    with pytest.raises(UserError, match="lies in the folder of the data"):
        loop.train_and_evaluate(config, "gs://bucket/data/runs/mine")
    with pytest.raises(UserError, match="lies in the folder of the data"):
        modern_cnn.train(config, "gs://bucket/data/runs/mine")


# What cannot be

@pytest.mark.parametrize(("place", "address"), [
    ("gs://a/b", "gs://a/b"), ("s3://a/b/", "s3://a/b"), (Path("gs://a/b"), "gs://a/b"), ("gs://a", "gs://a"),
    ("runs/mine", ""), ("az://a/b", ""), (Path("runs/gs:"), ""), ("zoo:x", "")])
def test_addresses(place, address):
    assert buckets.url_of(place) == address


@pytest.mark.parametrize("place", ["gs://", "s3:///", "gs://a//b", "gs://a/../b"])
def test_what_is_no_address_of_a_folder(place):
    with pytest.raises(UserError, match=r"must be (gs|s3)://BUCKET/PATH"):
        buckets.url_of(place)


def refusal(config, place):
    with pytest.raises(UserError) as caught:
        loop.train_and_evaluate(config, place)
    return str(caught.value)


def test_no_such_bucket(url, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = url.replace("bucket", "nobucket")
    assert refusal(config, none).startswith(f"cannot reach {none}: there is no bucket nobucket")
    with pytest.raises(UserError, match="there is nothing at"):
        modern_cnn.load(url)
    with pytest.raises(UserError, match=rf"{url} is not the workdir of a run"):
        modern_cnn.data.load("digits", like=url)
    assert not [*tmp_path.iterdir()]


def test_no_right_to_write(gcs, config):
    gcs.down = True
    assert re.match("cannot reach gs://bucket/run: Forbidden: .*the bucket is closed.*gcloud auth",
                    refusal(config, "gs://bucket/run"))


def test_no_credentials(config, monkeypatch):
    assert refusal(config, "s3://bucket/run").startswith(
        "cannot reach s3://bucket/run: Unable to locate credentials. Is the network up, and does this account have the "
        "right to? Credentials come from `aws configure` or $AWS_ACCESS_KEY_ID")


def test_no_answer(config, monkeypatch):
    """A store that takes the connection and says nothing; once it is imported, the wait is bounded."""
    monkeypatch.setattr(buckets, "REACH_SECONDS", 0.5)
    buckets._file_system("gs")
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert refusal(config, "gs://bucket/run").startswith("cannot reach gs://bucket/run: no answer in 0 s.")
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(("place", "module", "package"), [("gs://bucket/run", "gcsfs.core", "gcsfs"),
                                                          ("s3://bucket/run", "s3fs", "s3fs")])
def test_no_package(config, place, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert re.match(rf"{place[:5]} needs the package {package}, .*: pip install {package}$", refusal(config, place))


def test_names_that_lead_out_of_the_folder(gcs, tmp_path):
    gcs.buckets["bucket"]["data/../../secret"] = (1, b"x")
    with pytest.raises(UserError, match=r"holds an object named '\.\./\.\./secret'"):
        buckets.copied("gs://bucket/data")


def test_a_sweep_and_several_processes_are_refused(server, gcs, tmp_path, monkeypatch):
    from modern_cnn.sweeps import sweep

    with pytest.raises(UserError, match="a sweep cannot be in a bucket"):
        sweep.run(None, ["seed=0:2"], "gs://bucket/sweep")
    monkeypatch.setattr(mirror.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="several processes cannot train in gs://bucket/run"), mirror.opened(
            "gs://bucket/run", Data("digits")):
        pass
