"""The learners of `slots.py`, and what each of them reads and is trained on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.networks.transformer import TransformerBlock
from bayesmeta.tasks import SlotTasks, WordVectors

NEW, WIDTH, AROUND = 14, 64, 128


class Words(nn.Module):
    """Features of each word in its sentence: ``(N, T, 12)`` whole numbers of `spelled` to ``(N, T, 256)``.

    64 of the sentence around it by attention, and 64 each of the word itself and of the words before and after it. Numbers after
    the 12 are a vector of the word.
    """

    def __init__(self, vectors: int = 0, layers: int = 2) -> None:
        super().__init__()
        self.pieces = nn.Embedding(2048, WIDTH)
        self.vector = nn.Linear(vectors, WIDTH) if vectors else None
        self.places = nn.Parameter(0.1 * torch.randn(80, WIDTH))
        self.near = nn.Linear(3 * WIDTH, WIDTH)
        self.blocks = nn.ModuleList(TransformerBlock(WIDTH, 4) for _ in range(layers))
        self.last = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.pieces.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        ids = x[..., :12].long()
        there = (ids > 0).any(-1)
        word = self.pieces(ids).sum(-2) / 3
        if self.vector is not None:
            word = word + self.vector(3 * x[..., 12:])
        word = word * there[..., None]
        none = torch.zeros_like(word[..., :1, :])
        near = torch.cat([word, torch.cat([none, word[..., :-1, :]], -2), torch.cat([word[..., 1:, :], none], -2)], -1)
        h = self.near(near) + self.places[: x.shape[-2]]
        itself = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
        sees = (there[..., None, :] | itself)[..., None, :, :]
        for block in self.blocks:
            h = block(h, sees)
        return torch.cat([self.last(h), near], -1)


class OfPicture(nn.Module):
    """The same of sentences as pictures of one row, ``(N, 12, 1, T)`` to ``(N, 256, 1, T)``, as `Dense` has them."""

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.words(x.squeeze(-2).mT.long()).mT[..., None, :]
        return features


def as_pictures(given: bm.Points) -> bm.Points:
    x = given.x.movedim(-1, -2)[..., None, :].float()
    return bm.Points(x, given.y[..., None, :], given.mask[..., None, :])


class Pictures(bm.tasks.TaskSource):
    """A source's sentences as pictures of one row."""

    def __init__(self, tasks: Any) -> None:
        super().__init__(seed=tasks.seed, length=tasks.length)
        self.tasks = tasks

    def draw(self, generator: torch.Generator) -> bm.Episode:
        episode = self.tasks.draw(generator)
        return bm.Episode(*map(as_pictures, episode))


class Worn(bm.tasks.TaskSource):
    """A source's sentences with pieces of words lost, one in ten, and of one word in five all but its shape and its length.

    So that a network is not told by the words of its training intents what it could see from their surroundings.
    """

    def __init__(self, tasks: Any) -> None:
        super().__init__(seed=tasks.seed, length=tasks.length)
        self.tasks = tasks

    def draw(self, generator: torch.Generator) -> bm.Episode:
        return bm.Episode(*(self.worn(part, generator) for part in self.tasks.draw(generator)))

    @staticmethod
    def worn(given: bm.Points, generator: torch.Generator) -> bm.Points:
        shape = given.x.shape[:-1]
        lost = torch.rand(*shape, 12, generator=generator) < 0.1
        word = (torch.rand(*shape, 1, generator=generator) < 0.2).expand(*shape, 12).clone()
        word[..., 1] = False  # its shape
        lost = lost | word
        lost[..., 2] = False  # its length stays, so that there is a word
        gone = torch.cat([lost, word[..., :1].expand(*shape, given.x.shape[-1] - 12)], -1)
        return given._replace(x=given.x.masked_fill(gone, 0))


def anil(labels: int, vectors: int = 0, layers: int = 2, adapting: int = 20) -> bm.Learner:
    likelihood = bm.likelihoods.Categorical(event_dims=1)
    return bm.ANIL(Words(vectors, layers), nn.Linear(4 * WIDTH, labels), likelihood, steps=adapting, rate=0.3)


