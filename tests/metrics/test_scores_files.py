"""What scores read and write: extractors with weights made on the spot, the cached reference, the suite's .npz."""

import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from dit.metrics import (
    Dino,
    Features,
    Inception,
    NpzImages,
    Reference,
    check_pictures,
    extract,
    read_reference,
    reference_of,
    train_classifier,
    write_moments,
)


def pictures(count, seed=0, channels=3, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


class Rows:
    """A linear map of the pixels."""

    name, digest, min_size = "rows", "0123", 8
    spec = {"name": "rows", "digest": "0123"}  # noqa: RUF012

    def __init__(self):
        self.seen = 0

    def to(self, device):
        return self

    def __call__(self, images):
        self.seen += len(images)
        mean = images.double().mean(3).flatten(1)[:, :6]
        return Features(mean, mean[:, :3] / 2)


def test_features_are_cut_joined_and_stored(tmp_path):
    whole = extract(Rows(), pictures(10).split(3))
    assert (len(whole), whole.logits) == (10, None)
    again = Features.cat([whole[:4], whole[torch.arange(4, 10)]])
    again.save(tmp_path / "features.safetensors")
    for found in (again, Features.load(tmp_path / "features.safetensors")):
        assert torch.equal(found.pooled, whole.pooled)
        assert torch.equal(found.spatial, whole.spatial)


@pytest.mark.parametrize(
    ("batches", "sentence"),
    [
        ([], "there are no images"),
        ([pictures(2).float()], "images must be uint8 .* got float32"),
        ([pictures(2), pictures(2, size=9)], r"all be \[3, 8, 8\], but from image 2 on they are \[3, 9, 9\]"),
        ([pictures(2, size=7)], "rows needs images of at least 8x8 pixels, got 7x7"),
    ],
)
def test_pictures_of_the_wrong_form_are_refused(batches, sentence):
    with pytest.raises(ValueError, match=sentence):
        extract(Rows(), batches)


def test_nan_and_constant_pictures_are_refused():
    class Broken(Rows):
        def __call__(self, images):
            self.seen += len(images)
            return Features(torch.tensor([[1.0], [float("nan") if self.seen > 2 else 2.0]]))

    with pytest.raises(ValueError, match="features of image 3 are not finite"):
        extract(Broken(), [pictures(2), pictures(2)])
    blank = pictures(5)
    blank[3] = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]  # each channel constant
    with pytest.raises(ValueError, match=r"image 13 of x.npz is constant \(1 such in 5 images\)"):
        check_pictures(blank, "x.npz", begin=10)


def test_inception_features_are_torch_fidelitys(inception):
    """Pooled and unbiased logits to the bit; spatial, 7 channels of the 1x1 branch of mixed_6, channels last."""
    ours = Inception(inception)
    images = pictures(2, size=32)
    network = theirs.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(inception))
    branch = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: branch.append(call[2]))
    pooled, logits = network(images)
    found = ours(images)
    assert torch.equal(found.pooled, pooled)
    assert torch.equal(found.logits, logits)
    assert found.spatial.shape == (2, 2023)
    assert torch.equal(found.spatial.view(2, 17, 17, 7), branch[0][:, :7].permute(0, 2, 3, 1))
    assert ours.spec == {"name": "inception", "digest": Inception(inception).digest, "held_out_accuracy": None}
    grey = images[:, :1]
    assert torch.equal(ours(grey).pooled, ours(grey.expand(-1, 3, -1, -1)).pooled)
    with pytest.raises(ValueError, match="inception takes images of 3 channels, or of 1 that it repeats, got 4"):
        ours(pictures(1, channels=4))


def test_dino_features_are_the_class_token(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    ours = Dino(tmp_path / "dino.pth", model="vit_small_patch14_dinov2.lvd142m")
    images = pictures(2, size=224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        token = ours.network.forward_features((images / 255 - mean) / std)[:, 0]
    assert torch.allclose(ours(images).pooled, token, atol=1e-5)
    assert ours(pictures(2, channels=1, size=16)).pooled.shape == (2, 384)
    assert (ours.spec["name"], ours.spec["model"]) == ("dinov2", "vit_small_patch14_dinov2.lvd142m")
    with pytest.raises(ValueError, match=r"does not fit vit_base_patch14_dinov2.lvd142m: Error"):
        Dino(tmp_path / "dino.pth", model="vit_base_patch14_dinov2.lvd142m")
    with pytest.raises(ValueError, match="is no file: timm's weights of vit_large"):
        Dino(tmp_path / "nowhere.pth")


def test_missing_weights_and_extras_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"weights=.*nowhere.pth cannot be read as a file of tensors"):
        Inception(tmp_path / "nowhere.pth")
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth does not fit torch-fidelity's Inception"):
        Inception(tmp_path / "other.pth")

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(theirs, "load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"download .*\(no route to host\): give weights=PATH to a copy of https"):
        Inception()
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"cannot download the weights of vit_large.*: give weights=PATH"):
        Dino()
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"pip install 'ditlab\[metrics\]'"):
        Inception()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="need timm: pip install timm"):
        Dino()


