"""Per task, the weights with the lowest validation loss; training stops where nothing improves."""
from collections.abc import Callable

import torch
from torch import Tensor

PATIENCE = 3                   # validations without progress before a task stops


class EarlyStopping:
    """Validates every `every` steps. A task whose loss fell by less than 0.001 in PATIENCE
    validations leaves `active_tasks`, and with it the batches.

    `tasks` have a name; loss_of(name) is a task's validation loss, weights_of(name) the tensors
    that learn it.
    """

    def __init__(self, tasks: list, loss_of: Callable[[str], float],
                 weights_of: Callable[[str], list[Tensor]], every: int):
        self.active_tasks, self.every = list(tasks), every
        self.loss_of, self.weights_of = loss_of, weights_of
        self.best = {task.name: {"loss": torch.inf, "patience_loss": torch.inf, "patience_step": 0}
                     for task in tasks}
        self.validate(0)                               # the start: the base model

    @torch.no_grad()
    def validate(self, step: int) -> None:
        for task in list(self.active_tasks):
            best, loss = self.best[task.name], self.loss_of(task.name)
            best.setdefault("base_loss", loss)

            if loss < best["loss"]:
                weights = [w.clone() for w in self.weights_of(task.name)]
                best |= {"loss": loss, "step": step, "weights": weights}
            if loss < best["patience_loss"] - 1e-3:
                best |= {"patience_loss": loss, "patience_step": step}
            elif step - best["patience_step"] >= PATIENCE * self.every:
                self.active_tasks.remove(task)         # in place: the batches are drawn from it

    def should_stop(self, step: int) -> bool:
        if (step + 1) % self.every == 0:
            self.validate(step + 1)
        return not self.active_tasks

    @torch.no_grad()
    def restore(self, name: str) -> dict:
        """Bring the task's best weights back; what is known of them."""
        for parameter, w in zip(self.weights_of(name), self.best[name]["weights"]):
            parameter.copy_(w)
        return self.best[name]
