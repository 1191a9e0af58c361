"""Three tables as people have them, made and not real: plants, sensors, clinics. `python tests/tables/made.py` writes them anew.

What is to be told is empty in the files; the functions here know it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent


def plants(rows: np.random.Generator) -> pd.DataFrame:
    """Heights in cm by week of 60 plants of three species, in more or less light; a plant grows at a rate of its own."""
    frames = []
    for plant in range(60):
        species, light = rows.choice(["oak", "birch", "pine"]), rows.uniform(2, 10)
        rate = {"oak": 2.0, "birch": 5.0, "pine": 3.0}[species] + 0.3 * light + rows.normal(0, 0.7)
        week = np.arange(1, 9)
        height = 5 + rows.normal(0, 2) + rate * week + rows.normal(0, 0.8, 8)
        frames.append(
            pd.DataFrame({"plant": f"p{plant}", "species": species, "light": light, "week": week, "height": height})
        )
    return pd.concat(frames, ignore_index=True).round(2)


def sensors(rows: np.random.Generator) -> pd.DataFrame:
    """Readings of 40 sensors, each with an offset and a drift, by temperature and humidity, of which some are lost."""
    frames = []
    for sensor in range(40):
        hour = np.sort(rows.choice(72, 12, replace=False))
        moved = pd.Series(
            pd.Timestamp("2026-03-28", tz="Europe/Rome") + pd.to_timedelta(hour, "h")
        )  # the clocks change
        temperature = 15 + 8 * np.sin(2 * np.pi * (hour - 9) / 24) + rows.normal(0, 1, 12)
        humidity = rows.uniform(30, 90, 12)
        reading = 10 + rows.normal(0, 3) + (0.05 + rows.normal(0, 0.03)) * hour + 0.4 * temperature + 0.1 * humidity
        humidity[rows.random(12) < 0.25] = np.nan
        frames.append(
            pd.DataFrame(
                {
                    "sensor": sensor,
                    "time": moved.map(lambda t: t.isoformat()),
                    "temperature": temperature,
                    "humidity": humidity,
                }
            ).assign(reading=reading + rows.normal(0, 0.5, 12))
        )
    return pd.concat(frames, ignore_index=True).round(2)


def clinics(rows: np.random.Generator) -> pd.DataFrame:
    """Whether patients had to come back, about one in six, by age and drug, in the wards of 40 clinics, which differ."""
    frames = []
    for clinic in range(40):
        for ward in ("A", "B"):
            age, drug = rows.integers(20, 90, 16), rows.choice(["none", "old", "new"], 16)
            odds = (
                -2.8
                + rows.normal(0, 1)
                + (age - 55) / 10
                + np.select([drug == "old", drug == "new"], [-0.5, -1.5], 1.0)
            )
            back = np.where(rows.random(16) < 1 / (1 + np.exp(-odds)), "yes", "no")
            frames.append(pd.DataFrame({"clinic": clinic, "ward": ward, "age": age, "drug": drug, "back": back}))
    return pd.concat(frames, ignore_index=True)


def table(name: str) -> tuple[pd.DataFrame, pd.Series]:
    """A table with what is to be told left empty, and what would stand there, by row."""
    rows = np.random.default_rng(26)
    frame, task, target, known = {
        "plants": (plants, ["plant"], "height", 3),
        "sensors": (sensors, ["sensor"], "reading", 8),
        "clinics": (clinics, ["clinic", "ward"], "back", 8),
    }[name]
    whole = frame(rows)
    place, number = whole.groupby(task).cumcount(), whole.groupby(task, sort=False).ngroup()
    asked = (number >= 0.75 * number.max()) & (place >= known)
    return whole.assign(**{target: whole[target].mask(asked)}), whole[target][asked]


if __name__ == "__main__":
    for name in ("plants", "sensors", "clinics"):
        table(name)[0].to_csv(HERE / f"{name}.csv", index=False)
