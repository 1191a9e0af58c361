import pandas as pd
from torch import nn
from torch.optim import Adam

import bayesmeta as bm

frame = pd.read_csv("plants.csv")
known, asked = frame[frame.height.notna()], frame[frame.height.isna()]
x = ["week", "species", "light"]
tasks = bm.tasks_from_frame(
    known, task="plant", x=x, y="height", order="week", categorical=["species"], shots=(1, 6), batch=16
)
line = bm.ALPaCA(nn.Identity(), nn.Linear(len(tasks.columns.features), 1), bm.likelihoods.Gaussian())
learner = bm.Standardized.from_tasks(line, tasks)
bm.fit(learner, tasks, steps=300, optimizer=Adam(learner.parameters(), 0.02), progress=False)
found = bm.predict_frame(learner, known, asked, tasks.columns)
