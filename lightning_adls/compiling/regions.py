"""Compiling a whole network, or only the layers that it repeats, once for all of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_adls.compiling.cache import keep_on_disk
from lightning_adls.errors import InputValueError

# Graphs of one block: to train and to validate, of one row and of more, without padding, and those
# before scales are fitted. Twice torch's own limit for a function.
GRAPHS_PER_BLOCK = 16

_numbers = count()


def compile_whole(model: nn.Module) -> None:
    """Compile a module in place when it is first called.

    Its state dict, its class and copies of it stay as they are; a copy is not compiled. Graphs are
    kept on disk, see :func:`lightning_adls.compiling.keep_on_disk`. Call it with inputs whose
    changing sizes are marked by ``torch._dynamo.maybe_mark_dynamic``, or torch compiles a graph for
    the first size and another for all.

    Args:
        model: Any module. It may be changed until it is called; later changes compile anew.

    Raises:
        RuntimeError: When called, if it needs more than 16 graphs, instead of running eagerly.
    """
    _compile((model,), lambda arguments: None)


def compile_layers(model: nn.Module) -> list[nn.Module]:
    """Compile the repeated layers of a network in place: one graph serves all that are alike.

    Layers that differ, in their formats say, have graphs of their own; what is not in a repeated
    layer (embeddings, the head) runs eagerly. So compiling takes as long for 12 layers as for one.
    Each kind of layer takes a graph to train and one to evaluate, for all sizes but a batch of one
    row, and one more of each where Transformers leaves out the mask, for batches without padding.
    Layers whose input needs no gradient (the first one, if the embeddings are frozen) are a kind of
    their own.

    Args:
        model: Any module, a LightningModule too. See :func:`repeated_blocks`. The first two
            dimensions of the first tensor that a layer is called with, batch and length, may change
            from call to call, and with them dimensions of the same sizes of the others.

    Returns:
        The compiled layers.

    Raises:
        ValueError: If there are none.
        RuntimeError: When called, if they need more than 16 graphs each, instead of running
            eagerly.

    Example:
        >>> from lightning_adls import bert
        >>> network = bert(vocab_size=9, hidden_size=8, num_hidden_layers=3, num_attention_heads=1)
        >>> [type(layer).__name__ for layer in compile_layers(network)]
        ['BertLayer', 'BertLayer', 'BertLayer']
    """
    blocks = list(repeated_blocks(model))
    if not blocks:
        raise InputValueError(
            f"compile_layers: {type(model).__name__} has no nn.ModuleList of layers of one class; "
            "compile it as a whole."
        )
    _compile(blocks, _mark_batch_and_length)
    return blocks


def repeated_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The layers that a network repeats, in order.

    They are what outermost ``nn.ModuleList`` hold whose modules are of one class and made of other
    modules: the layers of an encoder and of a decoder, not the experts within one.
    """
    for child in model.children():
        if isinstance(child, nn.ModuleList) and _alike(child):
            yield from child
        else:
            yield from repeated_blocks(child)


def _alike(modules: nn.ModuleList) -> bool:
    return len({type(module) for module in modules}) == 1 and all(
        any(True for _ in module.children()) for module in modules
    )


def _compile(blocks: Sequence[nn.Module], prepare: Callable[[Any], None]) -> None:
    """Have the blocks share what is compiled, and nothing with any other model."""
    keep_on_disk()

    def call_block(block: nn.Module, *arguments: Any, **named: Any) -> Any:
        return block._call_impl(*arguments, **named)

    # Torch keeps graphs with the code object, counts them there over all models and after 256 of
    # them compiles no more: a search with many trials would come to that.
    call_block.__code__ = call_block.__code__.replace(co_name=f"call_block_{next(_numbers)}")
    limit = GRAPHS_PER_BLOCK * len(blocks)
    # Its annotations leave these out.
    options: dict[str, Any] = {"recompile_limit": limit, "isolate_recompiles": True}
    compiled: Callable[..., Any] = torch.compile(call_block, **options)

    # Else torch runs eagerly what is over the limit, and says so in a log.
    refusing = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)

    def call(block: nn.Module, *arguments: Any, **named: Any) -> Any:
        prepare((arguments, named))
        with refusing:
            try:
                return compiled(block, *arguments, **named)
            except torch._dynamo.exc.FailOnRecompileLimitHit as error:
                raise RuntimeError(
                    f"{type(block).__name__}: compiled {limit} times, and it would have to be once "
                    "more, because something about it keeps changing; TORCH_LOGS=recompiles says "
                    "what. Train without compile."
                ) from error

    for block in blocks:
        # What `nn.Module.compile` sets; copies and pickles leave it out.
        block._compiled_call_impl = partial(call, block)


def _mark_batch_and_length(arguments: Any) -> None:
    """Let one graph serve all batches and lengths.

    Not by ``dynamic=True``, which turns the constants of a format into variables too.
    """
    tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    if not tensors:
        return
    sizes = set(tensors[0].shape[:2])
    for number, tensor in enumerate(tensors):
        dimensions = range(tensor.ndim if number else min(2, tensor.ndim))
        changing = [d for d in dimensions if tensor.shape[d] in sizes]
        torch._dynamo.maybe_mark_dynamic(tensor, changing)
