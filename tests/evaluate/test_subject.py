"""The row of real pictures: as many as there are samples, with their labels."""

import pytest
import torch

from data.split import InMemory
from dit.evaluate.subject import _with_labels
from dit.metrics import labels_of


def split(labels):
    return InMemory(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels))


@pytest.mark.parametrize("rule", ["balanced", "random"])
def test_real_pictures_have_the_labels_of_the_samples(rule):
    pictures = split([0] * 40 + [1] * 50 + [2] * 60)
    labels = labels_of(rule, range(60), 3, seed=5)
    numbers = _with_labels(pictures, labels, 60)
    assert pictures.labels[numbers].tolist() == labels
    assert len(set(numbers)) == 60
    assert numbers == _with_labels(pictures, labels, 60)
    assert numbers[:30] == _with_labels(pictures, labels[:30], 30)
    assert numbers != sorted(numbers)  # no class in the order of its files


def test_they_end_with_the_first_label_of_which_there_are_no_more():
    pictures = split([0, 1, 0, 1, 0, 2])
    assert pictures.labels[_with_labels(pictures, [0, 1, 2, 0, 1, 2], 6)].tolist() == [0, 1, 2, 0, 1]
    assert pictures.labels[_with_labels(pictures, [0, 2, 2, 0], 4)].tolist() == [0, 2]  # not as many of the others
    assert _with_labels(pictures, [3], 1) == []


def test_without_labels_they_are_drawn_of_all():
    pictures = split([0] * 5 + [1] * 5)
    assert _with_labels(pictures, None, 4) == pictures.some(4)
