"""Training a compiled classifier: graphs, checkpoints, callbacks, and the same numbers as eager."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from lightning_adls.bench.instruments.graphs import watched
from lightning_adls.callbacks import Calibration, OneShot, Pruning, QuantizationAwareTraining
from lightning_adls.classifier import TextClassifier
from lightning_adls.compiling import Machine
from lightning_adls.data import TextData
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import LayerFormats, QuantizedLayer, quantized
from lightning_adls.models import bert
from lightning_adls.transforms import Prune, Quantize
from lightning_adls.transforms.walk import layers_of

pytestmark = pytest.mark.long

LEARNED = [name for name, cls in NumberFormat.classes.items() if cls.learns_scales]
LEARNING = Quantize({"head": {"input": "LearnedInteger(width=4)", "weight": "ResidualSign"}})
ROUNDING_ALL = Quantize({"*": "MXInt(width=4)"})
ROUNDING = Quantize({"head": {"input": "Integer(width=4)", "weight": "MXInt(width=4)"}})


class BagOfWords(nn.Module):
    """As little as a TextClassifier accepts, because a BERT takes seconds per graph."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        words = self.words(input_ids) * attention_mask[:, :, None]
        return SequenceClassifierOutput(logits=self.head(words.mean(1)))


@pytest.fixture(autouse=True)
def no_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without generating code, which takes most of a minute, and forget earlier graphs."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., L.Trainer]:
    """Fit a module; the default is two epochs with validation."""

    def fit(
        module: L.LightningModule,
        data: TextData,
        callbacks: Sequence[L.Callback] = (),
        ckpt_path: Path | None = None,
        **options: Any,
    ) -> L.Trainer:
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
            **{"max_epochs": 2, **options},
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return trainer

    return fit


@pytest.fixture
def uneven(cache_dir: str) -> TextData:
    """Texts in batches of several lengths, of which the last has fewer rows."""
    data = TextData(
        max_length=48,
        limit_train=90,
        limit_val=44,
        batch_size=16,
        eval_batch_size=16,
        cache_dir=cache_dir,
    )
    data.prepare_data()
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        shapes = [batch["input_ids"].shape for batch in loader]
        assert all(len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True))
    return data


def layers(model: nn.Module) -> list[QuantizedLayer]:
    return [module for module in model.modules() if isinstance(module, QuantizedLayer)]


def bag_of_words(data: TextData, transform: Quantize) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier(BagOfWords(data.vocab_size), [transform], compile=True)


def of_every_format() -> nn.Module:
    """A BERT in which each format rounds inputs and weights, with learned scales fitted.

    It also has pruned layers, one with sparse inputs and one that does not round.
    """
    model = bert(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=16,
        max_position_embeddings=8,
        dropout=0.0,
    )
    names = list(layers_of(model))
    assert len(names) >= len(NumberFormat.classes)
    formats = zip(names, cycle(NumberFormat.classes), strict=False)
    Quantize({name: dict.fromkeys(("input", "weight"), f) for name, f in formats})(model)
    Prune(0.5, layers=names[::2])(model)
    layers(model)[1].input_sparsity = 0.5
    layers(model)[-1].enabled = False
    logits(TextClassifier(model))  # the first batch in train mode fits the scales
    return model


def logits(module: TextClassifier) -> Tensor:
    ids = torch.arange(24).view(3, 8)
    return module.logits({"input_ids": ids, "attention_mask": (ids != 23).long()})


@pytest.mark.long
def test_all_formats_compile_to_one_graph_per_mode_that_gives_the_same_bits() -> None:
    eager = of_every_format()
    compiled = TextClassifier(deepcopy(eager), compile=True)
    with watched() as found:
        ours, theirs = logits(compiled), logits(TextClassifier(eager))
        ours.square().sum().backward()
        theirs.square().sum().backward()
    assert (found.graphs, found.breaks) == (1, ())
    assert torch.equal(ours, theirs)
    for (name, parameter), other in zip(
        compiled.model.named_parameters(), eager.parameters(), strict=True
    ):
        assert parameter.grad is not None, name
        assert other.grad is not None, name
        assert torch.equal(parameter.grad, other.grad), name
    with watched() as found, torch.no_grad():
        assert torch.equal(logits(compiled.eval()), logits(TextClassifier(eager.eval())))
    assert (found.graphs, found.breaks) == (1, ())