def prototypes(labels: int, vectors: int = 0, layers: int = 2) -> bm.Learner:
    return bm.Dense(OfPicture(Words(vectors, layers)), bm.PrototypicalNetwork(nn.Identity(), classes=labels))


class Kind(NamedTuple):
    """How a learner is built, and trained: steps on all intents together, steps on tasks, and their rate."""

    build: Callable[..., bm.Learner]
    first: int
    steps: int
    told: bool = False
    """Whether it has word vectors, worn words, and the names of slots; and then one block of attention."""
    rate: float = 0.001
    members: int = 1


LEARNERS = {
    "ANIL": Kind(anil, 500, 200),
    "prototypes": Kind(prototypes, 500, 300),
    "told more: ANIL": Kind(anil, 700, 400, told=True, rate=0.003),
    "told more: four of ANIL": Kind(anil, 700, 400, told=True, rate=0.003, members=4),
    "told more: prototypes": Kind(prototypes, 700, 400, told=True, rate=0.003),
}


@cache
def sentences() -> dict[str, Any]:
    return bm.tasks.snips()


def split(number: int) -> tuple[list[str], str, str]:
    """Intents for training, and those for validation and test."""
    names = sorted(sentences())
    test, validation = names[number], names[(number + 1) % len(names)]
    return [name for name in names if name not in (test, validation)], validation, test


@cache
def vectors(number: int) -> WordVectors:
    """Of English sentences of other packs, and of those for training."""
    asked = [one.paragraph for one in bm.tasks.xquad(languages=["en"])]
    english = {one for _, translations in bm.tasks.tatoeba().values() for one in translations}
    known = [*bm.tasks.clinc150().texts, *bm.tasks.banking77().texts, *bm.tasks.fewrel().texts, *asked, *english]
    words = [re.findall(r"\w+|[^\w\s]", text) for text in sorted(set(known))]
    return WordVectors.learned([*words, *(w for one in split(number)[0] for w, _ in sentences()[one])], AROUND)


def source(number: int, intents: Sequence[str], told: bool, **settings: Any) -> SlotTasks:
    known = sorted({slot for one in split(number)[0] for _, slots in sentences()[one] for slot in slots if slot})

    def encode(words: Sequence[str]) -> Tensor:
        ids = bm.tasks.spelled(words)
        return torch.cat([ids.float(), vectors(number)(words)], 1) if told else ids

    return SlotTasks(
        {one: sentences()[one] for one in intents}, encode, known=known, labels=1 + len(known) + NEW, **settings
    )


def trained(name: str, number: int, **changed: int) -> tuple[bm.Learner, float]:
    """A learner of a split, and the CPU seconds that it took."""
    kind = LEARNERS[name]._replace(**changed)
    joint = source(number, split(number)[0], kind.told, shots=1, queries=40)
    tasks = source(number, split(number)[0], kind.told, hidden=0.5, queries=15, named=kind.told)
    size = (AROUND, 1) if kind.told else (0, 2)
    began = time.process_time()
    members = []
    for member in range(kind.members):
        torch.manual_seed(number + 100 * member)
        learner = kind.build(tasks.labels, *size)
        start = anil(tasks.labels, *size, adapting=0)
        start.features = body(learner)
        wear = Worn if kind.told else lambda given: given
        fitted(start, wear(joint), kind.first, 0.003)  # all training intents at once, by the slots' names
        if isinstance(learner, bm.ANIL):
            learner.head.load_state_dict(start.head.state_dict())
        given = wear(tasks)
        fitted(learner, Pictures(given) if isinstance(learner, bm.Dense) else given, kind.steps, kind.rate)
        members.append(learner)
    return bm.Ensemble(members) if kind.members > 1 else members[0], time.process_time() - began


def body(learner: Any) -> nn.Module:
    """The words' features that a learner has learned, those of an ensemble side by side."""
    if isinstance(learner, bm.Ensemble):
        return Beside([body(one) for one in learner.learners])
    return learner.features.words if isinstance(learner, bm.Dense) else learner.features


class Beside(nn.Module):
    """Features of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x) for network in self.networks], -1)


def fitted(learner: bm.Learner, tasks: Any, steps: int, rate: float) -> None:
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bm.fit(learner, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler, progress=False)