def test_a_classifier_is_an_extractor_and_is_refused_where_it_judges_nothing(tmp_path):
    """Classes of 20-pixel pictures that differ in brightness are learnt; labels that mean nothing are not."""
    labels = torch.arange(200) % 2
    images = (pictures(200, size=20).float() / 4 + 120 * labels[:, None, None, None]).to(torch.uint8)
    ours = train_classifier((images, labels), (images[:50], labels[:50]), 2, steps=40)
    assert ours.held_out_accuracy > 0.95
    found = ours(images[:6])
    assert [tuple(part.shape) for part in (found.pooled, found.spatial, found.logits)] == [(6, 192), (6, 128), (6, 2)]
    assert ours.spec == {"name": "classifier", "digest": ours.digest, "held_out_accuracy": ours.held_out_accuracy}
    with pytest.raises(ValueError, match=r"trained on pictures \[3, 20, 20\] and takes no others, got \[1, 20, 20\]"):
        ours(images[:, :1])
    nonsense = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    with pytest.raises(ValueError, match=r"too few to judge samples: at least 0.750 is needed \(chance is 0.500\)"):
        train_classifier((images, nonsense), (images[:50], labels[50:100].flip(0)), 2, steps=5)
    with pytest.raises(ValueError, match="class 2 has no pictures"):
        train_classifier((images, labels), (images, labels), 3)
    with pytest.raises(ValueError, match="there are no held-out pictures"):
        train_classifier((images, labels), (images[:0], labels[:0]), 2)


def test_a_reference_is_computed_once(tmp_path):
    rows = Rows()
    first = reference_of(lambda: pictures(20).split(6), "test split", "pictures 1", rows, tmp_path)
    again = reference_of(lambda: pictures(20).split(6), "test split", "pictures 1", rows, tmp_path)
    assert (rows.seen, first.images, again.name, again.digest) == (20, 20, "test split", first.digest)
    assert torch.equal(first.pooled, again.pooled)
    assert torch.equal(first.spatial_moments.covariance, again.spatial_moments.covariance)
    other = reference_of(lambda: pictures(20, 1).split(6), "test split", "pictures 2", rows, tmp_path)
    assert other.digest != first.digest
    assert len(list(tmp_path.iterdir())) == 2


def test_moments_go_out_and_come_in(tmp_path):
    real = Reference.of(extract(Rows(), [pictures(30)]), "real", "abc")
    file = tmp_path / "stats.npz"
    write_moments(file, real)
    with np.load(file) as arrays:
        assert sorted(arrays) == ["mu", "mu_s", "sigma", "sigma_s"]
        assert arrays["sigma"].dtype == np.float64
    found = read_reference(file, Rows())
    assert (found.pooled, found.images) == (None, None)
    assert torch.equal(found.moments.covariance, real.moments.covariance)
    assert torch.equal(found.spatial_moments.mean, real.spatial_moments.mean)
    assert list(tmp_path.iterdir()) == [file]


def test_images_of_npz_are_streamed(tmp_path):
    images, file = pictures(10), tmp_path / "samples.npz"
    np.savez(file, images.permute(0, 2, 3, 1).numpy(), np.arange(10))
    opened = NpzImages.open(file)
    assert (opened.count, opened.shape) == (10, (3, 8, 8))
    assert [len(batch) for batch in opened.batches(4)] == [4, 4, 2]
    assert torch.equal(torch.cat(list(opened.batches(4))), images)
    assert torch.equal(opened.labels, torch.arange(10))
    # The suite's references hold both: moments of all pictures, and some of the pictures.
    mean, covariance = np.zeros(6), np.eye(6)
    np.savez(file, images.permute(0, 2, 3, 1).numpy(), mu=mean, sigma=covariance)
    both = read_reference(file, Rows())
    assert torch.equal(both.moments.covariance, torch.eye(6, dtype=torch.float64))
    assert torch.equal(both.pooled, extract(Rows(), [images]).pooled)


def hwc(*args, **options):
    return pictures(*args, **options).permute(0, 2, 3, 1).numpy()


def blank(count):
    images = hwc(count)
    images[1] = 7
    return images


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": np.zeros(3)}, "holds images, but only arr_0, arr_1, mu, sigma, mu_s, sigma_s are read"),
        ({"arr_1": np.zeros(3)}, "holds neither arr_0 nor mu and sigma, got arr_1"),
        ({"mu": np.zeros(3)}, "holds one of mu and sigma and lacks sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"must be \[F\] and \[F, F\], got \[3\] and \[4, 4\]"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu of .* must be finite, but holds NaN"),
        ({"mu": np.array(["a"]), "sigma": np.eye(1)}, "mu of .* must be numbers, got <U1"),
        ({"arr_0": hwc(4), "mu": np.zeros(5), "sigma": np.eye(5)}, "has 5 features, but rows has 6"),
        ({"arr_0": np.full((4, 8, 8, 3), np.nan)}, r"must be uint8 \[N, H, W, C\], got float64 \[4, 8, 8, 3\]"),
        ({"arr_0": np.array([hwc(1), hwc(1, size=9), None], dtype=object)}, "got object .*mixed sizes"),
        ({"arr_0": pictures(4, size=9).numpy()}, r"must have 1 or 3 channels, got 9 \(shape \[4, 3, 9, 9\]\)"),
        ({"arr_0": blank(4)}, "image 1 of .* is constant"),
        ({"arr_0": hwc(1)}, "needs at least 2 images, got 1"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_other_npz_are_refused(tmp_path, arrays, sentence):
    file = tmp_path / "x.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=sentence):
        read_reference(file, Rows())


def test_files_that_are_no_npz_and_labels_that_are_none(tmp_path):
    file = tmp_path / "x.npz"
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x.npz cannot be read as .npz"):
        NpzImages.open(file)
    np.savez(file, mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(ValueError, match="holds no images: arr_0"):
        NpzImages.open(file)
    np.savez(file, hwc(4), np.zeros(3))
    with pytest.raises(ValueError, match=r"arr_1 of .* must be 4 integers, one an image, got float64 \[3\]"):
        _ = NpzImages.open(file).labels
