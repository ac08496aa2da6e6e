"""The order of rows in training: deterministic, whatever dies and however many workers there are.

Position in the data is the number of optimizer steps and nothing else. Step `s` of an epoch takes rows `s*G` to
`(s+1)*G` of that epoch's permutation, where G is the global batch, however many workers share them. So a run that was
killed and goes on with another number of workers sees every row once an epoch, and the same rows in the same steps.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

FILLER = -1
"""Row and id of an example that only fills up a step and is not learnt from."""


class StepSampler(Sampler[int]):
    """Row indices of one epoch, step by step, with `filler` where a step's share does not go up evenly.

    Args:
        rows: how many rows there are.
        global_batch: rows of one step.
        slots: rows that all workers together take in one step, at least `global_batch`.
        filler: the index to fill up with.
        seed: decides the permutations.
        epoch: tells the epoch, when an iteration begins.
    """

    def __init__(
        self, rows: int, global_batch: int, slots: int, filler: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._rows, self._global_batch, self._slots, self._filler = rows, global_batch, slots, filler
        self._seed, self._epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self._seed, self._epoch()]).permutation(self._rows)
        for start in range(0, self._rows, self._global_batch):
            step = order[start : start + self._global_batch].tolist()
            yield from step + [self._filler] * (self._slots - len(step))

    def __len__(self) -> int:
        return math.ceil(self._rows / self._global_batch) * self._slots


def with_filler(dataset: Dataset, kind: str) -> Dataset:
    """The dataset with one more example at its end that teaches nothing: no token of it is an answer."""
    filler = dict(dataset[0])
    filler |= {name: FILLER for name in ("row", "id") if name in filler}
    if kind == "dpo":
        filler["prompt_ids"] = filler["prompt_ids"][:2]
        filler["chosen_ids"] = filler["rejected_ids"] = []
        filler |= {name: 0.0 for name in ("ref_chosen_logps", "ref_rejected_logps") if name in filler}
    else:
        filler["input_ids"] = filler["input_ids"][:2]
        filler["labels"] = [-100] * len(filler["input_ids"])
        if "seq_lengths" in filler:
            filler["seq_lengths"] = [len(filler["input_ids"])]
    return concatenate_datasets([dataset, Dataset.from_list([filler], features=dataset.features)])


def with_row_ids(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """TRL's collator, with rows and ids beside the tokens. Packed sequences hold several rows and have none."""

    def collate_with_ids(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(examples)
        if "row" in examples[0]:
            batch["rows"] = torch.tensor([[example["row"], example["id"]] for example in examples])
        return batch

    return collate_with_ids


class DeterministicOrder:
    """What both trainers get: the order of rows by step, and a record of the rows that were learnt from."""

    global_batch: int
    seen: list[Any]
    """Per example learnt from: (step, epoch, row, id)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = []
        self._rows_of_step: list[torch.Tensor] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        me: Any = self
        rows = len(me.train_dataset) - 1  # the last is the filler
        slots = me.args.per_device_train_batch_size * me.args.gradient_accumulation_steps * me.args.world_size
        steps = math.ceil(rows / self.global_batch)
        # The epoch follows from the steps done: accelerate's set_epoch does not reach a sampler behind skipped batches.
        return StepSampler(
            rows, self.global_batch, slots, rows, me.args.seed, lambda: int(me.state.global_step // steps)
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, with the ids of the batch taken out and kept."""
        rows = inputs.pop("rows", None)
        if rows is not None and model.training:
            self._rows_of_step.append(rows)
        return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]  # the trainer's

    def note_rows(self) -> None:
        """After a step: gather which rows it took, and remember them on rank 0. All workers call it together."""
        me: Any = self
        if not self._rows_of_step:
            return
        rows = me.accelerator.gather(torch.cat(self._rows_of_step)).tolist()
        self._rows_of_step = []
        steps = math.ceil((len(me.train_dataset) - 1) / self.global_batch)
        epoch = (me.state.global_step - 1) // steps
        if me.args.process_index == 0:
            self.seen += [(me.state.global_step, epoch, row, one) for row, one in rows if row != FILLER]


class OrderedSFTTrainer(DeterministicOrder, SFTTrainer):
    """TRL's SFT trainer."""


class OrderedDPOTrainer(DeterministicOrder, DPOTrainer):
    """TRL's DPO trainer."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """The examples have their tokens; the SFT trainer sees that by itself."""
        return dataset
