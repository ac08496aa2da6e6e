"""The training steps: examples in, a model in the step's folder out. Ray Train and TRL do the work, in `train/`."""

import sys
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ValidationError

from ultraif_ray.data.export import SPLITS, export
from ultraif_ray.engine.models import weights_version
from ultraif_ray.errors import RunError, UnusableReply
from ultraif_ray.method.compose import Addition, Composed, accept, reply_of
from ultraif_ray.method.prompts import compose as compose_prompted
from ultraif_ray.method.prompts import query_of_composer_request
from ultraif_ray.recipe import Composer, Policy, Recipe, dumped
from ultraif_ray.records import CATEGORIES, Instruction, Message, Turn
from ultraif_ray.steps.serving import composer_pool, is_adapter, policy_pool
from ultraif_ray.steps.sets import ReadSet
from ultraif_ray.steps.step import Context, Step, entries_behind
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, Training

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Need
    from ultraif_ray.train.job import Job
    from ultraif_ray.train.memory import Footprint

Counts = dict[str, dict[str, int]]
"""Examples by split, and in it by what became of them: accepted, too long, no answer; see `tasks.tokenise`."""

_OUTCOMES = ("accepted", "too long", "no answer")


@dataclass(frozen=True)
class TrainingStep(Step):
    """What the three kinds of training share."""

    trainer: ClassVar[Literal["sft", "dpo"]]
    """TRL's trainer."""
    fields_key: ClassVar[str]
    """Where the recipe has the fields of TRL's config."""
    model_key: ClassVar[Literal["composer", "policy"]]
    """Where the recipe has the model."""

    def model(self, recipe: Recipe) -> Composer | Policy:
        """The section of the recipe that says which model is trained, and how."""
        section: Composer | Policy | None = getattr(recipe, self.model_key)
        assert section  # noqa: S101 - a plan has no such step without one
        return section

    def fields(self, recipe: Recipe) -> dict[str, Any]:
        """The fields of TRL's config."""
        return dict(attrgetter(self.fields_key)(recipe))

    def pool(self, recipe: Recipe) -> str:
        """The pool that will serve what is trained."""
        raise NotImplementedError

    @property
    def examples_folder(self) -> str:
        """The folder inside the run with the examples of both splits."""
        raise NotImplementedError

    def write_examples(self, context: Context) -> None:
        """Write the examples, where no export did."""

    def start(self, context: Context) -> str:
        """URI of the training step whose model this one goes on from; empty for the recipe's own model."""
        return ""

    def chat_template(self, recipe: Recipe) -> str:
        """The text of the chat template that the model gets; empty where it has one."""
        return ""

    def settings(self, context: Context) -> dict[str, Any]:
        """The model, TRL's fields, and the examples of one optimizer step however many workers share them."""
        recipe, elsewhere = context.recipe, {"pool", "sft", "chat_template", "prompts"}
        return {
            "model": dumped(self.model(recipe), elsewhere),
            "weights": weights_version(self.model(recipe).model),
            "on_gpu": recipe.train.gpus > 0,
            "fields": self.fields(recipe),
            "global_batch": recipe.global_batch(self.fields(recipe)),
            "seed": recipe.seed,
            "chat_template": self.chat_template(recipe),
        }

    def check(self, context: Context) -> None:
        """Refuse what training could not use, before anything is spent on making its data.

        Raises:
            RecipeError: naming the key, the value seen and what would be right.
        """
        from ultraif_ray.train import memory, settings

        recipe = context.recipe
        settings.check_place(recipe, self.fields(recipe))
        settings.check_fields(self.fields_key, self.trainer, self.fields(recipe), recipe.seed)
        settings.check_model(self.model_key, self.model(recipe))
        settings.check_modules(self.model_key, self.model(recipe), self.fields_key, self.fields(recipe))
        if has := memory.card([recipe.train.accelerator_type or ""]):
            memory.check_card(self.fields_key, self.footprint(context), has)

    def footprint(self, context: Context) -> "Footprint":
        """The memory that one worker takes."""
        from ultraif_ray.train import memory, settings

        recipe, model = context.recipe, self.model(context.recipe)
        shapes = memory.shapes_of(settings.load_config(self.model_key, model), model.lora, model.trust_remote_code)
        fields, lora = self.fields(recipe), model.lora is not None
        return memory.footprint(shapes, self.trainer, fields, lora=lora, train=recipe.train)

    def needs(self, context: Context) -> "list[Need]":
        """Room for the fewest workers."""
        from ultraif_ray.train.settings import worker_need

        return [worker_need(context.recipe.train)]

    def takes_at_most(self, context: Context) -> "list[Need] | None":
        """See `Step.takes_at_most`."""
        from ultraif_ray.train.settings import worker_need

        return [worker_need(context.recipe.train, context.recipe.train.workers.max)]

    def run(self, context: Context) -> dict[str, Entry]:
        """Train on the examples that fit.

        Raises:
            RunError: there is nothing to train on, or training failed for good.
        """
        from ultraif_ray.train import run as training

        recipe, folder = context.recipe, context.folder
        training.connect_and_wait(recipe.train, context.worker_logs)
        self.write_examples(context)
        job = self._job(context)
        counts = {
            split: training.tokenise(job, folder.uri(self.examples_folder, f"{split}.parquet"), target)
            for split, target in zip(SPLITS, (job.train, job.held_out), strict=True)
        }
        if self.too_few(recipe, counts):
            return {self.name: self.without_examples(context, counts)}
        if not counts["held_out"].get("accepted"):
            job = replace(job, held_out="")
        report = training.fit(job, recipe.train, self.name, recipe.flow.progress_s, context.worker_logs)
        trained = self.model(recipe)
        if trained.lora is not None and not is_adapter(recipe, trained, self.pool(recipe)):
            folder.clear(self.name, "merged")
            model, merged = folder.uri(self.name, "model"), folder.uri(self.name, "merged")
            training.merge(recipe.train, trained.model, model, merged, trained.trust_remote_code)
        return {self.name: _entry(counts, self.evaluate(context, report))}

    def too_few(self, recipe: Recipe, counts: Counts) -> str:
        """Why there is no training; empty where there are enough examples."""
        return "" if counts["train"].get("accepted") else "there is no example to train on"

    def without_examples(self, context: Context, counts: Counts) -> Entry:
        """What to do where too few examples fit.

        Raises:
            RunError: why there is none.
        """
        where, longest = context.folder.uri(self.examples_folder), self.fields(context.recipe).get("max_length")
        found, too_long = _all(counts["train"]), counts["train"].get("too long", 0)
        if too_long:
            why = f"none of the {found} examples in {where} fits into {self.fields_key}.max_length={longest}: raise it"
        elif found:
            why = f"the chat template gives the answers of the {found} examples in {where} no token: give another one"
        elif held_out := _all(counts["held_out"]):
            why = f"all {held_out} examples in {where} are held out: lower export.held_out, or give more prompts"
        else:
            why = (
                f"there is no example to train on in {where}: give more prompts or a better model; `ultraif show "
                f"{context.folder}` shows what became of the rows"
            )
        raise RunError(f"{self.name}: {why}. What was made before is kept, and the same command goes on from it")

    def evaluate(self, context: Context, report: Training) -> Training:
        """Add to the report what the trained model can do."""
        return report

    def _job(self, context: Context) -> "Job":
        from ultraif_ray.train.job import Job

        recipe, folder, model = context.recipe, context.folder, self.model(context.recipe)
        return Job(
            kind=self.trainer,
            model=model.model,
            start=self.start(context),
            chat_template=self.chat_template(recipe),
            trust_remote_code=model.trust_remote_code,
            lora=model.lora,
            fields=self.fields(recipe),
            train=folder.uri(self.name, "examples", "train.parquet"),
            held_out=folder.uri(self.name, "examples", "held_out.parquet"),
            output=folder.uri(self.name),
            global_batch=recipe.global_batch(self.fields(recipe)),
            seed=recipe.seed,
            gpu=recipe.train.gpus > 0,
            save_every_s=recipe.train.save_every_s,
            keep=recipe.train.keep_for_evaluation,
            goes_on=self.model_key == "policy",
        )


