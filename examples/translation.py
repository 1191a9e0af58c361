"""Translation from thirty pairs of sentences: a dialect that no learner has seen, and where a translation is in doubt.

Made-up dialects share their seventeen words for numbers, but not what they mean: three of the ones and three of the tens have
changed places, and tens stand before or after ones. English is what they are translated to. A small transformer learns on sixty
dialects how to adapt to a new one, by first-order MAML, two times with other weights. Then both are given thirty pairs of a new
dialect, and translate numbers that these did not show.

    python examples/translation.py  # two minutes on one core: prints translations and a table, saves translation.png

With languages of your own: `bm.tasks.pair_file("pairs.tsv")`, three columns with tabs between.

The picture: how probable the translations of numbers are said to be that the thirty pairs did not show. About three in four are
right, and the surest are; the wrong ones are among those that are said to be in doubt. Before adaptation the learner translates
nothing ("as trained", in the table): where to start from is not what to answer.
"""

import random

import torch
from matplotlib import pyplot as plt

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, ExactMatch

DIALECTS, SHOTS = 60, 30
STEPS = 600
SEED = 0
COLOURS = bm.plots.axes.COLOURS[:2]
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def words() -> list[str]:
    """What all dialects call the ones and the tens, or some of them otherwise."""
    own = random.Random(SEED)
    syllables = [consonant + vowel for consonant in "bdgklmnprst" for vowel in "aeiou"]
    return ["".join(pair) for pair in zip(own.sample(syllables, 17), own.sample(syllables, 17), strict=True)]


def dialect(number: int) -> tuple[list[str], list[str]]:
    """All numbers from 21 to 99 without tens, in a dialect and in English."""
    own = random.Random(number)
    ones, tens = words()[:9], words()[9:]
    for part in (ones, tens):
        a, b, c = own.sample(range(len(part)), 3)
        part[a], part[b], part[c] = part[b], part[c], part[a]
    first = own.random() < 0.5
    pairs = [
        (f"{tens[t]} {ones[o]}" if first else f"{ones[o]} {tens[t]}", f"{TENS[t]} {ONES[o]}")
        for t in range(len(TENS))
        for o in range(len(ONES))
    ]
    return [source for source, _ in pairs], [target for _, target in pairs]


def learner(vocabulary: int, seed: int) -> bm.Learner:
    torch.manual_seed(seed)
    network = bm.networks.Transformer(vocabulary, width=32, heads=4, layers=2, longest=24)
    return bm.FirstOrderMAML(network, bm.likelihoods.Categorical(event_dims=1), steps=5, rate=0.2)


def main(steps: int = STEPS) -> dict[str, dict[str, bm.metrics.Estimate]]:
    """Prints translations with the doubt about each word, and returns how good they are without and with adaptation."""
    pairs = {str(number): dialect(number) for number in range(DIALECTS)}
    tokens = bm.tasks.Tokens.learned([text for both in pairs.values() for part in both for text in part], size=400)
    tasks = bm.tasks.TranslationTasks(pairs, tokens, batch=4, shots=SHOTS, queries=20)
    both = [learner(tokens.size, seed) for seed in (SEED, SEED + 1)]
    for one in both:
        optimizer = torch.optim.Adam(one.parameters(), lr=0.003)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        bm.fit(one, tasks, steps=steps, optimizer=optimizer, scheduler=scheduler)
    new = {str(number): dialect(number) for number in range(1000, 1010)}
    asked = bm.tasks.TranslationTasks(new, tokens, batch=5, shots=SHOTS, queries=None)
    metrics = [NLL(), ECE(), ExactMatch()]
    rows = {"adapted": bm.evaluate(bm.Ensemble(both), asked, episodes=2, metrics=metrics)}
    for one in both:
        one.steps = 0
    rows["as trained"] = bm.evaluate(bm.Ensemble(both), asked, episodes=2, metrics=metrics)
    for one in both:
        one.steps = 5
    print(bm.metrics.summary(rows))

    sources, targets = new["1000"]
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(SEED)).tolist()
    known, others = order[:SHOTS], order[SHOTS:]
    support = bm.tasks.translation_points([sources[k] for k in known], [targets[k] for k in known], tokens)
    posterior = bm.Ensemble(both)(support)
    found = bm.generate(
        posterior, tokens.encode([sources[k] for k in others]), method="beam", count=3, samples=8, longest=20
    )
    best = tokens.decode(found.tokens[0, :, 0])
    for place, k in enumerate(others[:8]):
        doubt, disagreement = found.total[0, place, 0].sum(), found.epistemic[0, place, 0].sum()
        print(
            f"{sources[k]:<12} {best[place]:<16} ({targets[k]}) p = {found.log_prob[0, place, 0].exp():.2f}, "
            f"doubt {doubt:.2f} nats, {disagreement:.2f} of them disagreement"
        )
    p, right = found.log_prob[0, :, 0].exp(), torch.tensor([best[i] == targets[k] for i, k in enumerate(others)])
    figure, pane = plt.subplots(figsize=(6, 3), layout="constrained")
    pane.hist([p[right], p[~right]], bins=20, range=(0, 1), stacked=True, label=["right", "wrong"], color=COLOURS)
    pane.set(xlabel="probability of the translation", ylabel="numbers")
    pane.legend(frameon=False)
    figure.savefig("translation.png", dpi=110)
    return rows


if __name__ == "__main__":
    main()
