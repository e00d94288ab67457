"""Training any Equinox model: state, step, optimisers, schedule, run, checkpoints."""

from ._cache import use_compilation_cache as use_compilation_cache
from ._checkpoint import Checkpoints as Checkpoints
from ._devices import (
    data_mesh as data_mesh,
    join_processes as join_processes,
    shard_batches as shard_batches,
)
from ._host_batches import host_batches as host_batches
from ._manifest import CheckpointError as CheckpointError
from ._memory import keep_memory as keep_memory
from ._optim import (
    adam as adam,
    muon as muon,
    ProgressState as ProgressState,
    scale_by_progress as scale_by_progress,
)
from ._run import Progress as Progress, run as run
from ._schedule import paper_schedule as paper_schedule
from ._step import (
    make_step as make_step,
    StepInfo as StepInfo,
    TrainState as TrainState,
)