def _entry(counts: Counts, report: Training | None = None) -> Entry:
    """The account of a training: where each of its examples went."""
    from ultraif_ray.train.tasks import CONTROL

    outcomes = {
        "trained on": counts["train"].get("accepted", 0),
        "held out": counts["held_out"].get("accepted", 0),
        "too long": sum(split.get("too long", 0) for split in counts.values()),
        "no answer": sum(split.get("no answer", 0) for split in counts.values()),
    }
    return Entry(
        input=sum(map(_all, counts.values())),
        outcomes={name: n for name, n in outcomes.items() if n},
        control_tokens=sum(split.get(CONTROL, 0) for split in counts.values()),
        training=report,
    )


def _all(split: dict[str, int]) -> int:
    return sum(split.get(outcome, 0) for outcome in _OUTCOMES)


# ---- the three kinds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainComposer(TrainingStep):
    """Train an UltraComposer on the constraints that were decomposed (paper, section 2.2)."""

    rows: Step
    """The decomposed rows; or a set of pairs that existed already."""

    kind = "composer"
    trainer = "sft"
    fields_key = "composer.sft"
    model_key = "composer"

    def pool(self, recipe: Recipe) -> str:
        """See `TrainingStep.pool`."""
        return composer_pool(recipe)

    def settings(self, context: Context) -> dict[str, Any]:
        """How many prompts are held out too: the pairs are written here."""
        return super().settings(context) | {"held_out": context.recipe.export.held_out}

    @property
    def examples_folder(self) -> str:
        """The pairs of the decomposed rows."""
        return f"{self.rows.name if isinstance(self.rows, ReadSet) else f'{self.name}/pairs'}/composer"

    def write_examples(self, context: Context) -> None:
        """Turn every constraint of the decomposed rows into a pair."""
        if isinstance(self.rows, ReadSet):
            return
        recipe, folder = context.recipe, context.folder
        if recipe.composer and recipe.composer.prompts:  # the card names these
            recipe = recipe.model_copy(update={"prompts": recipe.composer.prompts})
        behind = entries_behind(self, folder)
        export(recipe, folder, self.rows.name, f"{self.name}/pairs", ("composer",), behind)

    def too_few(self, recipe: Recipe, counts: Counts) -> str:
        """See `composer.min_pairs`, and pairs to try it on; of pairs that existed already, one will do."""
        if isinstance(self.rows, ReadSet) or not recipe.composer:
            return super().too_few(recipe, counts)
        found, wanted = counts["train"].get("accepted", 0), recipe.composer.min_pairs
        if found < wanted:
            return f"{found} pairs to train on, fewer than composer.min_pairs={wanted}"
        untried = recipe.composer.eval_samples and not counts["held_out"].get("accepted")
        return "no pair is held out to try it on (export.held_out)" if untried else ""

    def without_examples(self, context: Context, counts: Counts) -> Entry:
        """With too few pairs the prompted composer stays, and the run says so; given pairs are an error.

        Raises:
            RunError: none of the pairs that existed already can be used.
        """
        if isinstance(self.rows, ReadSet):
            return super().without_examples(context, counts)
        why = self.too_few(context.recipe, counts)
        print(f"{self.name}: {why}: the prompted composer stays", file=sys.stderr)
        entry = _entry(counts, Training(loss=[], held_out_loss=[], takes_over=False))
        outcomes = {"too few to train on" if name == "trained on" else name: n for name, n in entry.outcomes.items()}
        return entry.model_copy(update={"outcomes": outcomes})

    def evaluate(self, context: Context, report: Training) -> Training:
        """Let the trained composer answer held-out pairs freely (no schema), and the model that it started from,
        prompted, the same queries; count what the journey could use. The prompted one stays where it is better. Pairs
        that existed already are for the composer alone, so that nothing is there to be compared with.
        """
        from ultraif_ray.train import run as training
        from ultraif_ray.train.tasks import Chats, read_examples

        recipe, folder, model = context.recipe, context.folder, self.model(context.recipe)
        assert isinstance(model, Composer)  # noqa: S101 - by its key
        if not model.eval_samples:
            return report.model_copy(update={"takes_over": True})
        pairs = read_examples(folder.uri(self.name, "examples", "held_out.parquet"), model.eval_samples)
        if not pairs:  # of pairs that existed already
            return report
        place, chats = folder.uri(self.name, "model"), [pair["prompt"] for pair in pairs]
        asked = [Chats(place, chats) if model.lora is None else Chats(model.model, chats, adapter=place)]
        queries = [query_of_composer_request(chat[-1]["content"]) for chat in chats]
        if not isinstance(self.rows, ReadSet):
            asked.append(Chats(model.model, _prompted(recipe, pairs)))
        answers = training.answer(
            recipe.train,
            asked,
            max_new_tokens=recipe.roles.composer.max_tokens,
            trust_remote_code=model.trust_remote_code,
        )
        valid, usable = _tried(Composed, queries, answers[0])
        report = report.model_copy(update={"evaluated": len(pairs), "valid_json": valid, "usable": usable})
        if len(answers) == 1:
            return report
        _, usable_prompted = _tried(reply_of(recipe.templates_of_roles), queries, answers[1])
        if usable < usable_prompted:
            print(
                f"{self.name}: of {len(pairs)} held-out pairs {usable:.0%} of its answers can be used, and "
                f"{usable_prompted:.0%} of the prompted model's: the prompted composer stays",
                file=sys.stderr,
            )
        return report.model_copy(update={"usable_prompted": usable_prompted, "takes_over": usable >= usable_prompted})


