"""Recipes: everything that decides how a model is trained, typed, in one YAML file (docs/TRAINING.md).

A recipe is a list of stages. Each stage reads the outputs of earlier ones by name and has an output keyed by the hash
of all that went into it, so that a changed recipe reruns only what it touches.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Strict):
    """One data set on disk.

    Attributes:
        name: Of the data set; batches and candidates stay within it.
        format: Name of a reader.
        path: Relative to the recipe's `data_root`, or absolute.
        group: Task group such as "IT->T", when the format does not say.
        instructions: Row of the paper's instruction table; None = `name`.
        split: Which part of the files to read.
        limit: Use only so many rows, chosen by the seed.
        weight: Relative share of batches; None = in proportion to rows.
        samples: Rows that the paper states, for plans without data.
        max_tiles: 1 for photos, 4 for documents.
        judged: False leaves the set out of judging (HatefulMemes: the other label is a certain negative).
        licence: Of the data; `plan` and `data check` list it.
    """

    name: str
    format: str
    path: str
    group: str | None = None
    instructions: str | None = None
    split: str = "train"
    limit: Count | None = None
    weight: Annotated[float, Field(gt=0)] | None = None
    samples: Count | None = None
    max_tiles: Count = 1
    judged: bool = True
    licence: str = "unknown"


class Optimiser(Strict):
    """AdamW and its learning rate over time."""

    lr: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0


class Lora(Strict):
    """Low-rank adapters; merged into the weights at the end of a stage.

    Attributes:
        rank: Of the adapters.
        alpha: Scale is alpha / rank.
        dropout: On the adapters' input.
        parts: Where adapters sit: parts of the model whose linear layers get them.
    """

    rank: Count = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Share = 0.05
    parts: tuple[Literal["vision", "connector", "language"], ...] = ("language",)


class FalseNegatives(Strict):
    """Which in-batch candidates are masked out of the denominator; each rule counts what it masks.

    Attributes:
        same_id: Candidates of pairs with the query's id.
        same_content: Candidates whose content equals the positive's.
        margin: Candidates scored above positive + margin; None = off.
    """

    same_id: bool = True
    same_content: bool = True
    margin: float | None = None


class Loss(Strict):
    """InfoNCE and what is added to it.

    Attributes:
        temperature: Fixed (paper: 0.03).
        symmetric: Also candidate -> query; the paper has one direction.
        false_negatives: The mask.
        matryoshka: Also train these leading dimensions, weighed equally; empty = off.
        precision: Also train vectors as they will be stored: "int8" or "binary" (straight-through); None = off.
        judge_weight: Weight of KL to the judge's scores over positive and hard negatives; 0 = off.
        judge_temperature: Of the judge's margins in that target.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.03
    symmetric: bool = False
    false_negatives: FalseNegatives = FalseNegatives()
    matryoshka: tuple[Count, ...] = ()
    precision: Literal["int8", "binary"] | None = None
    judge_weight: Annotated[float, Field(ge=0)] = 0.0
    judge_temperature: Annotated[float, Field(gt=0)] = 1.0


class Batch(Strict):
    """How many samples make a step.

    Attributes:
        per_device: Pairs or instruction samples that one process puts into a step.
        micro: Of these, how many go through the model at once: GradCache for contrastive stages, gradient
            accumulation for others. None = all.
        single_source: Batches hold one data set only.
    """

    per_device: Count
    micro: Count | None = None
    single_source: bool = True


class TrainingStage(Strict):
    """What all stages with gradients share.

    Attributes:
        name: Unique in the recipe; other stages refer to it.
        init: Name of the stage whose checkpoint is the start; None = the recipe's base.
        data: Sources; empty for stages that read another stage's output only.
        epochs: Passes over the data; ignored with `steps`.
        steps: Optimiser steps; None = from epochs.
        lora: None trains all parameters.
        gradient_checkpointing: Recompute activations instead of keeping them.
        dtype: Of the forward pass; parameters under an optimiser stay in float32 with "float32", else bf16 autocast.
        save_every: Steps between resumable checkpoints.
        max_bad_share: Share of samples that may be skipped as broken before the run stops.
        max_tokens: Longest sequence.
        quantised_forward: Train against rounded weights (straight-through), so that int8 or int4 loses less.
        known_hours: For plans: device-hours that this stage took elsewhere, to compare with.
    """

    name: Name
    init: str | None = None
    data: tuple[Source, ...] = ()
    epochs: Annotated[float, Field(gt=0)] = 1
    steps: Count | None = None
    batch: Batch
    optimiser: Optimiser
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    save_every: Count = 500
    max_bad_share: Share = 0.01
    max_tokens: Count = 1024
    quantised_forward: Literal["int8", "int4"] | None = None
    known_hours: Annotated[float, Field(gt=0)] | None = None


class Restoration(TrainingStage):
    """Stage 1: next-token loss on instruction samples, packed to `max_tokens`."""

    kind: Literal["restoration"] = "restoration"
    packing: bool = True


