"""A client of the logistic regression: the mean gradient and Hessian of its rows, masked by SecAgg+.

Its rows are the `.npy` file that its node configuration names: float64 [rows, columns + 1], the outcome (0 or 1) last,
the other columns between -2 and 2, so that nothing is clipped.
"""

from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.client import Client, ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod


class Rows(NumPyClient):
    def __init__(self, file: Path) -> None:
        rows = np.load(file)
        self.design, self.outcome = rows[:, :-1], rows[:, -1]

    def fit(self, parameters: list[np.ndarray], config: dict) -> tuple[list[np.ndarray], int, dict]:
        """Gradient [columns] and Hessian [columns, columns] of the mean log-likelihood, at the coefficients given."""
        chance = 1 / (1 + np.exp(-self.design @ parameters[0]))
        count = len(self.outcome)
        gradient = self.design.T @ (self.outcome - chance) / count
        hessian = (self.design * (chance * (1 - chance))[:, None]).T @ self.design / count
        return [gradient, hessian], count, {}


def client(context: Context) -> Client:
    return Rows(Path(str(context.node_config["file"]))).to_client()


app = ClientApp(client_fn=client, mods=[secaggplus_mod])
