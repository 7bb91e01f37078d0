"""A frozen base divided over the processes of a training.

Each process holds a share of every layer and borrows the rest while it computes with that layer: FSDP2, torch's
`fully_shard`; the third stage of ZeRO (Rajbhandari et al. 2020). What is trained stays whole in each process, so
steps, checkpoints and results are those of a training whose base is not divided.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from oleaster.training.cluster import Cluster

WHY_GENERIC = "a base that is divided over processes is computed layer by layer as transformers does"


def shard(model: Any, cluster: Cluster) -> tuple[int, int]:
    """Divide the frozen weights of the layers of a `models.generic.Generic` over the processes, in place.

    Embeddings and head stay whole: they are used outside of any layer.

    Returns: bytes of the model's weights (held by this process, altogether).
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    trunk: nn.Module = model.causal_lm.base_model
    mesh = init_device_mesh(cluster.device.type, (cluster.size,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in _layers(trunk):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(trunk, mesh=mesh, ignored_params={p for p in trunk.parameters() if not isinstance(p, DTensor)})
    held = sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in model.parameters())
    return held, sum(p.numel() * p.element_size() for p in model.parameters())


def _layers(trunk: nn.Module) -> nn.ModuleList:
    """The layers of a transformer: its longest list of modules."""
    return max((module for module in trunk.modules() if isinstance(module, nn.ModuleList)), key=len)
