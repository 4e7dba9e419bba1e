"""Who computes which images, against the contract's tree written as a recursion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucnn.parallel import Division

counts = st.integers(1, 700), st.integers(1, 40), st.integers(1, 9)


def tree(terms):
    """Adjacent pairs, then pairs of those, an odd one carried up: as text, which shows every bracket."""
    while len(terms) > 1:
        pairs = [f"({a}+{b})" for a, b in zip(terms[::2], terms[1::2])]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]


def blocks(first, count):
    assert first % 16 == 0
    return [str(b) for b in range(first // 16, -(-(first + count) // 16))]


@given(*counts)
def test_parts_are_nodes_of_the_tree(images, processes, pieces):
    parts = []
    nodes = Division(processes).nodes(images)
    for rank in range(nodes):
        division = Division(processes, rank, pieces)
        own = list(division.in_pieces(images))
        assert own[0][0] == division.part(images)[0] and sum(n for _, n in own) == division.part(images)[1]
        assert len(own) <= pieces
        parts.append(tree([tree(blocks(*piece)) for piece in own]))
    assert tree(parts) == tree(blocks(0, images))


@given(*counts)
def test_every_image_is_in_one_part(images, processes, pieces):
    indices = np.random.default_rng(images).permutation(images)
    nodes = Division(processes).nodes(images)
    parts = [Division(processes, rank).mine(indices) for rank in range(processes)]
    assert np.array_equal(np.concatenate(parts[:nodes]), indices)
    assert all(np.array_equal(part, indices[:1]) for part in parts[nodes:])


@given(*counts)
def test_a_short_batch_leaves_nobody_more_than_the_buffers_hold(images, processes, pieces):
    for rank in range(processes):
        division = Division(processes, rank)
        assert all(division.part(n)[1] <= division.most(images) for n in range(1, images + 1, 7))


@pytest.mark.parametrize(
    ("images", "processes", "parts"),
    [
        (64, 2, [(0, 32), (32, 32)]),
        (48, 2, [(0, 32), (32, 16)]),
        (17, 4, [(0, 16), (16, 1), (0, 1), (0, 1)]),
        (16 * 5, 3, [(0, 32), (32, 32), (64, 16)]),
        (16 * 10, 3, [(0, 64), (64, 64), (128, 32)]),
    ],
)
def test_worked_cases(images, processes, parts):
    assert [Division(processes, rank).part(images) for rank in range(processes)] == parts
