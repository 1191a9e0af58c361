import pandas as pd
from torch import nn
from torch.optim import Adam

import bayesmeta as bm

frame = pd.read_csv("clinics.csv")
known, asked = frame[frame.back.notna()], frame[frame.back.isna()]
known = known.assign(back=known.back == "yes")
task, x = ["clinic", "ward"], ["age", "drug"]
tasks = bm.tasks_from_frame(known, task=task, x=x, y="back", categorical=["drug"], shots=(0, 9), batch=16)
line = bm.LaplaceHead(nn.Identity(), nn.Linear(len(tasks.columns.features), 1), bm.likelihoods.Bernoulli())
learner = bm.Standardized.from_tasks(line, tasks)
bm.fit(learner, tasks, steps=100, optimizer=Adam(learner.parameters(), 0.02), progress=False)
found = bm.predict_frame(learner, known, asked, tasks.columns)
