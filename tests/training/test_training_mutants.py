"""What the tests of training, networks and exchange promise, broken once on purpose: the tests named must notice.

A mutant is a copy of the package with one line changed; the tests run on it in a process of their own.
"""

import pytest

from tests.mutants import assert_noticed

pytestmark = pytest.mark.slow

MUTANTS = {
    "the split draws the shuffle's numbers": (
        "training/validation.py",
        "arithmetic.SPLIT",
        "arithmetic.SHUFFLE",
        "test_the_split_is_the_contracts",
    ),
    "the split rounds down": (
        "training/validation.py",
        "fraction * len(members) + 0.5",
        "fraction * len(members)",
        "test_the_split_is_the_contracts",
    ),
    "the split looks at no class": (
        "training/validation.py",
        "if classed else [",
        "if False else [",
        "test_the_split_is_the_contracts",
    ),
    "of equal epochs the last is the best": (
        "training/history.py",
        "(sign * number(name, value), epoch)",
        "(sign * number(name, value), -epoch)",
        "test_the_best_epoch_is_the_first",
    ),
    "each epoch is kept as the best": (
        "training/trainer.py",
        "if better:\n                folder",
        "if True:\n                folder",
        "test_the_best_epoch_is_kept",
    ),
    "patience waits one epoch more": (
        "training/validation.py",
        "- max(best, first) < patience",
        "- max(best, first) <= patience",
        "test_patience_counts_epochs",
    ),
    "a resumed run forgets its best epoch": (
        "training/trainer.py",
        "None if best is None else folder.read_best",
        "None if True else folder.read_best",
        "test_training_stops_early or test_killed_between",
    ),
    "the best is written after the checkpoint": (
        "training/run.py",
        'if about["epoch"] not in (epoch, done + 1):',
        'if about["epoch"] != epoch:',
        "test_killed_between",
    ),
    "a stale best file stays": (
        "training/run.py",
        "self.best.unlink(missing_ok=True)",
        "pass",
        "test_a_best_file_left",
    ),
    "a validation loss of NaN passes": (
        "training/trainer.py",
        'if not isfinite(record["validation_loss"]):',
        "if False:",
        "test_a_validation_loss",
    ),
    "resuming takes any validation": (
        "training/trainer.py",
        "settings_of(self, epochs, *everything) | validated_by",
        "settings_of(self, epochs, *everything)",
        "test_resuming_with",
    ),
}
_OWN = "training/test_own_code.py"
OTHERS = {
    "metrics read what the proof of a recording wrote": (
        "training/measuring.py",
        "if before is not None and steps.repeats(count):",
        "if False:",
        "training/test_metrics.py",
        "measures_what_it_sees and numba",
    ),
    "of equal outputs the last is the largest": (
        "metrics.py",
        "(scores == own) & before",
        "(scores == own) & ~before",
        "training/test_metrics.py",
        "first_of_equal",
    ),
    "label maps stay when images move": (
        "training/steps.py",
        "moving = replace(augmentation, cutout=0, mean=None, std=None)",
        "moving = NO_AUGMENTATION",
        "models/test_new_networks.py",
        "labels_move",
    ),
    "layers are not asked whether they can be recorded": (
        "training/steps.py",
        "*self.model.layer.walk(), self.loss, self._clip",
        "self.loss, self._clip",
        _OWN,
        "trains_to_the_same_weights and numba and BatchNorm",
    ),
    "the loss is not asked": (
        "training/steps.py",
        "self.loss, self._clip, self.optimizer]",
        "self._clip, self.optimizer]",
        _OWN,
        "trains_to_the_same_weights and numba and loss",
    ),
    "the optimiser is not asked": (
        "training/steps.py",
        "self._clip, self.optimizer]",
        "self._clip]",
        _OWN,
        "trains_to_the_same_weights and numba and optimiser",
    ),
    "clipping and the model are not asked": (
        "training/steps.py",
        "self.model, *self.model.layer.walk(), self.loss, self._clip, ",
        "*self.model.layer.walk(), self.loss, ",
        _OWN,
        "clipping_and_a_model",
    ),
    "a declaration is inherited": (
        "recordable.py",
        "if any(_overrides(",
        "if False and any(_overrides(",
        _OWN,
        "trains_to_the_same_weights and numba",
    ),
    "a helper that is overridden counts for nothing": (
        "recordable.py",
        "return name in _FAR_REACHING or any(",
        'return name in ("__call__", "update") and any(',
        _OWN,
        "trains_to_the_same_weights and numba and helper",
    ),
    "nothing is proved": (
        "training/recording.py",
        "elif not all(_same_bits(",
        "elif False and not all(_same_bits(",
        _OWN,
        "false_claim and numba",
    ),
    "the proof starts from another state": (
        "training/recording.py",
        "self._restore(array, saved[place])",
        "pass",
        _OWN,
        "recorded_for_what_it_is",
    ),
    "settings that change are not noticed": (
        "training/recording.py",
        "if changed is None:",
        "if True:",
        _OWN,
        "trains_to_the_same_weights and numba and changes",
    ),
    "numba records though it should not": (
        "backends/numba/base.py",
        "if not self.graph:",
        "if False:",
        "backends/test_graph.py",
        "numba_records",
    ),
    "the LeNet-5 of 1998 pools maxima": (
        "models/lenet.py",
        "AvgPool2d if old else",
        "MaxPool2d if old else",
        "models/test_networks.py",
        "of_1998",
    ),
    "a regressor gives probabilities": (
        "models/model.py",
        "finish = softmax if self.head == CLASSIFIER else values",
        "finish = softmax",
        "models/test_networks.py",
        "regressor",
    ),
    "PyTorch's scale and shift are exchanged": (
        "layers/norm.py",
        '"weight": layer.gamma, "bias": layer.beta',
        '"weight": layer.beta, "bias": layer.gamma',
        "models/test_pytorch_weights.py",
        "documents_names",
    ),
    "a pickle is opened": (
        "models/pytorch.py",
        'if content[:2] in (b"PK",',
        'if content[:2] in (b"no",',
        "models/test_pytorch_weights.py",
        "files_of_other_kinds",
    ),
    "ONNX averages count padding that ours leave out": (
        "layers/pool.py",
        "int(counted)",
        "1",
        "models/test_onnx.py",
        "graph_computes and own",
    ),
    "ONNX gets running statistics in the wrong order": (
        "layers/norm.py",
        "self.beta, self.running_mean, self.running_var",
        "self.beta, self.running_var, self.running_mean",
        "models/test_onnx.py",
        "graph_computes and resnet20",
    ),
    "a layer that overrides __call__ is exported as its base": (
        "layers/counterparts.py",
        "declaration(layer, name)",
        "getattr(layer, name)",
        "layers/test_descriptions.py",
        "declares_its_counterparts_again",
    ),
    "a layer that overrides __call__ slides as its base": (
        "models/conversion.py",
        'return declaration(layer, "local") is True',
        "return layer.local",
        "layers/test_descriptions.py",
        "does_not_slide",
    ),
    "layers in a list are missed": (
        "layers/base.py",
        "isinstance(value, (list, tuple, dict))",
        "isinstance(value, (tuple, dict))",
        "layers/test_descriptions.py",
        "collections",
    ),
    "a layer goes from one model to the next": (
        "models/model.py",
        "if layer._in_model:",
        "if False:",
        "layers/test_descriptions.py",
        "belongs_to_one_model",
    ),
}
FREEZING, CONTINUING, MIXING = (f"training/test_{name}.py" for name in ("freezing", "continuing", "mixing"))
SHARED, EXPLAIN = "layers/test_shared_layers.py", "test_explain.py"
OTHERS |= {
    "a frozen layer computes its gradient": (
        "layers/dense.py",
        "if self._trainable:\n            return backend.dense_gradients",
        "if True:\n            return backend.dense_gradients",
        FREEZING,
        "cost_no_weight_gradient",
    ),
    "frozen batch norm moves its statistics": (
        "layers/norm.py",
        "return self.mode.training and self._trainable",
        "return self.mode.training",
        FREEZING,
        "keeps_its_statistics",
    ),
    "frozen weights decay": (
        "models/model.py",
        "if id(p) not in frozen:",
        "if True:",
        FREEZING,
        "keeps_its_statistics",
    ),
    "a thawed layer gets no gradient": (
        "layers/container.py",
        "needed = needed or layer.learns()",
        "needed = needed",
        FREEZING,
        "factors_by_hand and numpy",
    ),
    "the gradient of a frozen layer clips the others": (
        "models/model.py",
        'p.bind("grad", self._unused[',
        "id(self._unused[",
        FREEZING,
        "does_not_clip_others",
    ),
    "factors of the rate are forgotten": (
        "optimizers.py",
        "self.lr * factor * piece",
        "self.lr * factor",
        FREEZING,
        "factors_by_hand and numpy",
    ),
    "a new head keeps the old one's weights": (
        "models/transfer.py",
        "if n in own and not matches(last.name, n)",
        "if n in own and own[n].shape == v.shape",
        FREEZING,
        "a_new_head",
    ),
    "a copy shares its layers": (
        "models/model.py",
        "copy.deepcopy(self.__getstate__(), memo)",
        "self.__getstate__()",
        FREEZING,
        "copy_of_a_model and numpy",
    ),
    "a second fit starts a fresh optimizer": (
        "training/trainer.py",
        "if self._state is None:",
        "if True:",
        CONTINUING,
        "two_fits_are_one",
    ),
    "own loops stay in training mode": (
        "training/own_loop.py",
        "model.mode.training = False",
        "pass",
        CONTINUING,
        "loop_of_ones_own",
    ),
    "validation is not the average's": (
        "training/trainer.py",
        "if self.average is None:\n            yield",
        "if True:\n            yield",
        CONTINUING,
        "average_by_hand",
    ),
    "the share is the smaller part": (
        "training/mixing.py",
        "max(share, 1 - share)",
        "min(share, 1 - share)",
        MIXING,
        "share_is_the_contracts",
    ),
    "boxes are drawn for the next step": (
        "training/mixing.py",
        "step, arithmetic.ERASE",
        "step + 1, arithmetic.ERASE",
        MIXING,
        "boxes_are_the_contracts",
    ),
    "only one label of a mixed image counts": (
        "training/steps.py",
        "doutputs = self._mixup(doutputs, other)",
        "doutputs = self._mixup(doutputs, doutputs)",
        MIXING,
        "a_step_by_hand",
    ),
    "the places of a shared layer overwrite each other": (
        "layers/shared.py",
        "if done and self._trainable else backward(dy)",
        "if False else backward(dy)",
        SHARED,
        "sum_of_the_places",
    ),
    "a second pass adds to the first": (
        "layers/shared.py",
        "if self._pass:",
        "if False:",
        SHARED,
        "sum_of_the_places",
    ),
    "models of several sizes part when one moves": (
        "models/model.py",
        "for model in list(self._group):\n            model._bind",
        "for model in [self]:\n            model._bind",
        SHARED,
        "several_sizes",
    ),
    "Grad-CAM weights with a sum": (
        "explain.py",
        "kernel = backend.array(w.reshape",
        "kernel = backend.array(2 * w.reshape",
        EXPLAIN,
        "its_definition",
    ),
    "saliency is signed": (
        "explain.py",
        "np.abs(input_gradient(model, images, of))",
        "input_gradient(model, images, of)",
        EXPLAIN,
        "of_differences",
    ),
    "flips count once": (
        "models/model.py",
        "(plain + mirrored) *",
        "(plain + plain) *",
        EXPLAIN,
        "flips_are_the_mean",
    ),
    "files forget which settings were changed": (
        "models/files.py",
        'for name in ("frozen", "changed_settings")',
        'for name in ("frozen",)',
        "training/test_resume.py",
        "changed_layers",
    ),
    "bias correction remembers other betas": (
        "optimizers.py",
        "if done > step or of != betas:",
        "if done > step:",
        "training/test_resume.py",
        "changed_layers",
    ),
    "a setting that is set is not checked": (
        "arguments.py",
        "if name in self._checks else value",
        "if False else value",
        "layers/test_layers.py",
        "checked_whenever",
    ),
    "a recording goes on with the first result of a live layer": (
        "layers/own.py",
        "known.data[...] = batch.data",
        "pass",
        "training/test_live_layers.py",
        "noise",
    ),
    "a live layer is given the recording's own memory": (
        "layers/own.py",
        "given = {id(batch): _copied(batch) for batch in batches}",
        "given = {id(batch): batch for batch in batches}",
        "training/test_live_layers.py",
        "remembers",
    ),
    "what a live layer changes in place is lost": (
        "layers/own.py",
        "batch.data[...] = given[id(batch)].data",
        "pass",
        "training/test_live_layers.py",
        "tanh_in_place",
    ),
    "steps with live layers are proved": (
        "training/recording.py",
        "if len(self._repeated()) < len(self._parts()):",
        "if False:",
        "training/test_live_layers.py",
        "noise",
    ),
    "any class is possible for a doubted label": (
        "training/doubts.py",
        "possible = np.where(p >= least, p, -1.0)",
        "possible = p",
        EXPLAIN,
        "the_definitions",
    ),
}
ALL = {
    name: (file, old, new, "training/test_validation.py", tests) for name, (file, old, new, tests) in MUTANTS.items()
}
ALL |= OTHERS


@pytest.mark.parametrize("name", ALL)
def test_the_mutant_is_noticed(name, tmp_path):
    file, *rest = ALL[name]
    assert_noticed(tmp_path, f"gpucnn/{file}", *rest)
