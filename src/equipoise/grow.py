"""A run -> the start of the next one, on a log that was extended since: its tables get rows, all else is carried over as it is."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equipoise import checkpoint
from equipoise.config import TrainConfig
from equipoise.data.batches import Batch
from equipoise.data.sharing import table_of
from equipoise.data.store import Log, Split
from equipoise.models.embedding import FeatureEmbedding
from equipoise.models.ranker import Ranker

if TYPE_CHECKING:
    from equipoise.runs import Run

FIXED = ("model", "method", "optimizer", "tasks", "set")
"""Options that the parameters and the optimizer's state hang on."""


def vocabulary_of(log: Log) -> dict[str, Any]:
    """Return what a model of a log depends on: version and digest of the vocabulary, fingerprint of scaling and label statistics."""
    newest, schema = log.manifest["lineage"][-1], log.manifest["schema"]
    meaning = [log.manifest["scaling"], log.manifest.get("edges", {}), schema["features"], schema["labels"]]
    meaning += [schema["label_scale"], schema["label_levels"]]
    content = json.dumps(meaning, sort_keys=True).encode()
    return {
        "version": newest["version"],
        "digest": newest["digest"],
        "scaling": hashlib.sha256(content).hexdigest()[:16],
    }


def check_lineage(path: Path, found: Mapping[str, Any], log: Log) -> None:
    """Raise ValueError unless a log has the vocabulary that a run was trained with, or one that grew out of it.

    Args:
        path: of the run, for the message. found: the run's provenance.
    """
    theirs, ours = found.get("vocabulary"), vocabulary_of(log)
    sizes, now = found.get("num_ids", {}), dict(log.schema.num_ids)
    if theirs is None:  # a run from before vocabularies were named
        if sizes == now:
            return
        raise ValueError(f"run {str(path)!r} does not say which vocabulary it was trained with; train anew")
    if (
        theirs["digest"] not in [entry["digest"] for entry in log.manifest["lineage"]]
        or sizes.keys() != now.keys()
    ):
        what = [
            f"{name} has {now.get(name, 0)} ids and not {sizes.get(name, 0)}"
            for name in {**sizes, **now}
            if sizes.get(name) != now.get(name)
        ]
        raise ValueError(
            f"data {str(log.path)!r} must have the vocabulary that run {str(path)!r} was trained with (version {theirs['version']}, "
            f"{theirs['digest']}) or one extended from it, got {ours['digest']}: {'; '.join(what) or 'other values have the ids'}; extend the "
            "run's log with `equipoise prepare table NEW --extend LOG`, or train anew"
        )
    if theirs["scaling"] != ours["scaling"]:
        raise ValueError(
            f"data {str(log.path)!r} must have the features, labels and scaling that run {str(path)!r} was trained with, got others; train anew"
        )


