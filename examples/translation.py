"""Translation from thirty pairs of sentences: a tiny language that no learner has seen, and where a translation is in doubt.

Made-up languages name numbers by words of their own and put tens before or after ones; English is what they are translated to. A
small transformer learns on twenty of them how to adapt to a new one, by first-order MAML, two times with other weights. Then both
are given thirty pairs of a new language, and translate numbers that these did not show.

    python examples/translation.py  # half a minute on one core: prints translations and a table, saves translation.png

With languages of your own: `bm.tasks.pair_file("pairs.tsv")`, three columns with tabs between.

The picture: how probable the translations of numbers are said to be that the thirty pairs did not show. None is above one in
three, and few are right: a short training has taught what English numbers look like, and the learner knows that it knows no more.
"""

import random

import torch
from matplotlib import pyplot as plt

import bayesmeta as bm
from bayesmeta.metrics import ECE, NLL, ExactMatch

LANGUAGES, SHOTS = 20, 30
STEPS = 150
SEED = 0
COLOURS = bm.plots.axes.COLOURS[:2]
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def language(number: int) -> tuple[list[str], list[str]]:
    """All numbers from 21 to 99 without tens, in a language and in English."""
    own = random.Random(number)
    words = ["".join(own.choice("bdgklmnprst") + own.choice("aeiou") for _ in range(2)) for _ in ONES + TENS]
    ones, tens, first = words[: len(ONES)], words[len(ONES) :], own.random() < 0.5
    pairs = [
        (" ".join([tens[t], ones[o]] if first else [ones[o], tens[t]]), f"{TENS[t]} {ONES[o]}")
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
    pairs = {str(number): language(number) for number in range(LANGUAGES)}
    tokens = bm.tasks.Tokens.learned([text for both in pairs.values() for part in both for text in part], size=400)
    tasks = bm.tasks.TranslationTasks(pairs, tokens, batch=2, shots=SHOTS, queries=20)
    both = [learner(tokens.size, seed) for seed in (SEED, SEED + 1)]
    for one in both:
        bm.fit(one, tasks, steps=steps, optimizer=torch.optim.Adam(one.parameters(), lr=0.003))
    new = {str(number): language(number) for number in range(1000, 1010)}
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
