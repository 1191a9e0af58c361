"""A game whose rules nobody has told: it is found out by playing, by a learner that knows other games of the kind.

What five buttons do and what five colours mean differs from game to game. A transformer neural process is meta-trained on rule
books: it sees some answers and says the others. Then it plays games under rules that it has never seen. It draws answers one by
one, each fed back, until it has a whole rule book that may be the right one, plays best under it, and draws anew when it has seen
something new: Thompson's sampling. Beside it one who plays by the mean of the same predictions, as if it were right; the exact
posterior, by enumeration of all 14,400 rule books; one who sees nothing; and one who knows the rules.

    python examples/new_rules.py  # half a minute or so on one core: prints a table, saves new_rules.png

The picture: what each level of the game pays to five players; who draws from the neural process comes near the exact posterior
and who knows the rules, and who plays by the mean stays near who sees nothing.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import one_hot

import bayesmeta as bm
from bayesmeta.randomness import seeded
from bayesmeta.tasks import ExactRules, RuleBooks, rule_books
from bayesmeta.tasks.games import Agent, play
from bayesmeta.tasks.rule_books import questions

STEPS, GAMES, SEED = 1000, 64, 0
COLOURS = ["#000000", "#0072B2", "#56B4E9", "#D55E00", "#999999"]


def trained(books: Tensor, steps: int) -> bm.Learner:
    """From some answers to all: ten questions in, each with five answers."""
    torch.manual_seed(SEED)
    encoder, decoder = bm.encoders.Attention(10, 5), bm.networks.MLP(10 + 64, 5)
    process = bm.ConditionalNeuralProcess(encoder, decoder, bm.likelihoods.Categorical())
    optimizer = torch.optim.Adam(process.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    bm.fit(process, RuleBooks(books), steps=steps, optimizer=optimizer, scheduler=scheduler)
    return bm.Rehearsal(process).eval()  # which adapts again to each further answer


def players(learner: bm.Learner, books: Tensor) -> dict[str, Agent]:
    """Each says what the rules may be, given what was seen."""
    asked = questions(len(books))

    def drawn(known: bm.Points) -> Tensor:
        return one_hot(bm.chained(learner(known), asked, samples=1).y[0], 5).float()

    return {
        "who knows the rules": lambda known: one_hot(books, 5).float(),
        "exact posterior, draws": lambda known: ExactRules(known).functions(1)(asked).probs[0],  # type: ignore[attr-defined]
        "neural process, draws": drawn,
        "neural process, mean": lambda known: learner(known)(asked).probs,  # type: ignore[attr-defined]
        "neural process, sees nothing": lambda known: drawn(known._replace(mask=torch.zeros_like(known.mask))),
    }


def picture(found: dict[str, Tensor]) -> Figure:
    """What each level pays, with standard errors over games."""
    figure, pane = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, paid), colour in zip(found.items(), COLOURS, strict=True):
        levels = torch.arange(1, paid.shape[1] + 1)
        error = paid.std(0) / len(paid) ** 0.5
        pane.errorbar(levels, paid.mean(0), error, color=colour, label=name, marker="o", markersize=4, capsize=2)
    pane.set(xlabel="level of the game", ylabel="what it pays", xticks=levels)
    pane.spines[["top", "right"]].set_visible(False)
    pane.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main(steps: int = STEPS, games: int = GAMES, path: str = "new_rules.png") -> dict[str, list[float]]:
    """Prints and returns what each level pays, a mean over games."""
    order = torch.randperm(len(rule_books()), generator=torch.Generator().manual_seed(SEED))
    learner, books = trained(order[games:], steps), rule_books()[order[:games]]
    found = {}
    for name, agent in players(learner, books).items():
        with seeded(SEED):
            found[name] = play(agent, books, generator=torch.Generator().manual_seed(SEED))  # all on the same boards
        print(f"{name:30s}", "  ".join(f"{paid:5.2f}" for paid in found[name].mean(0).tolist()))
    picture(found).savefig(path, dpi=90)
    return {name: paid.mean(0).tolist() for name, paid in found.items()}


if __name__ == "__main__":
    main()
