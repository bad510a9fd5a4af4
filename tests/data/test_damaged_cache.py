"""A latent cache that is damaged or of a stranger: found when it is read, told in one sentence, never followed."""

import json
import random
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch

from data.latents.arrays import array_bytes, array_in
from data.latents.encode import finish
from data.latents.manifest import Manifest, read_plan, write_shard
from data.latents.verify import verify
from data.order import Pick
from tests.data.caches import CPU, autoencoder, cache, contents, latents, pictures


def copy_of(made, folder, age="new"):
    """A copy; with age="old" as it was written before there were digests."""
    folder.mkdir(exist_ok=True)
    for name, content in contents(made).items():
        (folder / name).write_bytes(content)
    if age == "old":
        for file in folder.glob("*-records.npy"):
            file.unlink()
        edit(folder, lambda content: content.pop("records"))
    return folder


def edit(folder, change, name="manifest.json"):
    """As somebody who changes it by hand, and so removes its seal."""
    content = json.loads((folder / name).read_text())
    content.pop("seal", None)
    change(content)
    (folder / name).write_text(json.dumps(content))


def read_all(folder):
    data = latents(folder)
    return data.train.images([Pick(i) for i in range(50)]), data.validation.images([Pick(i) for i in range(5)])


def refusal(attempt):
    """The sentence in which it is refused, or None."""
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return None


