import pandas as pd
from torch import nn
from torch.optim import Adam

import bayesmeta as bm

frame = pd.read_csv("sensors.csv")
frame["time"] = pd.to_datetime(frame.time, utc=True)
frame["hour"] = (frame.time - frame.time.min()) / pd.Timedelta(hours=1)
known, asked = frame[frame.reading.notna()], frame[frame.reading.isna()]
x = ["hour", "temperature", "humidity"]
tasks = bm.tasks_from_frame(known, task="sensor", x=x, y="reading", order="time", missing=True, shots=(3, 7), batch=16)
line = bm.ALPaCA(nn.Identity(), nn.Linear(len(tasks.columns.features), 1), bm.likelihoods.Gaussian())
learner = bm.Standardized.from_tasks(line, tasks)
bm.fit(learner, tasks, steps=300, optimizer=Adam(learner.parameters(), 0.02), progress=False)
found = bm.predict_frame(learner, known, asked, tasks.columns)