def _prompted(recipe: Recipe, pairs: list[dict[str, Any]]) -> list[list[Message]]:
    """What a prompted composer is asked about the queries of pairs, the categories in turn."""
    told = recipe.templates_of_roles
    starts = [
        Instruction(initial_query=start["query"], history=[Turn.model_validate(turn) for turn in start["history"]])
        for start in (pair["start"] for pair in pairs)
    ]
    return [compose_prompted(told, start, CATEGORIES[i % len(CATEGORIES)]) for i, start in enumerate(starts)]


def _tried(reply_model: type[Composed | Addition], queries: list[str], texts: list[str]) -> tuple[float, float]:
    """The fractions of a composer's answers that are valid JSON, and that the journey could use."""
    valid = usable = 0
    for query, text in zip(queries, texts, strict=True):
        try:
            reply = reply_model.model_validate_json(text)
            valid += 1
            accept(reply, text, Instruction(initial_query=query))
            usable += 1
        except (ValidationError, UnusableReply):
            continue
    return round(valid / len(queries), 3), round(usable / len(queries), 3)


def takes_over(folder: RunFolder, composer: Step) -> bool:
    """Whether a trained composer composes from here on; before it is trained, that it will."""
    entry = ledger.read(folder).get(composer.name)
    return not (entry and entry.training and entry.training.takes_over is False)