def options_from(path: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run with those given now over them, for a run that goes on from it.

    Raises:
        ValueError: no run in `path`, an option of `FIXED` or lr "auto" that differs from the run's.
    """
    file = Path(path) / "run.json"
    if not file.is_file():
        raise ValueError(f"from_run {str(path)!r} (--from) must be a run's folder with run.json, found none")
    content = TrainConfig.load(file)
    for name in FIXED:
        if name in given and given[name] != content.get(name):
            raise ValueError(
                f"option {name!r} must be that of run {str(path)!r}, {content.get(name)!r}, whose parameters go on, got {given[name]!r}; leave "
                "it out, or train anew"
            )
    if given.get("lr") == "auto":
        raise ValueError(
            "option lr must be a number with from_run (--from), got 'auto'; leave it out to keep the run's"
        )
    return {**content, **given, "from_run": str(path)}


def starts(config: TrainConfig, path: Path | None) -> bool:
    """Return whether a run begins with another one's state: it names one, and has no checkpoint of its own yet."""
    return config.from_run is not None and (
        path is None or not (path / "checkpoint" / "last.safetensors").is_file()
    )


def check_start(config: TrainConfig, log: Log) -> TrainConfig:
    """Return the options of `config.from_run`; ValueError for a log whose vocabulary did not grow out of that run's."""
    path = Path(str(config.from_run))
    before = TrainConfig.of_run(path)
    if before.method != "single":
        check_lineage(path, before.provenance, log)
    return before


def begin(config: TrainConfig, log: Log, state: Run) -> None:
    """Put the best parameters, the optimizers' and the Balancer's state of `config.from_run` into a fresh run, in place.

    Rows of new ids stay as they were made, and their moments are 0. Learning rate and weight decay are the new run's.

    Raises:
        ValueError: no checkpoint, or a log whose vocabulary did not grow out of the run's.
    """
    path = Path(str(config.from_run))
    before = check_start(config, log)
    moved = moved_rows(state.model, before.provenance["num_ids"])
    best = checkpoint.load(path / "checkpoint" / "best.safetensors")["model"]
    last = checkpoint.load(path / "checkpoint" / "last.safetensors")
    fresh = state.model.state_dict()
    state.model.load_state_dict({name: _grown(best[name], fresh[name], moved.get(name)) for name in fresh})
    names = {id(p): name for name, p in state.model.named_parameters()}
    positions: list[Tensor | None] = []
    for optimizer, saved in zip(state.optimizers, last["optimizers"], strict=True):
        order = [moved.get(names[id(p)]) for group in optimizer.param_groups for p in group["params"]]
        sizes = [len(p) if p.ndim else 0 for group in optimizer.param_groups for p in group["params"]]
        positions += order
        slots = {at: _slots(held, order[at], sizes[at]) for at, held in saved["state"].items()}
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    parameters = [
        p for optimizer in state.optimizers for group in optimizer.param_groups for p in group["params"]
    ]
    state.balancer.load_state_dict(_balancer(last["balancer"], positions, parameters))


def moved_rows(model: Ranker, before: Mapping[str, int]) -> dict[str, Tensor]:
    """Return {name of a table's weight: int64 [old rows], where each row of it lies now}, of every table of a model.

    Args:
        before: {feature: rows of its table} when the old model was made.
    """
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, FeatureEmbedding) or not module.sizes:
            continue
        owner = {f.name: table_of(f) for f in module.schema.with_table}
        starts = {owner[feature]: (start, before[feature]) for feature, start in module.starts.items()}
        rows = [start + torch.arange(size) for start, size in sorted(starts.values())]
        found[f"{name}.table.weight"] = torch.cat(rows)
    return found


def _grown(old: Tensor, fresh: Tensor, rows: Tensor | None) -> Tensor:
    """Return the old tensor, of a table with the fresh rows where there was none."""
    if rows is None:
        return old
    found = fresh.detach().clone()
    found[rows.to(found.device)] = old.to(found.device, found.dtype)
    return found


def _zeros(old: Any, rows: Tensor | None, size: int) -> Any:
    """Return a slot with rows of zeros where a table had none; anything else as it is."""
    if rows is None or not isinstance(old, Tensor) or not old.ndim or len(old) != len(rows):
        return old
    found = old.new_zeros((size, *old.shape[1:]))
    found[rows] = old
    return found


def _slots(slots: Mapping[str, Any], rows: Tensor | None, size: int) -> dict[str, Any]:
    return {name: _zeros(value, rows, size) for name, value in slots.items()}


def _balancer(
    saved: Mapping[str, Any], rows: list[Tensor | None], parameters: list[Tensor]
) -> dict[str, Any]:
    """Return a Balancer's state with every tensor of a table's shape grown, in the tasks' own moments and in tracked gradients."""
    state = copy.deepcopy(dict(saved))

    def size(at: str) -> int:
        return len(parameters[int(at)])

    state["moments"] = {
        task: {
            at: _slots(slots, rows[int(at)], size(at)) if rows[int(at)] is not None else slots
            for at, slots in held.items()
        }
        for task, held in state["moments"].items()
    }
    state["tracks"] = {
        kind: {
            task: {
                at: _zeros(value, rows[int(at)], size(at)) if rows[int(at)] is not None else value
                for at, value in held.items()
            }
            for task, held in found.items()
        }
        for kind, found in state["tracks"].items()
    }
    return state


class Known(Split):
    """A split of an extended log as a model of an earlier version sees it: ids beyond its tables are 0, unseen."""

    def __init__(self, split: Split, num_ids: Mapping[str, int]) -> None:
        self.path, self.parts = split.path, split.parts
        self.schema = split.schema.model_copy(update={"num_ids": dict(num_ids)})
        self.limits = torch.tensor([num_ids[f.name] for f in self.schema.categorical])

    def batches(self, *args: Any, **options: Any) -> Iterator[Batch]:
        """Yield batches as `Split.batches`."""
        for batch in super().batches(*args, **options):
            batch.ids = batch.ids.masked_fill(batch.ids >= self.limits, 0)
            for name, ragged in batch.multi.items():
                ragged.values = ragged.values.masked_fill(ragged.values >= self.schema.num_ids[name], 0)
            yield batch
