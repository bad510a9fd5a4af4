"""What tests of several metrics share."""

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as theirs


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """torch-fidelity's network with random weights, in a file."""
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        torch.save(theirs.FeatureExtractorInceptionV3("x", ["2048"], verbose=False).state_dict(), file)
    return file
