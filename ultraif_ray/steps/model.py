"""The end of a run: the policy as one plain model folder, with its tokenizer, chat template and a card."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultraif_ray.data.card import model_card
from ultraif_ray.data.export import SPLITS
from ultraif_ray.steps.step import Context, Step, entries_behind
from ultraif_ray.store.ledger import Entry

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Need

SHOWN_TOKENS = 200
"""Most tokens of the answers that are shown before and after training."""

COMPARED = 8
"""Instructions among which one is looked for whose answers before and after differ: one batch."""


@dataclass(frozen=True)
class Model(Step):
    """Take the last policy's model, merged into whole weights where it is an adapter."""

    policy: Step
    evaluation: Step | None = None
    """What the policy was found to be on benchmarks."""

    kind = "model"
    resumes = False
    cheap = True

    def settings(self, context: Context) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def needs(self, context: Context) -> "list[Need]":
        """Room for one worker, which merges and answers."""
        from ultraif_ray.train.settings import worker_need

        return [worker_need(context.recipe.train, count=1)]

    def run(self, context: Context) -> dict[str, Entry]:
        """Write the model and its card; no rows, and so no entry in the ledger."""
        from ultraif_ray.flow.cluster import connect
        from ultraif_ray.train import run as training

        recipe, folder = context.recipe, context.folder
        assert recipe.policy  # noqa: S101 - a plan has no such step without one
        connect(context.worker_logs)
        if recipe.policy.lora is None:
            folder.copy((self.policy.name, "model"), (self.name,))
        else:
            adapter = folder.uri(self.policy.name, "model")
            model, code = recipe.policy.model, recipe.policy.trust_remote_code
            training.merge(recipe.train, model, adapter, folder.uri(self.name), code)
        shown = self._before_and_after(context)
        folder.write_json(shown, self.name, "before_and_after.json")
        table = folder.fs.cat_file(folder.at(self.evaluation.name, "table.md")).decode() if self.evaluation else ""
        folder.write_text(model_card(recipe, entries_behind(self, folder), shown, table), self.name, "README.md")
        return {}

    def _before_and_after(self, context: Context) -> dict[str, Any]:
        """One instruction, answered by the start and by the end: the first to which the two answer differently, if any
        does. Those that the policy was not trained on come first.
        """
        from ultraif_ray.train import run as training
        from ultraif_ray.train.tasks import Chats, read_examples

        recipe, folder = context.recipe, context.folder
        assert recipe.policy  # noqa: S101 - a plan has no such step without one
        shown: dict[str, Any] = {}
        # The first set that the policy was trained on.
        first = "round-1/export/dpo" if recipe.sets and not recipe.sets.sft else "export/sft"
        for split in reversed(SPLITS):
            found = read_examples(folder.uri(first, f"{split}.parquet"), COMPARED)
            if not found:
                continue
            chats = [example["prompt"] for example in found]

            asked = [Chats(folder.uri(self.name), chats)]
            if not recipe.policy.chat_template:  # a base model has no way to be asked
                asked.append(Chats(recipe.policy.model, chats))
            after, *base = training.answer(
                recipe.train, asked, max_new_tokens=SHOWN_TOKENS, trust_remote_code=recipe.policy.trust_remote_code
            )
            if not base:
                return {"split": split, "prompt": chats[0], "after": after[0]}
            (before,) = base
            i = first_difference(before, after)
            pair = {"split": split, "prompt": chats[i], "before": before[i], "after": after[i]}
            if before[i] != after[i]:
                return pair
            shown = shown or pair
        return shown


def first_difference(before: list[str], after: list[str]) -> int:
    """The first place in which two lists of answers differ; 0 where none does."""
    return next((i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]), 0)
