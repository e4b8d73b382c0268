"""The server of the logistic regression: SecAgg+ adds the clients' means, one Newton step a round.

Writes JSON to the file that the run's configuration names: `seconds`, from the first round's sampling of clients to the
last step, and `coefficients`, after each round.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

CLIENTS = 4
THRESHOLD = 3  # shares that open a client's mask; each client has one


class Newton(FedAvg):
    """What is averaged is a gradient and a Hessian; what is sent out are coefficients."""

    def __init__(self, columns: int) -> None:
        self.coefficients = np.zeros(columns)
        self.found: list[list[float]] = []
        self.started = 0.0
        self.seconds = 0.0
        super().__init__(
            fraction_evaluate=0,
            min_fit_clients=CLIENTS,
            min_available_clients=CLIENTS,
            initial_parameters=ndarrays_to_parameters([self.coefficients]),
        )

    def configure_fit(self, server_round, parameters, client_manager):
        asked = super().configure_fit(server_round, parameters, client_manager)  # waits until all clients are there
        if server_round == 1:
            self.started = time.perf_counter()
        return asked

    def aggregate_fit(self, server_round, results, failures):
        """SecAgg+ gives every result the same parameters: the clients' average, weighted with their rows."""
        if failures or len(results) != CLIENTS:
            raise RuntimeError(f"{len(results)} clients answered in round {server_round}: {failures}")
        gradient, hessian = parameters_to_ndarrays(results[0][1].parameters)
        self.coefficients = self.coefficients + np.linalg.solve(hessian, gradient)
        self.found.append(self.coefficients.tolist())
        self.seconds = time.perf_counter() - self.started
        return ndarrays_to_parameters([self.coefficients]), {}


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    newton = Newton(int(config["columns"]))
    secure = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=THRESHOLD, max_weight=float(config["rows"]))
    rounds = ServerConfig(num_rounds=int(config["rounds"]))
    DefaultWorkflow(fit_workflow=secure)(grid, LegacyContext(context, rounds, newton))
    if len(newton.found) != rounds.num_rounds:
        raise RuntimeError(f"SecAgg+ finished {len(newton.found)} of {rounds.num_rounds} rounds")
    Path(str(config["result"])).write_text(json.dumps({"seconds": newton.seconds, "coefficients": newton.found}))