class Contrastive(TrainingStage):
    """Stages 2a, 2b and 3: InfoNCE with in-batch and, with `negatives`, hard negatives.

    Attributes:
        negatives: Name of a mining or judge stage whose negatives are used; None = in-batch only.
        negatives_each: Hard negatives of each query (paper: 2 mined, 12 judged).
        use_explicit: Also use negatives that the data brings.
        keep_head: Keep what next-token logits need, so that a generative stage can start from the result. The loss does
            not see logits: a matrix of their own stays as it was, one shared with the token table changes as that does.
        loss: The loss.
    """

    kind: Literal["contrastive"] = "contrastive"
    negatives: str | None = None
    negatives_each: Annotated[int, Field(ge=0)] = 0
    use_explicit: bool = False
    keep_head: bool = False
    loss: Loss = Loss()

    @model_validator(mode="after")
    def _consistent(self) -> Contrastive:
        if (self.negatives is not None) != (self.negatives_each > 0):
            raise ValueError("negatives and negatives_each go together")
        return self


class Maps(Strict):
    """Made-up feature maps (nano/maps.py).

    Attributes:
        class_share: Share of maps that show a class; the others are noise.
        gain: Least and most logit that a class gets.
        second_share: Share of these that show a second class.
        cutmix_share: Share of maps that have a part of another.
    """

    class_share: Share = 0.8
    gain: tuple[float, float] = (1.0, 17.0)
    second_share: Share = 0.3
    cutmix_share: Share = 0.3


