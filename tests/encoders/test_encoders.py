"""What every encoder keeps; what each one computes, against a plain loop over tasks; and one shared by two learners."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta import Points
from bayesmeta.encoders import Encoder, HeadDecoder

B, N, M, D, Y, W, R = 3, 6, 4, 2, 2, 3, 8

REGRESSION: dict[str, Callable[[], Encoder]] = {
    "DeepSet": lambda: bm.encoders.DeepSet(D, Y, R),
    "Attention": lambda: bm.encoders.Attention(D, Y, R, heads=2),
    "Relation": lambda: bm.encoders.Relation(D, Y, R),
    "RelativeAttention": lambda: bm.encoders.RelativeAttention(D, Y, R, heads=2),
    "GridConvolution": lambda: bm.encoders.GridConvolution(1, Y, R, resolution=4.0, levels=3, features=nn.Linear(D, 1)),
    "DeepSet on features": lambda: bm.encoders.DeepSet(5, Y, R, features=bm.networks.MLP(D, 1, hidden=(5,)).features),
}
CLASSES: dict[str, Callable[[], Encoder]] = {
    "DeepSet": lambda: bm.encoders.DeepSet(D, W, R),
    "Attention": lambda: bm.encoders.Attention(D, W, R, heads=2),
    "RelativeAttention": lambda: bm.encoders.RelativeAttention(D, W, R, heads=2),
    "GridConvolution": lambda: bm.encoders.GridConvolution(1, W, R, resolution=4.0, levels=3, features=nn.Linear(D, 1)),
    "ClassPooling": lambda: bm.encoders.ClassPooling(D, W, R),
    "Relation": lambda: bm.encoders.Relation(D, W, R, classes=True),
}
CASES = [pytest.param(make, False, id=name) for name, make in REGRESSION.items()] + [
    pytest.param(make, True, id=f"{name}, classes") for name, make in CLASSES.items()
]


def support(classes: bool) -> Points:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(N) < torch.tensor([[N], [2], [0]])
    x = torch.randn(B, N, D, generator=generator).double() * mask[..., None]
    if classes:
        return Points(x, torch.randint(W, (B, N), generator=generator) * mask, mask)
    return Points(x, torch.randn(B, N, Y, generator=generator).double() * mask[..., None], mask)


def build(make: Callable[[], Encoder]) -> Encoder:
    torch.manual_seed(0)
    return make().double()


@pytest.mark.parametrize(("make", "classes"), CASES)
class TestEncoder:
    def test_shapes_and_gradients_of_ragged_and_empty_tasks(self, make: Callable[[], Encoder], classes: bool) -> None:
        encoder, given = build(make), support(classes)
        shape = (W, R) if encoder.classwise else (R,)
        x = torch.randn(B, M, D).double()
        assert encoder(given).shape == (B, *shape)
        at_queries = encoder(given, x)
        assert at_queries.shape == (B, M, *shape)
        (at_queries.square().sum() + encoder(given).square().sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in encoder.parameters())

    def test_order_padding_and_other_tasks_do_not_matter(self, make: Callable[[], Encoder], classes: bool) -> None:
        encoder, given = build(make), support(classes)
        x = torch.randn(B, M, D).double()
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        shuffled = Points(*(leaf[:, order] for leaf in given))
        padded = Points(*(torch.cat([torch.zeros_like(leaf[:, :3]), leaf], 1) for leaf in given))
        for other in (shuffled, padded):
            torch.testing.assert_close(encoder(other), encoder(given))
            torch.testing.assert_close(encoder(other, x), encoder(given, x))
        alone = torch.cat([encoder(Points(*(leaf[b : b + 1] for leaf in given)), x[b : b + 1]) for b in range(B)])
        torch.testing.assert_close(alone, encoder(given, x))
        torch.testing.assert_close(encoder(given, x[:, :1]), encoder(given, x)[:, :1])  # queries do not see each other

    def test_every_point_counts(self, make: Callable[[], Encoder], classes: bool) -> None:
        encoder, given = build(make), support(classes)
        before = encoder(given)
        for n in range(2):
            x = given.x.clone()
            x[:, n] += 1.0
            changed = (encoder(given._replace(x=x)) - before).abs().flatten(1).amax(1)
            assert (changed[:2] > 1e-6).all()
            assert changed[2] == 0  # the empty task has nothing there


def test_deep_set_is_a_mean_with_a_pseudo_point() -> None:
    encoder, given = build(REGRESSION["DeepSet"]), support(False)
    assert isinstance(encoder, bm.encoders.DeepSet)
    for b in range(B):
        x, y = given.x[b, given.mask[b]], given.y[b, given.mask[b]]
        codes = torch.cat([encoder.point(torch.cat([x, y], 1)), encoder.prior[None]])
        torch.testing.assert_close(encoder(given)[b], encoder.task(codes.mean(0)))


def test_class_pooling_is_a_mean_by_class_and_follows_the_numbering() -> None:
    encoder, given = build(CLASSES["ClassPooling"]), support(True)
    assert isinstance(encoder, bm.encoders.ClassPooling)
    for b in range(B):
        for w in range(W):
            x = given.x[b, given.mask[b] & (given.y[b] == w)]
            torch.testing.assert_close(encoder(given)[b, w], torch.cat([encoder.point(x), encoder.prior[None]]).mean(0))
    turned = given._replace(y=(given.y + 1) % W * given.mask)
    torch.testing.assert_close(encoder(turned).roll(-1, 1), encoder(given))


def test_relation_is_a_mean_over_pairs() -> None:
    encoder, given = build(CLASSES["Relation"]), support(True)
    assert isinstance(encoder, bm.encoders.Relation)
    for b in range(B):
        x, y = given.x[b, given.mask[b]], given.y[b, given.mask[b]]
        code = encoder.point(x)
        for w in range(W):
            pairs = [
                torch.stack([encoder.relation(torch.cat([code[i], code[j]])) for j in range(len(x))]).mean(0)
                for i in range(len(x))
                if y[i] == w
            ]
            torch.testing.assert_close(encoder(given)[b, w], torch.stack([*pairs, encoder.prior]).mean(0))


def test_attention_weighs_values_by_a_softmax_over_observed_tokens() -> None:
    torch.manual_seed(0)
    encoder = bm.encoders.Attention(D, Y, R, layers=1, heads=1).double()
    given = support(False)
    layer = encoder.layers[0]
    for b in range(B):
        x, y = given.x[b, given.mask[b]], given.y[b, given.mask[b]]
        tokens = torch.cat([encoder.prior[None], encoder.point(torch.cat([x, y], 1))])
        normed = layer.before_attention(tokens)
        key, value = layer.key_value(normed).chunk(2, -1)
        weights = (layer.query(normed[:1]) @ key.T / R**0.5).softmax(-1)
        token = tokens[:1] + layer.out(weights @ value)
        token = token + layer.mlp(layer.before_mlp(token))
        torch.testing.assert_close(encoder(given)[b], token[0])


def test_head_decoder_decodes_a_class_from_its_own_encoding() -> None:
    pooling = bm.encoders.ClassPooling(D, W, R)
    decoder = HeadDecoder(pooling, W, hidden=(4,))
    encoding = torch.randn(B, W, R)
    mean, scale = decoder(encoding)
    assert mean.shape == scale.shape == (B, W, D + 1)
    assert (scale > 0).all()
    changed = encoding.clone()
    changed[:, 1] += 1.0
    moved = (decoder(changed)[0] - mean).abs().amax((0, 2)) > 0
    assert moved.tolist() == [False, True, False]
    assert HeadDecoder(bm.encoders.DeepSet(D, Y, R), 5)(torch.randn(S := 4, B, R))[0].shape == (S, B, 5, D + 1)


def test_images_are_embedded_by_convolutions() -> None:
    encoder = bm.encoders.ClassPooling(8, 2, R, features=bm.networks.Conv4(width=8).features)
    images = Points(torch.rand(2, 4, 1, 28, 28), torch.tensor([[0, 1, 0, 1]] * 2), torch.ones(2, 4, dtype=torch.bool))
    assert encoder(images).shape == (2, 2, R)
    assert encoder(images, images.x).shape == (2, 4, 2, R)


@pytest.mark.parametrize(
    ("encoder", "given", "message"),
    [
        (
            lambda: bm.encoders.DeepSet(3, Y, R),
            support(False),
            r"x: expected 3 features a point \(DeepSet\(inputs=3\)\)",
        ),
        (
            lambda: bm.encoders.DeepSet(D, 1, R),
            support(False),
            r"y: expected 1 targets a point \(DeepSet\(targets=1\)\)",
        ),
        (lambda: bm.encoders.ClassPooling(D, 2, R), support(True), r"y: expected labels 0 to 1, got 2"),
        (lambda: bm.encoders.ClassPooling(D, 2, R), support(False), r"y: expected labels 0 to 1, got torch.float64"),
    ],
)
def test_points_that_do_not_fit(encoder: Callable[[], Encoder], given: Points, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder().double()(given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bm.encoders.DeepSet(0, 1), "inputs: expected a whole number of at least 1, got 0"),
        (lambda: bm.encoders.Attention(1, 1, 10, heads=4), "size: expected a multiple of the 4 heads, got 10; e.g. 12"),
        (
            lambda: bm.VERSA(bm.encoders.ClassPooling(D, W), 2, bm.likelihoods.Categorical()),
            "outputs: expected 3, as many as the encoder",
        ),
        (lambda: bm.encoders.DeepSet(4, 1, features=nn.BatchNorm1d(4)), "features: expected no running statistics"),
    ],
)
def test_arguments_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_one_encoder_serves_two_learners_and_both_train_it() -> None:
    """A neural process and VERSA read the same backbone: what one learns is there for the other."""
    torch.manual_seed(0)
    network = bm.networks.MLP(1, 1, hidden=(8, 8), activation=nn.Tanh)
    encoder = bm.encoders.DeepSet(8, 1, R, features=network.features)
    first = bm.NeuralProcess(encoder, bm.networks.MLP(8 + R + 4, 2), bm.likelihoods.HeteroscedasticGaussian(), latent=4)
    second = bm.VERSA(encoder, 1, bm.likelihoods.Gaussian())
    tasks = bm.tasks.Sinusoids(batch=4, shots=(1, 5), noise=0.1)

    def encoding() -> Tensor:
        return encoder(tasks[0].support).detach()

    def answer(learner: bm.Learner) -> Tensor:
        torch.manual_seed(0)
        return learner(tasks[0].support)(tasks[0].query.x).mean.detach()

    for trained, other in ((first, second), (second, first)):
        before = encoding(), answer(other)
        bm.fit(trained, tasks, steps=2, progress=False)
        assert not torch.equal(encoding(), before[0])
        assert not torch.equal(answer(other), before[1])

    both = nn.ModuleList([first, second])
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert shared == {id(p) for p in encoder.parameters()}
    assert len(list(both.parameters())) == len(list(first.parameters())) + len(list(second.parameters())) - len(shared)
    (first.loss(tasks[0]) + second.loss(tasks[0])).backward()  # trained together: the gradients of both add up
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
