"""What crosses processes is data: a job is not unpickled, not believed unsigned, and not offered to other machines."""

import contextlib
import os
import pickle
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, distributed_c10d

from dit.launch import Ranks, wait
from dit.launch.collectives import confine, hosted_store
from dit.launch.group import Group
from dit.launch.handover import InheritedFile, SignedStore
from dit.launch.job import Job
from dit.launch.secret import job_secret, secret_port
from tests.launch.test_launch import ENVIRONMENT, SCRIPT, alive, started, until

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


class Evil:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def listening(pid):
    """The addresses on which a process listens, as the kernel writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").rstrip("]"))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and line[9] in inodes}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_two_processes_listen_on_the_loopback_address_alone(tmp_path):
    process, ranks = started(tmp_path, "seconds=600")
    pids, heard = [process.pid, *ranks], {}
    try:
        until(lambda: heard.update({pid: listening(pid) for pid in pids}) or all(heard.values()))  # gloo's too
        assert set.union(*heard.values()) <= LOOPBACK
    finally:
        process.kill()
        process.wait()
        until(lambda: not any(map(alive, ranks)))


def test_a_job_on_one_machine_keeps_to_the_loopback_interface(monkeypatch):
    monkeypatch.setattr(distributed_c10d, "_unpickler", pickle.Unpickler)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    confine(nodes=2)
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    confine(nodes=1)
    assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"  # the user's own


def test_object_collectives_take_plain_data_only(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed_c10d, "_unpickler", pickle.Unpickler)
    confine(nodes=2)
    proof = tmp_path / "proof"
    for value in ({"a": (1, 2.5, None), "b": {"x"}}, Path("/tmp/run")):
        sent, size = distributed_c10d._object_to_tensor(value, torch.device("cpu"), None)
        assert distributed_c10d._tensor_to_object(sent, size, None) == value
    sent, size = distributed_c10d._object_to_tensor(Evil(proof), torch.device("cpu"), None)
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir was sent to this process by another; only plain data"):
        distributed_c10d._tensor_to_object(sent, size, None)
    assert not proof.exists()


@pytest.mark.parametrize("content", ["pickle", b"", b"null", b'{"items": []}', b"[1, 2, 3]", b"[" * 100_000])
def test_what_is_no_job_is_refused_and_a_pickle_is_not_loaded(content, tmp_path):
    proof = tmp_path / "proof"
    content = pickle.dumps(Evil(proof)) if content == "pickle" else content
    with pytest.raises(ValueError, match=r"the job handed to this process is malformed; nothing was run"):
        Job.unpacked(content)
    assert not proof.exists()


def test_a_rank_handed_a_pickle_ends_in_one_sentence(tmp_path):
    proof = tmp_path / "proof"
    with (tmp_path / "said").open("w+b") as output:
        ranks = Ranks([*SCRIPT, "--rank-of", "x"], pickle.dumps(Evil(proof)), 1, ENVIRONMENT, output)
        assert wait(ranks) == 1
    assert (tmp_path / "said").read_text() == f"error: {ranks.error}\n"
    assert ranks.error == "the job handed to this process is malformed; nothing was run"
    assert not proof.exists()


class Tampered:
    """A store in which a stranger has replaced the values of some keys before they are read."""

    def __init__(self, store, **replaced):
        self.store, self.replaced, self.set = store, replaced, store.set

    def get(self, key):
        there = self.store.get(key)
        return self.replaced.get(key, there)


def handed_over(sender, receiver):
    """What rank 1 receives of the job b"[1]" that rank 0 publishes."""
    thread = threading.Thread(target=sender.publish, args=(b"[1]",))
    thread.start()
    try:
        return receiver.receive()
    finally:
        thread.join()


def two(store, secrets=(b"secret", b"secret"), **replaced):
    store.set_timeout(timedelta(seconds=20))
    return SignedStore(store, secrets[0], 0, 2), SignedStore(Tampered(store, **replaced), secrets[1], 1, 2)


def test_a_signed_job_is_received():
    assert handed_over(*two(HashStore())) == b"[1]"


@pytest.mark.parametrize("job", [b"[2]", pickle.dumps(Evil("/nowhere"))])
def test_a_job_altered_in_transit_is_refused(job):
    with pytest.raises(ValueError, match=r"not signed with its secret; nothing was run.*DITLAB_JOB_SECRET"):
        handed_over(*two(HashStore(), job=job))


def test_a_job_of_somebody_with_another_secret_is_refused():
    with pytest.raises(ValueError, match=r"not signed with its secret"):
        handed_over(*two(HashStore(), secrets=(b"secret", b"another")))


def test_a_job_of_an_earlier_run_is_refused():
    """It was signed with the same secret, and a stranger has kept it with its digest."""
    before = HashStore()
    handed_over(*two(before))
    kept = {key: before.get(key) for key in ("job", "digest/1")}
    with pytest.raises(ValueError, match=r"not signed with its secret"):
        handed_over(*two(HashStore(), **kept))


def test_a_rank_leaves_if_there_is_no_job():
    sender, receiver = two(HashStore())
    sender.publish(b"")
    assert receiver.receive() == b""


def test_the_first_rank_to_fail_is_kept():
    """By an inherited file, and what the job returned beside it."""
    inherited = InheritedFile.of(b"[1]")
    assert inherited.said() == {}
    assert [inherited.first_to_fail(text) for text in ("line\nbreak \udc80", "later")] == [True, False]
    inherited.finish([1, float("inf")])
    assert inherited.said() == {"error": "line\nbreak \udc80", "value": [1, float("inf")]}
    assert inherited.receive() == b"[1]"
    inherited.close()


def test_the_secret_is_made_once_and_is_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("DITLAB_JOB_SECRET", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    secret, file = job_secret(), tmp_path / "ditlab" / "job_secret"
    assert len(secret) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["job_secret"]
    assert job_secret() == secret
    file.chmod(0o640)
    with pytest.raises(ValueError, match=r"job_secret must belong to you and have mode 600"):
        job_secret()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"the secret of the job cannot be kept .*: set DITLAB_JOB_SECRET"):
        job_secret()
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    with pytest.raises(ValueError, match=r"the secret of the job cannot be kept .*: set DITLAB_JOB_SECRET"):
        job_secret()
    assert Group(0, 2, 2, 1, "srun", ("127.0.0.1", None), hosts=True).first_to_fail("no secret")


def test_the_secret_is_given(monkeypatch):
    monkeypatch.setenv("DITLAB_JOB_SECRET", "0123456789abcdef")
    assert job_secret() == b"0123456789abcdef"
    monkeypatch.setenv("DITLAB_JOB_SECRET", "short")
    with pytest.raises(ValueError, match=r"DITLAB_JOB_SECRET must have at least 16 characters"):
        job_secret()


def test_a_port_cannot_be_foreseen_without_the_secret():
    ports = [secret_port(secret, name) for secret in (b"a" * 64, b"b" * 64) for name in ("1.0", "1.1")]
    assert len(set(ports)) == 4
    assert all(15_000 <= port < 25_000 for port in ports)


def test_a_hosted_store_listens_on_the_loopback_address_alone():
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    before = listening(os.getpid())
    store = hosted_store()
    assert listening(os.getpid()) - before <= LOOPBACK
    store.set("key", "value")
    assert store.get("key") == b"value"
