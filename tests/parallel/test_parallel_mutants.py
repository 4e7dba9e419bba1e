"""What tests/parallel promises, broken once on purpose: the tests named must notice."""

from pathlib import Path

import pytest

from tests.mutants import assert_noticed

MUTANTS = {
    "parts are as even as possible": (
        "gpucnn/parallel/division.py",
        "each *= 2",
        "each += 1",
        "test_division.py",
        "test_parts_are_nodes",
    ),
    "an empty part counts": (
        "gpucnn/parallel/joined.py",
        "there = received[:nodes]",
        "there = received",
        "test_same_bits.py",
        "test_batches_smaller",
    ),
    "pieces are added in their order": (
        "gpucnn/backends/shared.py",
        "np.copyto(out, tree(np.stack(rows), 0))",
        "np.copyto(out, np.stack(rows)[::-1].cumsum(0, out.dtype)[-1])",
        "test_same_bits.py",
        "test_pieces",
    ),
    "processes are added by NumPy's sum": (
        "gpucnn/parallel/joined.py",
        "tree(np.ascontiguousarray(there[:, cut:]).view(np.float32), 0)",
        "np.ascontiguousarray(there[:, cut:]).view(np.float32)[::-1].cumsum(0, np.float32)[-1]",
        "test_same_bits.py",
        "test_everything or test_losses",
    ),
    "long vectors are added from the wrong slices": (
        "gpucnn/parallel/joined.py",
        "tree(slices[:nodes], 0)",
        "tree(filled[:nodes], 0)",
        "test_same_bits.py",
        "test_long_vectors",
    ),
    "the loss is the mean over the part": (
        "gpucnn/backends/lanes.py",
        "np.float32(1 / shares.whole(logits))",
        "np.float32(1 / logits.images)",
        "test_same_bits.py",
        "test_batches_smaller",
    ),
    "images are moved by their place in the part": (
        "gpucnn/backends/lanes.py",
        "y, shift, shares.offset(), ",
        "y, shift, 0, ",
        "test_same_bits.py",
        "test_batches_smaller",
    ),
    "augmentation by the place in the part": (
        "gpucnn/backends/lanes.py",
        "augmentation, shares.offset(), ",
        "augmentation, 0, ",
        "test_same_bits.py",
        "test_everything",
    ),
    "dropout by the place in the part": (
        "gpucnn/backends/lanes.py",
        "*factors, shares.offset(), ",
        "*factors, 0, ",
        "test_same_bits.py",
        "test_batches_smaller",
    ),
    "batch norm divides by the part's count": (
        "gpucnn/backends/shared.py",
        "return shares.whole(x) * math.prod(x.spatial)",
        "return x.images * math.prod(x.spatial)",
        "test_same_bits.py",
        "test_everything",
    ),
    "weights are not compared": (
        "gpucnn/training/loop.py",
        "processes.same(state.hexdigest(), how_diverged)",
        "pass",
        "test_same_bits.py",
        "test_a_weight_that_differs",
    ),
    "settings are not compared": (
        "gpucnn/parallel/processes.py",
        "if other != values[0]:",
        "if False:",
        "test_same_bits.py",
        "test_other_settings",
    ),
    "versions are not compared": (
        "gpucnn/parallel/program.py",
        "gpucnn {__version__}, sources",
        "gpucnn, sources",
        "test_mpi.py",
        "test_another_version",
    ),
    "sources are not compared": (
        "gpucnn/parallel/program.py",
        """name.encode() + b"\\0" + path.read_bytes() + b"\\0\"""",
        "name.encode()",
        "test_mpi.py",
        "test_other_sources",
    ),
    "programs are compared in vain": (
        "gpucnn/parallel/program.py",
        "if program != first:",
        "if False:",
        "test_mpi.py",
        "test_another_version",
    ),
    "each process writes": (
        "gpucnn/training/trainer.py",
        "nullcontext() if self.run is None or not self.processes.first else",
        "nullcontext() if self.run is None else",
        "test_same_bits.py",
        "test_one_process_writes",
    ),
    "a rectangle by the place in the part": (
        "gpucnn/training/mixing.py",
        "self._all[first:]",
        "self._all",
        "test_options.py",
        "test_augmentation_of_whole",
    ),
    "partners by the place in the part": (
        "gpucnn/training/steps.py",
        "self._mixup.partners[first:]",
        "self._mixup.partners",
        "test_options.py",
        "test_augmentation_of_whole",
    ),
    "one's own augmentation sees a part": (
        "gpucnn/training/steps.py",
        "some_images(changed, first, count), self._targets",
        "self._own(self._batch(first, count)[0]), self._targets",
        "test_options.py",
        "test_augmentation_of_whole",
    ),
    "mix-up reads the part alone": (
        "gpucnn/training/trainer.py",
        "Division() if self.mixup or self.augment else",
        "Division() if self.augment else",
        "test_options.py",
        "test_images_larger",
    ),
    "what was read is a whole batch": (
        "gpucnn/training/data.py",
        "self.indices[first - self._first :]",
        "self.indices[first:]",
        "test_options.py",
        "test_images_larger",
    ),
    "gradients of places are added before the parts": (
        "gpucnn/layers/shared.py",
        "    if share:\n        share.exchange.add_at_end([spare for spare, _ in spares], add)",
        "    share = None",
        "test_options.py",
        "test_layers_in_several",
    ),
    "places take turns with one array": (
        "gpucnn/layers/shared.py",
        "spares = layer._spares[done - 1 if share else 0]",
        "spares = layer._spares[0]",
        "test_options.py",
        "test_layers_in_several",
    ),
    "a piece divides by its own weights": (
        "gpucnn/backends/shared.py",
        "if known is not None:",
        "if known is not None and (known := of_part()) is not None:",
        "test_options.py",
        "test_label_maps or test_augmentation_of_whole",
    ),
    "dice divides by the part's images": (
        "gpucnn/backends/numba/map_loss.py",
        "images = shares.whole(p)",
        "images = p.images",
        "test_options.py",
        "test_label_maps",
    ),
    "dice counts what fills the last block": (
        "gpucnn/backends/numba/map_loss.py",
        "            where = self._without_padding(where, p.images)",
        "            pass",
        "test_options.py",
        "test_what_fills",
    ),
    "dice on a GPU divides by the part's images": (
        "gpucnn/backends/cuda/map_loss.py",
        "shares.whole(p) * classes",
        "p.images * classes",
        "test_options.py",
        "test_label_maps_on_emulated",
    ),
    "maps on a GPU are divided by the part's labels": (
        "gpucnn/backends/cuda/map_loss.py",
        "weight = self.label_map_weights(labels, weights)",
        "weight = CudaMapLoss.label_map_weights(self, labels, weights)",
        "test_options.py",
        "test_label_maps_on_emulated",
    ),
    "no label has no mean on a GPU": (
        "kernels/cuda/parts.cu",
        "count && count[0] > 0.0 ? count[0]",
        "count ? count[0]",
        "test_options.py",
        "test_classes_to_ignore",
    ),
    "GPUs exchange among themselves where there are CPUs": (
        "gpucnn/backends/cuda/shared.py",
        "if processes.on_host:",
        "if False:",
        "test_same_bits.py",
        "test_gpus_and_cpus",
    ),
    "no label has no mean": (
        "gpucnn/backends/shared.py",
        "one.count[0] or 1.0",
        "one.count[0]",
        "test_options.py",
        "test_a_batch_without_labels",
    ),
    "batches are not compared": (
        "gpucnn/training/loop.py",
        "processes.same(self.data.fingerprint(), how_fed)\n        state",
        "state",
        "test_options.py",
        "test_other_batches",
    ),
    "steps are not compared": (
        "gpucnn/training/trainer.py",
        "self.processes.same(digest(images, labels, self.backend.dtype), how_fed)",
        "pass",
        "test_options.py",
        "test_a_loop",
    ),
}


@pytest.mark.long  # four minutes
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_error_is_found(name, tmp_path):
    file, old, new, tests, pattern = MUTANTS[name]
    assert_noticed(tmp_path, file, old, new, f"parallel/{tests}", pattern)


def test_the_tests_that_must_find_them_are_there():
    for *_, tests, pattern in MUTANTS.values():
        text = Path(__file__).with_name(tests).read_text()
        assert all(f"def {name}" in text or f'id="{name}' in text for name in pattern.split(" or ")), pattern
