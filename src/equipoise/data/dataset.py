"""A split's batches for torch's DataLoader: every worker of every rank takes its own rows."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import IterableDataset, get_worker_info

from equipoise.data.batches import Batch
from equipoise.data.store import Split


class BatchDataset(IterableDataset[Batch]):
    """A split's batches for `torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=...)`.

    Every worker of every rank takes its own rows of one order (see `batches`), so that an epoch has each row once. Call `set_epoch` before each
    epoch, as with torch's DistributedSampler.

    Args:
        split: of a log. batch_size: rows a batch. shuffle, seed, drop_last, rank, world_size: as `batches`.

    Example:
        >>> loader = DataLoader(BatchDataset(log.split("train"), 1024, shuffle=True), batch_size=None, num_workers=2)  # doctest: +SKIP
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from the next iteration on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from self.split.batches(
            self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=self.epoch,
            drop_last=self.drop_last,
            rank=self.rank * workers + number,
            world_size=self.world_size * workers,
        )