def flip(content, place):
    return content[: place // 8] + bytes([content[place // 8] ^ 1 << place % 8]) + content[place // 8 + 1 :]


@pytest.mark.parametrize("age", ["new", "old"])
def test_a_flipped_bit_of_any_file_is_found_when_it_is_read(made, tmp_path, age):
    """At random places of every file, and at each kind of byte of a header. A flip in the manifest that leaves every
    number as it was is none."""
    root, rng = copy_of(made, tmp_path, age), random.Random(0)
    expected, told = read_all(root), Manifest.read(root)
    for file in sorted(root.glob("*.npy" if age == "old" else "*")):
        whole = file.read_bytes()
        header = [8 * byte + byte % 8 for byte in (0, 6, 8, 9, 12, 25, 70, 126, 127)] if file.suffix == ".npy" else []
        for place in header + [rng.randrange(8 * len(whole)) for _ in range(12)]:
            file.write_bytes(flip(whole, place))
            said = refusal(lambda: read_all(root))
            if said is None:
                assert file.name == "manifest.json", (file, place)
                assert all(map(torch.equal, read_all(root), expected))
                assert Manifest.read(root) == told
            else:
                assert len(said.splitlines()) == 1
                assert "damaged" in said
        file.write_bytes(whole)


def test_a_damaged_picture_is_named_with_its_shard_and_only_when_it_is_read(made, tmp_path):
    root = copy_of(made, tmp_path)
    file = next(root.glob("train-00001.*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")  # of picture 31, mirrored
    train = latents(root).train
    train.images([Pick(i) for i in range(50) if i != 31])
    said = rf"data\.root={root}: the shard {file.name} is damaged at picture 15; delete it if it is there, and run the"
    for mirrored in (False, True):
        with pytest.raises(ValueError, match=said):
            train.images([Pick(31, mirrored)])
    file.unlink()
    shard, values = list(Manifest.read(made).plan.shards())[1], np.load(next(made.glob("train-00001.*")))
    write_shard(root, shard, values)
    finish(read_plan(root), root)
    assert contents(root) == contents(made)


def test_a_cache_made_before_there_were_checks_of_records_is_read_as_ever_and_gets_them(made, tmp_path):
    root = copy_of(made, tmp_path, "old")
    assert Manifest.read(root).records is None
    assert all(map(torch.equal, read_all(root), read_all(made)))
    finish(read_plan(root), root)
    assert contents(root) == contents(made)


def test_an_old_shard_is_checked_once_in_a_process(made, tmp_path, monkeypatch):
    train, hashed = latents(copy_of(made, tmp_path, "old")).train, []
    monkeypatch.setattr("data.latents.module.checksum", lambda content: hashed.append(1) or train._digests[1])
    for number in (17, 17, 30):
        train.read(number)
    assert hashed == [1]
    monkeypatch.setattr("data.latents.module.checksum", lambda content: "another")
    with pytest.raises(ValueError, match=r"the shard train-00002\.\S+ is damaged: its checksum is another; delete it"):
        train.read(40)


def test_a_shard_damaged_while_a_cache_is_made_does_not_become_part_of_it(vae, made, tmp_path):
    root = copy_of(made, tmp_path)
    (root / "manifest.json").rename(root / "plan.json")
    edit(root, lambda content: content.update(content.pop("plan")), "plan.json")
    edit(root, lambda content: [content.pop(key) for key in ("shards", "normalisations", "records")], "plan.json")
    file = next(root.glob("validation-00000.*"))
    file.write_bytes(flip(file.read_bytes(), 9999))
    with pytest.raises(ValueError, match=rf"{file.name} is damaged: its checksum is another; delete it and make the"):
        cache(root, vae, source=read_plan(root).source)
    assert not (root / "manifest.json").exists()


@pytest.mark.parametrize("values", [np.zeros((3, 2, 4, 5, 5), np.float16), np.arange(7), np.ones(1, np.uint32)])
def test_the_header_is_that_of_numpy_whatever_room_it_leaves(values):
    content = np.frombuffer(array_bytes(values), np.uint8)
    assert np.array_equal(array_in(content, values.dtype.name, values.shape), values)
    text, start = content.tobytes(), len(content) - values.nbytes
    room = text[:8] + (start - 10 + 64).to_bytes(2, "little") + text[10 : start - 1] + b" " * 64 + b"\n" + text[start:]
    assert np.array_equal(array_in(np.frombuffer(room, np.uint8), values.dtype.name, values.shape), values)
    for dtype, shape in (("int8", values.shape), (values.dtype.name, (1, *values.shape)), ("float64", (9999,))):
        assert array_in(content, dtype, shape) is None
    for part in (b"", text[:9], text[:-1], text + b"\0", text.replace(b"False", b"True ")):
        assert array_in(np.frombuffer(part, np.uint8), values.dtype.name, values.shape) is None


HOSTILE = [
    *(
        None,
        True,
        -1,
        0,
        1.5,
        10**30,
        float("inf"),
        float("nan"),
        "",
        "../x",
        "/etc/passwd",
        "\x1b[31m\n",
        [],
        [[]],
        {},
    ),
    *(
        [None],
        ["a", "a"],
        {"_target_": "os.system"},
        {"train": -1, "validation": 1},
        {"train": 10**18, "validation": 1},
    ),
    {"train": "/etc/passwd", "validation": "x"},
]


def places(content, path=()):
    """Of every value in nested containers, and of one more key in each."""
    items = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        if path[:2] != ("plan", "source"):
            yield from places(value, (*path, key))


def test_a_manifest_of_a_stranger_is_one_sentence_or_a_cache(made, tmp_path):
    """Every value that any place of it may have is tried, is left out, and is put beside the others."""
    root, whole = copy_of(made, tmp_path), json.loads((made / "manifest.json").read_text())
    del whole["seal"]
    nothing, refused, taken = object(), 0, set()
    for path in places(whole):
        one_more = [] if path[-1] == 0 else [("another", 1)]
        for key, value in [*one_more, (path[-1], nothing), *((path[-1], value) for value in HOSTILE)]:
            content = json.loads(json.dumps(whole))
            inner = reduce(lambda part, key: part[key], path[:-1], content)
            if value is nothing:
                del inner[key]
            else:
                inner[key] = value
            (root / "manifest.json").write_text(json.dumps(content))
            if (said := refusal(lambda: Manifest.read(root))) is None:
                refusal(lambda: latents(root).train.read(0))
                taken.add(path[1] if path[0] == "plan" and len(path) > 1 else path[0])
            else:
                refused += 1
                assert len(said) < 1000
                assert said.isprintable()
    assert refused > 700
    free = {"vae", "vae_hash", "crop", "picture_size", "scale", "shift", "source", "records", "schema", "class_names"}
    assert taken <= free | {"normalisations"}, taken


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, r"manifest\.json is damaged or not JSON: it is nested too deeply"),
        ("null", r"manifest\.json is damaged or not JSON: it must be an object"),
        ("", r"manifest\.json is damaged or not JSON: "),
        ('{"plan": ' + '{"source": ' * 900 + "1" + "}" * 901, r"manifest\.json is damaged or "),
        ("\x00" * 9, r"manifest\.json is damaged or not JSON: "),
    ],
)
def test_what_is_no_manifest_is_one_sentence(tmp_path, content, said):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        Manifest.read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_no_file_is_opened_that_the_plan_does_not_name(made, tmp_path):
    made = Manifest.read(made)
    for name in ("../x.npy", "/etc/passwd", "train-00001.0123456789abcdef.npy", "train-00000.0123456789abcde.npy"):
        entries = [{**made.shards[0], "file": name}, *made.shards[1:]]
        with pytest.raises(ValueError, match=r"a shard must be \{'file': 'train-00000\.CHECKSUM\.npy'"):
            replace(made, shards=entries)
    with pytest.raises(ValueError, match="shards must be a list of 5 mappings"):
        replace(made, shards=made.shards[:4])


def test_numbers_without_end_take_no_time(made, tmp_path):
    root = copy_of(made, tmp_path)
    edit(root, lambda content: content["plan"].update(shard_size=1, counts={"train": 1 << 30, "validation": 1 << 30}))
    with pytest.raises(ValueError, match=r"shards must be a list of 2,147,483,648 mappings"):
        Manifest.read(root)
    plan = json.loads((root / "manifest.json").read_text())["plan"]
    (root / "manifest.json").unlink()
    (root / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"is an unfinished cache, 5 of 2147483648 shards"):
        Manifest.read(root)


def test_labels_of_no_class_are_refused(made, tmp_path):
    root = copy_of(made, tmp_path)
    edit(root, lambda content: content["plan"].update(class_names=["0", "1", "2"]))
    with pytest.raises(ValueError, match=r"train-labels\.npy has labels of no class"):
        latents(root, num_classes=3)


def test_verify_writes_through_no_link(made, vae, tmp_path):
    root = copy_of(made, tmp_path / "cache")
    (tmp_path / "theirs").write_text("precious")
    (root / "verify.png").symlink_to(tmp_path / "theirs")
    _, picture = verify(root, pictures(), autoencoder(vae), 2, CPU)
    assert (tmp_path / "theirs").read_text() == "precious"
    assert not picture.is_symlink()