@pytest.mark.parametrize("name", LEARNED)
def test_a_graph_fits_learned_scales_as_eager_does(name: str) -> None:
    fmt, x = NumberFormat.parse(name), torch.randn(4, 8)
    eager = quantized(nn.Linear(8, 4), LayerFormats(fmt, fmt, fmt))
    compiled = deepcopy(eager)
    compiled.compile(fullgraph=True)
    for _ in range(2):
        assert torch.equal(compiled(x), eager(x))
    states = compiled.state_dict(), eager.state_dict()
    assert states[0].keys() == states[1].keys() >= {"input_scales", "weight_scales"}
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.long
def test_a_fit_of_a_bert_compiles_the_stated_number_of_graphs(
    uneven: TextData, fit: Callable[..., L.Trainer]
) -> None:
    model = bert(
        vocab_size=uneven.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        max_position_embeddings=48,
    )
    with watched() as found:
        fit(TextClassifier(model, compile=True), uneven)
    assert (found.graphs, found.breaks) == (2, ())  # train and validate


@pytest.mark.long
def test_learned_scales_cost_one_graph_per_mode(
    uneven: TextData, fit: Callable[..., L.Trainer]
) -> None:
    module = bag_of_words(uneven, LEARNING)
    with watched() as found:
        trainer = fit(module, uneven)
    assert (found.graphs, found.breaks) == (4, ())  # train and validate, before and after the fit
    with watched() as found:
        trainer.validate(module, datamodule=uneven, verbose=False)
        trainer.test(module, datamodule=uneven, verbose=False)
        trainer.predict(module, datamodule=uneven)
    assert (found.graphs, found.breaks) == (1, ())


def test_a_batch_of_one_row_costs_one_graph(texts: TextData, fit: Callable[..., L.Trainer]) -> None:
    texts.limit_train, texts.batch_size = 17, 8
    module = TextClassifier(BagOfWords(texts.vocab_size), compile=True)
    with watched() as found:
        fit(module, texts, limit_val_batches=0)
    assert (found.graphs, found.breaks) == (2, ())


@pytest.mark.long
def test_each_model_of_a_process_is_compiled_however_many_there_were(
    texts: TextData, fit: Callable[..., L.Trainer]
) -> None:
    for _ in range(torch._dynamo.config.recompile_limit + 1):
        module = TextClassifier(BagOfWords(texts.vocab_size), compile=True)
        with watched() as found:
            fit(module, texts, max_steps=1, limit_val_batches=0)
        assert found.graphs == 1


@pytest.mark.long
def test_rounding_that_begins_later_costs_the_stated_graphs(
    texts: TextData, fit: Callable[..., L.Trainer]
) -> None:
    module = TextClassifier(BagOfWords(texts.vocab_size), compile=True)
    recipe = {"*.head": {"input": "LearnedInteger(width=4)", "weight": "MXInt(width=4)"}}
    with watched() as found:
        fit(module, texts, [QuantizationAwareTraining(recipe, start=0.5)])
    # Train and validate, before and after rounding begins, and the batch that fits the scales.
    assert (found.graphs, found.breaks) == (5, ())
    assert "model.head.input_scales" in module.state_dict()


def test_a_compiled_fit_begins_to_round_when_an_eager_one_does(
    texts: TextData, fit: Callable[..., L.Trainer]
) -> None:
    weights = []
    for compiles in (False, True):
        torch.manual_seed(0)
        module = TextClassifier(BagOfWords(texts.vocab_size), compile=compiles)
        recipe = {"*.head": {"input": "Binary", "weight": "MXInt(width=4)"}}
        fit(module, texts, [QuantizationAwareTraining(recipe, start=0.5), Pruning(OneShot(0.5))])
        weights.append(module.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)


def test_pruning_within_a_fit_costs_no_graph(
    texts: TextData, fit: Callable[..., L.Trainer]
) -> None:
    module = TextClassifier(BagOfWords(texts.vocab_size), compile=True)
    with watched() as found:
        fit(module, texts, [Pruning(OneShot(0.5, at=0.5))])
    assert (found.graphs, found.breaks) == (2, ())
    (head,) = layers(module)
    assert head.weight_mask is not None
    assert head.weight_mask.sum() == 8
    assert (head.rounded_weight() == 0).sum() == 8