class Distillation(TrainingStage):
    """Training of the built-in model: its vectors follow its concept bank's (issue 8; nothing of the paper).

    Attributes:
        maps: What it is shown.
        samples: Maps that count as one epoch.
        composed_share: Share of samples with words.
        scene_share: Share of these whose words name a scene, not a class.
        cosine_weight: Of 1 - cosine to the teacher.
        divergence_weight: Of KL over the concepts.
        caption_weight: Of the vectors of captions in what is wanted, beside the teacher's.
        contrast_weight: Of InfoNCE with hard negatives, for samples with words.
        temperature: Of the scores in both.
        matryoshka: Shorter lengths that take part in it.
    """

    kind: Literal["distillation"] = "distillation"
    maps: Maps = Maps()
    samples: Count = 65536
    composed_share: Share = 0.35
    scene_share: Share = 0.0
    cosine_weight: Annotated[float, Field(ge=0)] = 5.0
    divergence_weight: Annotated[float, Field(ge=0)] = 1.0
    caption_weight: Annotated[float, Field(ge=0)] = 0.0
    contrast_weight: Annotated[float, Field(ge=0)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 0.05
    matryoshka: tuple[Count, ...] = ()


class Mining(Strict):
    """Global hard-negative mining: rank all candidates of a sub-data set, drop the truth, sample from a window.

    Attributes:
        name: Of the stage.
        init: Contrastive stage whose model ranks.
        data: Sources.
        ranks: First and last rank of the window, counted from 1 after the truth is dropped.
        each: Negatives of each query.
        margin: Never take candidates scored above positive + margin; None = off.
        backend: Exact search in torch, or faiss (flat, exact too).
    """

    kind: Literal["mining"] = "mining"
    name: Name
    init: str
    data: tuple[Source, ...]
    ranks: tuple[Count, Count] = (50, 100)
    each: Count = 2
    margin: float | None = None
    backend: Literal["torch", "faiss"] = "torch"
    batch: Count = 32

    @model_validator(mode="after")
    def _window(self) -> Mining:
        if self.ranks[0] > self.ranks[1]:
            raise ValueError("ranks: the first rank of the window lies after the last")
        return self


class JudgeModel(Strict):
    """Who judges.

    Attributes:
        kind: "own" = a generative checkpoint of ours, "transformers" = a local folder of a vision-language model,
            "endpoint" = an OpenAI-compatible server.
        path: Name of a restoration stage or a folder ("own"), a folder ("transformers"), a URL ("endpoint").
        model: Name of the model at an endpoint.
        dtype: Of the weights.
    """

    kind: Literal["own", "transformers", "endpoint"]
    path: str
    model: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class Judge(Strict):
    """An MLLM compares the yes/no logits of the top candidates (paper 3.3).

    Attributes:
        init: Contrastive stage whose model ranks.
        judge: Who judges.
        top: Candidates of a query that are judged.
        each: Negatives that are kept.
        batch: Questions at a time.
        unclear_share: Stop beyond this share of answers that are neither yes nor no.
        approves: "yes" = what the judge says yes to (paper); "above_target" = only where it does so no less surely than
            for the query's own target (ours, for judges that say yes too easily). Answers without a margin count as
            they are.
    """

    kind: Literal["judge"] = "judge"
    name: Name
    init: str
    data: tuple[Source, ...]
    judge: JudgeModel
    top: Count = 20
    each: Count = 12
    batch: Count = 8
    unclear_share: Share = 0.05
    approves: Literal["yes", "above_target"] = "yes"


class Reranker(TrainingStage):
    """Pointwise Yes/No and listwise index losses, from the stage-1 checkpoint (paper 3.4).

    Attributes:
        judged: Name of the judge stage whose approved and rejected candidates are used.
        listwise: Fewest and most negatives of a list.
        weights: Of the pointwise and the listwise loss.
    """

    kind: Literal["reranker"] = "reranker"
    judged: str
    listwise: tuple[Count, Count] = (2, 5)
    weights: tuple[float, float] = (1.0, 1.0)


class Benchmark(Strict):
    """One benchmark on disk."""

    name: str
    format: str
    path: str
    options: dict[str, str | int | float | bool] = {}


class Evaluation(Strict):
    """Scores of a model on benchmarks.

    Attributes:
        init: Contrastive stage whose model is scored.
        reranker: Reranker stage whose model reorders the top candidates; None = embedder alone.
        rerank_top: How many (paper: 5).
        benchmarks: What is measured.
    """

    kind: Literal["evaluation"] = "evaluation"
    name: Name
    init: str
    reranker: str | None = None
    rerank_top: Count = 5
    benchmarks: tuple[Benchmark, ...]
    batch: Count = 32


Stage = Annotated[
    Restoration | Contrastive | Distillation | Mining | Judge | Reranker | Evaluation, Field(discriminator="kind")
]


class Model(Strict):
    """The model that is trained.

    Attributes:
        base: Checkpoint folder, of either layout; relative to the recipe's `data_root`, or absolute.
        size: For plans without a checkpoint: which of the family's shapes.
        compression: 2 = 64 visual tokens a tile, 1 = 256.
        image_size: Side of a tile; None = as stored (224 with compression 1 is the no-pool variant).
    """

    base: str
    size: Literal["1B", "2B", "8B"] | None = None
    compression: Literal[1, 2] = 2
    image_size: Count | None = None


class Hardware(Strict):
    """What a plan is made for.

    Attributes:
        devices: Processes, one for each accelerator.
        memory_gb: Of one accelerator; 0 = CPU.
        tflops: Dense bf16 peak of one accelerator.
        utilisation: Share of it that training reaches; where that was measured is said in the recipe.
    """

    devices: Count = 1
    memory_gb: Annotated[float, Field(ge=0)] = 0
    tflops: Annotated[float, Field(gt=0)] = 0.05
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.35


class Assumptions(Strict):
    """What a plan takes for granted about samples that it does not read.

    Attributes:
        prompt_tokens: Of the chat template, the system message and the instruction around a sample's own content.
        query_text_tokens: Of a query's text.
        target_text_tokens: Of a candidate's text.
        conversation_tokens: Of the text of an instruction sample.
        conversation_tiles: Mean tiles of an instruction sample, thumbnails counted, samples without picture too.
        document_tiles: Mean tiles of a visual document, thumbnail counted.
        padding_share: Share of the tokens that go through the model only because others of the batch are longer.
    """

    prompt_tokens: Count = 64
    query_text_tokens: Count = 24
    target_text_tokens: Count = 32
    conversation_tokens: Count = 200
    conversation_tiles: Annotated[float, Field(ge=0)] = 1.0
    document_tiles: Annotated[float, Field(ge=1)] = 5.0
    padding_share: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Recipe(Strict):
    """All stages of one model.

    Attributes:
        name: Of the run.
        seed: Of everything random.
        data_root: What other paths of the recipe are relative to. Itself relative to the file that names it, or to the
            current folder when given on the command line.
        model: What is trained.
        hardware: What plans are made for.
        assumptions: What plans assume about the data.
        stages: In order; a stage refers only to earlier ones.
    """

    name: str
    seed: int = 0
    data_root: str = "."
    model: Model
    hardware: Hardware = Hardware()
    assumptions: Assumptions = Assumptions()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        kinds: dict[str, str] = {}
        for stage in self.stages:
            if stage.name in kinds:
                raise ValueError(f"two stages are named {stage.name!r}")
            for field, wanted in _REFERENCES.get(stage.kind, {}).items():
                other = getattr(stage, field)
                if other is not None and kinds.get(other) not in wanted:
                    raise ValueError(
                        f"stage {stage.name!r}: {field} is {other!r}, which is no earlier stage of kind "
                        f"{' or '.join(sorted(wanted))}"
                    )
            kinds[stage.name] = stage.kind
        return self

    def stage(self, name: str) -> Stage:
        """Return the stage of a name that the recipe is known to have."""
        return next(stage for stage in self.stages if stage.name == name)


_TRAINED = {"restoration", "contrastive"}
_REFERENCES: dict[str, dict[str, set[str]]] = {
    "restoration": {"init": _TRAINED},
    "contrastive": {"init": _TRAINED, "negatives": {"mining", "judge"}},
    "distillation": {"init": {"distillation"}},
    "mining": {"init": _TRAINED},
    "judge": {"init": _TRAINED},
    "reranker": {"init": _TRAINED, "judged": {"judge"}},
    "evaluation": {"init": _TRAINED, "reranker": {"reranker"}},
}
"""Which fields of a stage name earlier stages, and of which kinds these may be."""