@dataclass(frozen=True)
class PolicyTraining(TrainingStep):
    """What SFT and DPO of the policy share."""

    examples: Step
    """The export whose set of the step's kind is trained on."""
    policy: Step | None = None
    """The training whose model this one goes on from, and which is DPO's reference; None for the recipe's own model."""

    model_key = "policy"

    def pool(self, recipe: Recipe) -> str:
        """See `TrainingStep.pool`."""
        return policy_pool(recipe)

    @property
    def examples_folder(self) -> str:
        """The set of the step's kind."""
        return f"{self.examples.name}/{self.kind}"

    def chat_template(self, recipe: Recipe) -> str:
        """`policy.chat_template`: a base model gets it in its first training, and keeps it."""
        template = recipe.policy.chat_template if recipe.policy and not self.policy else None
        return Path(template).read_text(encoding="utf-8") if template else ""

    def start(self, context: Context) -> str:
        """The policy of the training before."""
        return context.folder.uri(self.policy.name) if self.policy else ""


@dataclass(frozen=True)
class TrainSFT(PolicyTraining):
    """SFT of the policy."""

    kind = "sft"
    trainer = "sft"
    fields_key = "sft"

    def check(self, context: Context) -> None:
        """See `TrainingStep.check`; and that the policy, with a chat template of the recipe's, will stop."""
        from ultraif_ray.train import settings

        super().check(context)
        policy = context.recipe.policy
        if policy and policy.chat_template:
            settings.check_end(settings.load_tokenizer(self.model_key, policy), self.fields(context.recipe))


@dataclass(frozen=True)
class TrainDPO(PolicyTraining):
    """DPO of the policy, one round."""

    kind = "dpo"
    trainer = "dpo"
    fields_key = "dpo"

    def check(self, context: Context) -> None:
        """See `TrainingStep.check`; what is laid over `dpo` in the last round is named where it stands."""
        from ultraif_ray.train import settings

        if self.round == context.recipe.align.iterations:
            settings.check_values("align.last_round_dpo", self.trainer, context.recipe.align.last_round_dpo or {})
        super().check(context)

    def without_examples(self, context: Context, counts: Counts) -> Entry:
        """A round that found no pair keeps the policy that it began with, and says so; given pairs are an error.

        Raises:
            RunError: none of the pairs that existed already can be used.
        """
        if self.policy is None or isinstance(self.examples, ReadSet):
            return super().without_examples(context, counts)
        print(f"{self.name}: no pair to train on; the policy of {self.policy.name} is kept unchanged", file=sys.stderr)
        for part in ("model", "merged", "master"):
            context.folder.copy((self.policy.name, part), (self.name, part))
        return _entry(counts)
