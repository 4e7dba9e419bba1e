"""Rounds shared by several threads: every unit is done once, whoever comes, and a helper in the way is left alone."""

import ast
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from ctypes import CFUNCTYPE, c_int, c_void_p, cast
from pathlib import Path

import numpy as np
import pytest
from gpucnn.kernels.numba import compiler, program, team
from gpucnn.kernels.numba.arguments import table
from gpucnn.kernels.numba.compiler import kernel
from gpucnn.kernels.numba.team import get_thread_id, leads, prange
from llvmlite import binding

from gpucnn.backends.numba import helpers as backend_helpers
from gpucnn.backends.numba.base import Launch
from gpucnn.backends.numba.channel_blocks import aligned
from gpucnn.backends.numba.helpers import Helpers


@kernel("two rounds, for tests")
def two_rounds(counts, sums, by, units):
    """Each of `units` gets 1 in the first round; in the second the first round's result of its mirror image."""
    for u in prange(units):
        counts[u] += 1
        by[get_thread_id()] += 1
    for u in prange(units):
        sums[u] += counts[units - 1 - u]
        by[get_thread_id()] += 1
    if leads():
        counts[units] += 1


def run(helpers: Helpers, units: int, threads: int, times: int) -> np.ndarray:
    """Runs of two_rounds; how many units each thread did."""
    counts, sums, by = np.zeros(units + 1, np.int64), np.zeros(units, np.int64), np.zeros(256, np.int64)
    launch = Launch([(two_rounds, (counts, sums, by, units))], threads)
    for _ in range(times):
        launch(helpers)
    assert (counts == times).all(), "each unit once in each run, and the end by the leader alone"
    assert (sums == times * (times + 1) // 2).all(), "the second round begins when the first is done"
    assert by.sum() == 2 * units * times
    return by


@pytest.mark.parametrize("units", [0, 1, 2, 7, 16, 1000])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_unit_is_done_once(units, threads):
    helpers = Helpers()
    by = run(helpers, units, threads, 300)
    assert not by[threads:].any()


def test_the_leader_goes_on_alone_while_it_should():
    helpers = Helpers()
    helpers._rounds[team.ALONE_UNTIL] = np.iinfo(np.int64).max
    assert not run(helpers, 100, 2, 200)[1:].any()
    assert helpers._left_alone
    helpers._rounds[team.ALONE_UNTIL] = 0
    run(helpers, 100, 2, 5)
    assert helpers._rounds[team.ROUND] > 0, "announced again"


def test_a_system_without_another_thread(monkeypatch, capsys):
    """As at a user's or a container's limit of processes: those that are there do all the work."""
    helpers, start = Helpers(), threading.Thread.start

    def refuse(thread):
        if helpers._count == 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not run(helpers, 100, 4, 200)[2:].any()
    said = "gpucnn: 2 of 4 threads compute, since the system refuses to start another (ulimit -u)\n"
    assert capsys.readouterr().err == said, "once"


@pytest.mark.parametrize("threads", [team.MOST_THREADS, team.MOST_THREADS + 1, 4 * team.MOST_THREADS])
def test_a_machine_with_more_processors_than_a_team_has_queues(monkeypatch, threads):
    """They wrote past the team's memory: the process ended with a segmentation fault, if it ended."""
    memory = []

    def with_more_behind(count: int, dtype) -> np.ndarray:
        memory.append(aligned(count + 8 * threads, dtype))
        memory[-1][count:] = 7
        return memory[-1][:count]

    monkeypatch.setattr(backend_helpers, "aligned", with_more_behind)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # they are counted, and never come
    helpers = Helpers()
    run(helpers, 5000, threads, 3)
    assert (memory[-1][team.SLOTS :] == 7).all(), "nothing is written there"
    helpers.call(threads - 1)
    assert helpers._count == team.MOST_THREADS - 1, "a helper looks at a queue of its own"


def test_a_thread_that_may_not_lead_works_alone():
    helpers = Helpers()
    with helpers.lock, ThreadPoolExecutor(1) as another:
        assert not another.submit(run, helpers, 100, 2, 3).result()[1:].any()


def test_a_thread_that_was_interrupted_right_after_it_took_the_lead_leads_again():
    """A signal's exception comes between any two instructions: no `try` could have let go of the lock."""
    helpers = Helpers()
    helpers.lock.acquire()
    run(helpers, 100, 2, 3)
    assert helpers._rounds[team.ROUND] > 0, "announced to a team"


def round_for_a_helper(units: int) -> tuple[dict[str, np.ndarray], int, int]:
    """The first round of two_rounds as announced to a helper: all memory by name, the team's address and the seat's."""
    arrays = {name: np.zeros(units + 1, np.int64) for name in ("counts", "sums")}
    arrays |= {"by": np.zeros(256, np.int64), "team": np.zeros(team.SLOTS, np.int64)}
    arrays |= {"leader": np.zeros(16, np.int64), "helper": np.zeros(16, np.int64)}
    arguments = arrays["counts"], arrays["sums"], arrays["by"], units
    arrays["table"] = np.array(table(arguments))
    arrays["team"][team.FUNCTION] = two_rounds.prepare(*arguments)
    arrays["team"][team.ARGUMENTS] = arrays["table"].ctypes.data
    together, mine = arrays["team"].ctypes.data, arrays["helper"].ctypes.data
    team._announce(arrays["leader"].ctypes.data, together, units, 0, 2)
    team.sit_down(mine, together, 0, 1)
    return arrays, together, mine


def test_a_helper_whose_turn_is_over_leaves_with_its_claims_counted():
    arrays, together, mine = round_for_a_helper(160)
    claims, units = arrays["team"][team.CLAIMS], arrays["counts"][:160]
    assert claims == 16
    for turn in range(1, 4):
        arrays["helper"][team.TURN_ENDS] = 0
        assert team.turn_is_over(mine)
        assert team.help_with_round(mine, together, 1)
        assert units.sum() == 10 * turn, "one claim, which it had when it saw that its turn was over"
        assert arrays["team"][team.DONE] == turn, "nobody waits for it while it gives way"
    arrays["helper"][team.TURN_ENDS] = np.iinfo(np.int64).max
    assert team.help_with_round(mine, together, 1)
    assert (units == 1).all() and arrays["by"][1] == 160, "in a turn that goes on, all that is left"
    assert arrays["team"][team.DONE] == claims
    assert not team.help_with_round(mine, together, 1)
    assert not arrays["sums"].any() and not arrays["counts"][160], "the other round, and the end, are not for it"


def test_giving_a_turn_away_begins_another():
    seat = np.zeros(16, np.int64)
    assert team.turn_is_over(seat.ctypes.data)
    team.give_turn_away(seat.ctypes.data)
    assert seat[team.TURN_ENDS] > team.TURN


def test_a_helper_that_finds_nothing_gives_way_before_it_sleeps():
    rounds, mailbox, found = np.zeros(team.SLOTS, np.int64), np.zeros(program.MAILBOX // 8, np.int64), []

    def notes(name: str, kind):
        def note(*_) -> int:
            found.append(name)
            rounds[team.LEADS] = 0  # the helper ends
            return 0

        return kind(note)

    names = {"gpucnn_give_way": CFUNCTYPE(c_int), "gpucnn_doze": CFUNCTYPE(c_int, c_int)}
    before = {name: binding.address_of_symbol(name) for name in names}
    functions = {name: notes(name, kind) for name, kind in names.items()}
    try:
        for name, function in functions.items():
            binding.add_symbol(name, cast(function, c_void_p).value)
        help_out = compiler.Function(program.help_out._function, "help out, for tests").prepare(0, 0, 0)
    finally:
        for name, place in before.items():
            binding.add_symbol(name, place)
    rounds[team.LEADS], rounds[team.PROCESSOR] = 1, -1
    help_out(mailbox.ctypes.data, rounds.ctypes.data, 0)
    assert found[0] == "gpucnn_give_way"


def test_numbas_own_prange_is_refused():
    import numba

    scope = {"prange": numba.prange}
    exec("def wrong(x):\n    for u in prange(1):\n        x[u] = 1", scope)
    with pytest.raises(ImportError, match=r"take prange from gpucnn\.kernels\.numba\.team"):
        compiler.kernel("wrong")(scope["wrong"])


KERNELS = sorted(Path(inspect.getfile(team)).parent.glob("*.py"))


def functions_of(path: Path, decorator: str) -> list[ast.FunctionDef]:
    """The functions with this decorator."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return [f for f in functions if any(ast.unparse(d).startswith(decorator) for d in f.decorator_list)]


def rounds_of(function: ast.AST) -> list[ast.For]:
    loops = [node for node in ast.walk(function) if isinstance(node, ast.For)]
    return [loop for loop in loops if ast.unparse(loop.iter).startswith("prange(")]


def outside_rounds(node: ast.AST) -> list[ast.AST]:
    """What all threads run: neither a unit of a round nor what stands under `if leads():`."""
    found = [node]
    for child in ast.iter_child_nodes(node):
        is_round = isinstance(node, ast.For) and ast.unparse(node.iter).startswith("prange(") and child in node.body
        is_led = isinstance(node, ast.If) and ast.unparse(node.test) == "leads()" and child in node.body
        if not is_round and not is_led:
            found += outside_rounds(child)
    return found


# Of arrays, these know no more than shapes and strides, or they are rounds themselves, and looked at as kernels are.
HARMLESS = {"len", "prange", "range", "leads", "splat", "splat64", "min", "max", "chunks_of", "stride_of"}
HARMLESS |= {f.name for path in KERNELS for f in functions_of(path, "inner") if rounds_of(f)}


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_what_all_threads_run_touches_no_array(path):
    """A helper runs it at any time: before and after its round, or when another has changed what is there."""
    for function in functions_of(path, "kernel(") + functions_of(path, "inner"):
        rounds = rounds_of(function)
        if not rounds:
            continue  # the leader's alone
        written = [n for n in ast.walk(function) if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store)]
        written = {ast.unparse(n.value) for n in written}
        for node in (found for statement in function.body for found in outside_rounds(statement)):
            where = f"{path.name}, {function.name}, line {getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
            if isinstance(node, ast.Subscript) and not ast.unparse(node.value).endswith(".shape"):
                # A kernel's only round may be preceded by reading what the kernel does not write.
                assert len(rounds) == 1 and node.lineno < rounds[0].lineno, where
                assert isinstance(node.ctx, ast.Load) and ast.unparse(node.value) not in written, where
            if isinstance(node, ast.Call) and not ast.unparse(node.func).startswith("np."):
                assert ast.unparse(node.func) in HARMLESS, where