def test_calibration_of_a_compiled_module_sees_its_inputs(
    texts: TextData, fit: Callable[..., L.Trainer]
) -> None:
    module = TextClassifier(BagOfWords(texts.vocab_size), compile=True)
    calibration = Calibration({"*.head": {"input": "Integer(width=8)"}})
    with watched() as found:
        fit(module, texts, [calibration])
    assert (found.graphs, found.breaks) == (2, ())
    assert calibration.recipe is not None


def test_checkpoints_have_plain_keys_and_load_either_way(
    texts: TextData, fit: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    module, path = bag_of_words(texts, LEARNING), tmp_path / "compiled.ckpt"
    fit(module, texts, max_steps=1).save_checkpoint(path)
    plain = TextClassifier(BagOfWords(texts.vocab_size), [LEARNING])
    plain.load_weights(path)
    assert list(plain.state_dict()) == list(module.state_dict())
    back = tmp_path / "plain.ckpt"
    fit(plain, texts, max_steps=1).save_checkpoint(back)
    module.load_weights(back)
    for name, value in module.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@pytest.mark.long
def test_a_resumed_compiled_run_ends_where_an_uninterrupted_one_does(
    texts: TextData, fit: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    whole = bag_of_words(texts, LEARNING)
    fit(whole, texts, limit_val_batches=0)
    path, half = tmp_path / "half.ckpt", bag_of_words(texts, LEARNING)
    saving = L.pytorch.callbacks.LambdaCallback(
        on_train_epoch_end=lambda trainer, _: (
            trainer.save_checkpoint(path) if trainer.current_epoch == 0 else None
        )
    )
    fit(half, texts, [saving], limit_val_batches=0)
    resumed = bag_of_words(texts, LEARNING)
    fit(resumed, texts, ckpt_path=path, limit_val_batches=0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


SLOW, FAST = Machine(1.0, frozenset()), Machine(1e30, frozenset())


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Machine], None]:
    """Pretend that the next fits run on a machine, with a cache of its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))

    def on(machine: Machine) -> None:
        monkeypatch.setattr("lightning_adls.classifier.machine", lambda device: machine)

    return on


def test_layers_of_a_fit_compile_to_the_stated_graphs(
    uneven: TextData, fit: Callable[..., L.Trainer]
) -> None:
    model = bert(
        vocab_size=uneven.vocab_size,
        hidden_size=16,
        num_hidden_layers=3,
        intermediate_size=16,
        max_position_embeddings=48,
    )
    with watched() as found:
        fit(TextClassifier(model, [ROUNDING_ALL], compile="layers"), uneven)
    # Train and validate, whatever the number of layers, and batches without padding in each.
    assert 2 <= found.graphs <= 4
    assert found.breaks == ()


def test_auto_compiles_where_that_pays_and_says_so(
    texts: TextData,
    tiny_bert: nn.Module,
    fit: Callable[..., L.Trainer],
    on: Callable[[Machine], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for machine, chosen in ((FAST, False), (SLOW, "layers")):
        on(machine)
        module = TextClassifier(deepcopy(tiny_bert), compile="auto")
        with watched() as found:
            fit(module, texts)
        assert module.hparams["compile"] == chosen
        assert bool(found.graphs) == bool(chosen)
        said = capsys.readouterr().out
        assert said.startswith(f"compile=auto: {chosen or 'eager'}, 6 steps save")
        assert said.count("\n") == 1


@pytest.mark.parametrize(("begun", "later"), [(SLOW, FAST), (FAST, SLOW)])
def test_a_continued_fit_keeps_what_auto_chose(
    begun: Machine,
    later: Machine,
    texts: TextData,
    tiny_bert: nn.Module,
    fit: Callable[..., L.Trainer],
    on: Callable[[Machine], None],
    tmp_path: Path,
) -> None:
    on(begun)
    module = TextClassifier(deepcopy(tiny_bert), compile="auto")
    path = tmp_path / "half.ckpt"
    fit(module, texts, max_epochs=1, limit_val_batches=0).save_checkpoint(path)
    on(later)
    resumed = TextClassifier(deepcopy(tiny_bert), compile="auto")
    with watched() as found:
        fit(resumed, texts, ckpt_path=path, limit_val_batches=0)
    assert resumed.hparams["compile"] == module.hparams["compile"]
    assert bool(found.graphs) == (begun is SLOW)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="compile='some' is not true, false, 'layers' or 'auto'"):
        TextClassifier(BagOfWords(4), compile="some")  # type: ignore[arg-type]
