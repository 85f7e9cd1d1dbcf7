"""One rank's part of a decoder: how it is made, computes, and fits into the whole.

Its gradients are of the *sum* of the loss over the global batch. A rank has the slices of
``tensor``, the stages of ``pipeline`` and the shards of ``sharding``; DTensors over all of them
are made only as views, for checkpoints and optimizers.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from starkiln.model.decoder import Decoder
from starkiln.model.loss import Batch, Sums, summed
from starkiln.model.parallel import context, pipeline, sharding
from starkiln.model.parallel.collectives import ALONE, Group
from starkiln.model.parallel.mesh import Mesh
from starkiln.model.parallel.pipeline import Pipe
from starkiln.model.parallel.share import Share, Stage
from starkiln.model.parallel.slices import Read, Slices, local
from starkiln.model.settings import DEFERRED, DecoderSettings, ParallelSettings

TIED = "transformer.wte.weight"


class Part:
    """This rank's share of a decoder, and how it computes.

    ``read(name, rows)`` gives rows (None: all) of a parameter of the whole model, float32: each
    rank asks for what it holds. ``prepare(decoder)`` may put other modules in, on the meta device,
    where neither tensor nor pipeline parallelism is. Every rank must have as many sequences, of
    one length, and the layout must divide model and batch (``train.plan`` checks).
    """

    def __init__(
        self,
        config: DecoderSettings,
        vocab_size: int,
        mesh: Mesh,
        *,
        parallel: ParallelSettings,
        device: torch.device,
        dtype: torch.dtype,
        micro_batch: int,
        read: Read,
        z_loss: float = 0.0,
        mask_documents: bool = False,
        compile: bool = False,
        prepare: Callable[[Decoder], object] | None = None,
    ) -> None:
        self.mesh, self.device, self.micro_batch, self.z_loss = mesh, device, micro_batch, z_loss
        # GPUs compute with copies of the weights in ``dtype``, CPUs cast in the products alone.
        self.dtype = dtype if device.type == "cuda" else torch.float32
        autocast = dtype if dtype is not self.dtype else None
        count = mesh.pipeline * parallel.chunks
        assert count <= config.n_layer
        self.modules = [
            Share(
                config,
                vocab_size,
                stage=Stage(index, count),
                tensors=Group.of(mesh.group("tensor")) if mesh.tensor > 1 else ALONE,
                contexts=mesh.contexts,
                mask_documents=mask_documents,
                autocast=autocast,
            )
            for index in range(mesh.pipeline_rank, count, mesh.pipeline)
        ]
        if prepare is not None:
            assert mesh.tensor == mesh.pipeline == 1
            prepare(self.modules[0])
            self.modules[0].note_shapes()
        shapes = {name: shape for share in self.modules for name, shape in share.shapes.items()}
        self.slices = Slices(config, mesh, shapes)
        # With one shard, or with stages that take turns, freeing weights would save nothing.
        self.keep = mesh.shards == 1 or mesh.pipeline > 1
        for share in self.modules:
            share.work(compile=compile, recompute=parallel.recompute == "blocks")
            self._materialise(share, read)
        self.parameters = {n: p for share in self.modules for n, p in share.named_parameters()}
        self.defer = self._defers()
        self.pipe: tuple[torch.Size, Pipe] | None = None

    def _materialise(self, share: Share, read: Read) -> None:
        devices = self.mesh.devices
        if devices is not None and (self.mesh.shards > 1 or self.device.type == "cuda"):
            sharding.shard(share, devices["shard"], self.dtype, self.keep)
        share.to_empty(device=self.device)
        for name, parameter in share.named_parameters():
            self.slices.fill(name, parameter.detach(), read)

    def _defers(self) -> bool:
        """Whether gradients are summed over ranks once a step: they fit, or stages need it."""
        if self.device.type != "cuda" or self.mesh.pipeline > 1:
            return True
        size = 4 * sum(p.numel() for p in self.parameters.values() if p.requires_grad)
        room = torch.cuda.get_device_properties(self.device).total_memory
        return self.mesh.share(size < DEFERRED * room)  # all alike, be their GPUs ever so unlike

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters here by their names in the whole model; FSDP's are DTensors.

        ``wte`` is on the first and on the last stage, under its one name and with equal values.
        """
        yield from self.parameters.items()

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter, or a tensor like it, as a DTensor of the whole one; alone: as it is."""
        return self.slices.view(name, tensor)

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        for share in self.modules:
            share.train(mode)

    def accumulate(self, batch: Batch) -> Sums:
        """Add the gradients of the sum of the loss over this rank's ``batch``, in micro-batches.

        ``tokens`` are int64 [B, T + 1] and ``mask`` bool [B, T]. The sums are zeros but on the
        first tensor rank of the last stage; context ranks have each their part.
        """
        ids, targets, mask = self._inputs(batch["tokens"], batch["mask"])
        if self.mesh.pipeline > 1:
            return self._sums(self._pipe(ids).step(ids, targets, mask), mask)
        pieces = self._pieces(ids, targets, mask)
        outs = []
        for i, (some, wanted, where) in enumerate(pieces, 1):
            last, share = i == len(pieces), self.modules[0]
            sharding.announce(share, last=last, reduce=not self.defer, keep=self.keep)
            out = share.run(None, some, wanted)
            self._loss(out, where).backward()
            outs.append(out.detach())
        return self._sums(torch.cat(outs), mask)

    @torch.no_grad()
    def evaluate(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Nats float32 [B] of each sequence's targets; zeros as in ``accumulate``."""
        nats = []
        for some, wanted, where in self._pieces(*self._inputs(tokens, mask)):
            if self.mesh.pipeline > 1:
                group = self.mesh.group("pipeline")
                out = pipeline.forward(self.modules, group, some, wanted, self.dtype)
            else:
                out = self.modules[0].run(None, some, wanted)
            nats.append(self._sums(out, where).nats)
        for share in self.modules:
            sharding.free(share)
        return torch.cat(nats)

    def _inputs(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = tokens.to(self.device, non_blocking=True)
        return tokens[:, :-1], tokens[:, 1:], mask.to(self.device, non_blocking=True)

    def _pieces(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        return list(zip(*(t.split(self.micro_batch) for t in tensors), strict=True))

    def _summed(self, out: Tensor, mask: Tensor) -> Sums:
        nats, normaliser = out.unbind(1)
        return summed(nats, normaliser, context.share(mask, self.mesh.contexts), self.z_loss)

    def _loss(self, out: Tensor, mask: Tensor) -> Tensor:
        return self._summed(out, mask).loss

    def _sums(self, out: Tensor | None, mask: Tensor) -> Sums:
        """Those of the rank that counts them; of others zeros."""
        if out is not None and self.mesh.tensor_rank == 0:
            return self._summed(out.detach(), mask)
        zeros = torch.zeros(len(mask), device=mask.device)
        return Sums(zeros.sum(), zeros, zeros.long())

    def _pipe(self, ids: Tensor) -> Pipe:
        """The schedule for batches of this shape, which all of a run's steps have."""
        if self.pipe is None or self.pipe[0] != ids.shape:
            count, group = len(ids) // self.micro_batch, self.mesh.group("pipeline")
            like = ids[: self.micro_batch]
            made = Pipe(self.modules, group, count, like, self.dtype, self._loss)
            self.pipe = ids.shape, made
        return self.pipe[1]

    def _gradients(self) -> dict[str, Tensor]:
        return {n: local(p.grad) for n, p in self.parameters.items() if p.grad is not None}

    @torch.no_grad()
    def finish(self) -> None:
        """Complete a step's gradients, once: replicas' over tensor ranks, the tied one's over
        stages."""
        gradients = self._gradients()
        partial = [g for name, g in gradients.items() if self.slices.replicas(name) > 1]
        if partial:
            whole = torch.cat([g.flatten() for g in partial])
            dist.all_reduce(whole, group=self.mesh.group("tensor"))
            for g, sums in zip(partial, whole.split([g.numel() for g in partial]), strict=True):
                g.copy_(sums.view_as(g))
        if self.mesh.pipeline > 1 and TIED in gradients:
            pipeline.tied_sum(gradients[TIED], self.mesh.group("pipeline"))

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """The Euclidean norm of the whole gradient, each number counted once; equal everywhere."""
        gradients = self._gradients()
        if self.mesh.pipeline_rank > 0:
            gradients.pop(TIED, None)
        squares = 0.0
        if gradients:
            norms = torch._foreach_norm(list(gradients.values()), 2, dtype=torch.float64)
            replicas = [self.slices.replicas(name) for name in gradients]
            each = torch.stack(list(norms)).square().cpu() / torch.tensor(replicas)
            squares = each.sum().item()
        return self.mesh.sum([squares])[0] ** 0.5

    @torch.no_grad()
    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient."""
        gradients = list(self._gradients().values())
        if gradients:
            torch._foreach_mul_(gradients, factor)
