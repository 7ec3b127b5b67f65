"""What comes after the layer that scores features, and does not show in an untrained network."""

import pytest
from paddle import nn

from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import find_classification_layer


class Segmentor(nn.Layer):
    def __init__(self, *after):
        super().__init__()
        self.norm = nn.BatchNorm2D(3)
        self.stem = nn.Conv2D(3, 6, 3, padding=1)
        self.last, self.after = nn.Conv2D(6, 4, 1), nn.Sequential(*after)

    def forward(self, images):
        return [self.after(self.last(self.stem(self.norm(images))))]


def test_a_batch_norm_ahead_of_the_layer_is_none_of_its_business():
    model = Segmentor()
    assert find_classification_layer(model, 4)[0] == "last"
    assert not model.norm._forward_post_hooks


@pytest.mark.parametrize("after", [nn.BatchNorm2D, nn.SyncBatchNorm])
def test_a_batch_norm_is_no_identity_once_it_is_trained(after):
    """As in PPHumanSegLite, which would be refused after stage 1."""
    layer = after(4)
    layer.forward = lambda x: nn.functional.batch_norm(  # the other one has no kernel on a CPU
        x, layer._mean, layer._variance, layer.weight, layer.bias)
    with pytest.raises(UserError, match="are not the outputs of one 1×1 convolution"):
        find_classification_layer(Segmentor(layer), 4)


def test_logits_that_cannot_be_negative_are_not_the_layers():
    with pytest.raises(UserError, match="are not the outputs of one 1×1 convolution"):
        find_classification_layer(Segmentor(nn.ReLU()), 4)
