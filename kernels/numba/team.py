"""The threads that share a kernel's work.

`for u in prange(n)` in a kernel is a round: its units are claimed from queues, one a thread, by whoever comes first.
Each thread begins with its own queue, so that it finds what it has written in the round before in its own cache, and
goes on with what the others have left. The thread that launched the kernel leads: it announces a round, takes part,
and goes on when all units are done. It waits only for units that somebody has claimed, never for a thread that has not
been given a core. A helper calls the kernel for the round in which it has claimed a unit; the rounds before and after
that are empty for it. So what a kernel does outside of its rounds is done by the helpers too, at any time, and may only
compute local values: what reads or writes arrays there stands under `if leads():`.

On a busy machine a helper would lose its core in the middle of a unit, for some milliseconds, and everybody would wait
for it. So helpers take turns with other programs: about once a millisecond, before the system takes its core away, a
helper counts its claims, leaves the round and gives way while it holds nothing. Where nobody waits for the core this
returns at once. If helpers are late all the same, the leader goes on alone for a while, four times as long each time
that it happens again.
"""

import functools
import sys
from ctypes import CDLL, addressof, byref, c_size_t, c_void_p, cast, py_object, pythonapi

from gpucnn.kernels.numba import compiler
from gpucnn.kernels.numba.addresses import (
    call,
    count_up,
    cycles,
    exchange,
    publish,
    put_slot,
    rest,
    shared,
    slot,
    stack_of,
)
from gpucnn.kernels.numba.compiler import OPTIONS, Routine
from llvmlite import binding, ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

MOST_THREADS = 256
# The memory of a team, in int64 slots: a cache line with what the leader announces of a round, one with the number of
# claims done, one of the leader's own, and one for each queue, which holds round << 32 | claims that are left.
FUNCTION, ARGUMENTS, NUMBER, UNITS, GRAIN, CLAIMS, THREADS, ROUND = range(8)
DONE, ALONE_UNTIL, PAUSE, PROCESSOR, LATE_SINCE, WAITED, LEADS = 8, 16, 17, 18, 19, 20, 23
QUEUES, LINE = 24, 8
SLOTS = QUEUES + LINE * MOST_THREADS
LEFT = 0xFFFFFFFF
# Each thread should find so many claims in a round, so that an uneven end costs little.
CLAIMS_A_THREAD = 8

# A seat is what a thread knows while it is in a kernel, in int64 slots: the team and how many threads it has, the
# thread's own number (0: it leads), how many rounds it has met in the kernel and which one it came for, whether this
# one is shared, the units claimed (next and end), claims to be counted, when the round began, and when a helper's turn
# ends.
TEAM, SIZE, MEMBER, MET, CAME_FOR, SHARED, NEXT, END, COUNTED, BEGAN, TURN_ENDS = range(11)

# In cycles (addresses.cycles), some 2 to 4 a nanosecond. A helper's turn is shorter than what schedulers grant a thread
# before they take its core away, 1.4 ms or more.
TURN = 2_500_000
# So long a wait says that a helper has lost its core.
LATE = 1_000_000
SPINS = 1000  # looks
# Helpers are better left alone if the leader has waited for at least so long, and for more than this part of the time,
# since the first wait; what is longer ago than FORGET does not count.
WAITED_LONG, MOST_WAITED, FORGET = 30_000_000, 3, 200_000_000
# So long the leader then works alone, at least and at most; four times as long if that happens again before the helpers
# have done well for twice as long, or FORGET.
SHORTEST, LONGEST = 25_000_000, 2_000_000_000


# ---- each thread's seat ----------------------------------------------------------------------------------------------

_pointer, _i32, _i64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
_system = CDLL("kernel32" if sys.platform == "win32" else None)
_key = c_size_t(0)
current_processor = getattr(_system, "sched_getcpu", None)


def _reserve() -> None:
    """A slot of each thread for its seat, under names that kernels find when they are loaded."""
    if binding.address_of_symbol("gpucnn_seat_key"):  # the module was imported before
        return
    if sys.platform == "win32":
        _key.value = _system.TlsAlloc() & 0xFFFFFFFF
        functions = _system.TlsGetValue, _system.TlsSetValue, _system.SwitchToThread, _system.Sleep
        failed = _key.value == 0xFFFFFFFF
    else:
        functions = _system.pthread_getspecific, _system.pthread_setspecific, _system.sched_yield, _system.usleep
        failed = _system.pthread_key_create(byref(_key), None)
    if failed:
        raise OSError("no thread-specific slot is left in this process")
    pythonapi.Py_IncRef(py_object(_key))  # kernels read it
    binding.add_symbol("gpucnn_seat_key", addressof(_key))
    names = "gpucnn_get_seat", "gpucnn_put_seat", "gpucnn_give_way", "gpucnn_doze"
    for name, function in zip(names, functions, strict=True):
        binding.add_symbol(name, cast(function, c_void_p).value)


_reserve()


def _seat_key(builder):
    name = "gpucnn_seat_key"
    return builder.load(builder.module.globals.get(name) or ir.GlobalVariable(builder.module, _i64, name))


@intrinsic
def seat(typing):
    """The address of this thread's seat."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_pointer, [_i64])
        function = cgutils.get_or_insert_function(builder.module, kind, "gpucnn_get_seat")
        return builder.ptrtoint(builder.call(function, [_seat_key(builder)]), _i64)

    return types.int64(), generate


@intrinsic
def take_seat(typing, address):
    """Make this the address of this thread's seat."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_i32, [_i64, _pointer])
        function = cgutils.get_or_insert_function(builder.module, kind, "gpucnn_put_seat")
        builder.call(function, [_seat_key(builder), builder.inttoptr(v[0], _pointer)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def doze(typing):
    """Sleep for 0.1 ms, or as short as the system allows."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_i32, [_i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "gpucnn_doze")
        builder.call(function, [_i32(1 if sys.platform == "win32" else 100)])  # in ms or in us
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def give_way(typing):
    """Let another thread have this processor if one waits for it."""

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_i32, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "gpucnn_give_way"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def processor(typing):
    """The number of the processor that this thread runs on; -1 where the system does not tell."""

    def generate(context, builder, s, v):
        if current_processor is None:
            return _i64(-1)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_i32, []), "sched_getcpu")
        return builder.sext(builder.call(function, []), _i64)

    return types.int64(), generate


new_seat = stack_of(2)


@njit(**OPTIONS)
def begin_turn(mine):
    """A helper has just been given its core."""
    put_slot(mine, TURN_ENDS, cycles() + TURN)


@njit(**OPTIONS)
def turn_is_over(mine):
    """Whether a helper should give way before it claims anything more."""
    return cycles() > slot(mine, TURN_ENDS)


@njit(**OPTIONS)
def give_turn_away(mine):
    """Let other threads have the core of a helper that holds no claim; returns when it is the helper's again."""
    give_way()
    begin_turn(mine)


# ---- a round ---------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _announce(mine, team, n, number, threads):
    """Lay out a round of n units for the team."""
    grain = max(1, n // (threads * CLAIMS_A_THREAD))
    claims = (n + grain - 1) // grain
    put_slot(team, NUMBER, number)
    put_slot(team, UNITS, n)
    put_slot(team, GRAIN, grain)
    put_slot(team, CLAIMS, claims)
    put_slot(team, THREADS, threads)
    round_ = slot(team, ROUND) % 0x7FFFFFFE + 1
    put_slot(team, ROUND, round_)
    put_slot(team, DONE, 0)
    put_slot(team, PROCESSOR, processor())
    for member in range(threads):
        left = (member + 1) * claims // threads - member * claims // threads
        publish(team + 8 * (QUEUES + LINE * member), round_ << 32 | left)
    put_slot(mine, NEXT, 0)
    put_slot(mine, END, 0)
    put_slot(mine, COUNTED, 0)


@njit(**OPTIONS)
def _units_of(mine, team, member, left):
    """Units of the claim that found so many left in a member's queue, into the seat."""
    claims, threads, grain = slot(team, CLAIMS), slot(team, THREADS), slot(team, GRAIN)
    first = ((member + 1) * claims // threads - left) * grain
    put_slot(mine, NEXT, first)
    put_slot(mine, END, min(first + grain, slot(team, UNITS)))


@njit(**OPTIONS)
def _claim(mine, team):
    """Claim units of this round, from one's own queue first; False if there are none left."""
    round_, threads, own = slot(team, ROUND), slot(team, THREADS), slot(mine, MEMBER)
    for step in range(threads):
        member = (own + step) % threads
        queue = team + 8 * (QUEUES + LINE * member)
        while True:
            claim = shared(queue)
            if not claim & LEFT or claim >> 32 != round_:
                break
            if exchange(queue, claim, claim - 1):
                _units_of(mine, team, member, claim & LEFT)
                put_slot(mine, COUNTED, slot(mine, COUNTED) + 1)
                return True
    return False


@njit(**OPTIONS)
def _enter(n):
    """Begin a round; returns the first unit, or -1 if there is none for this thread."""
    mine = seat()
    number = slot(mine, MET)
    put_slot(mine, MET, number + 1)
    if slot(mine, MEMBER):
        if number != slot(mine, CAME_FOR):
            return -1
        return _following()
    team, threads = slot(mine, TEAM), slot(mine, SIZE)
    if threads == 1 or n <= 1 or cycles() < slot(team, ALONE_UNTIL):
        put_slot(mine, SHARED, 0)
        put_slot(mine, NEXT, 0)
        put_slot(mine, END, n)
    else:
        put_slot(mine, SHARED, 1)
        put_slot(mine, BEGAN, cycles())
        _announce(mine, team, n, number, threads)
    return _following()


@njit(**OPTIONS)
def _following():
    """The next unit of this thread, or -1 at the end of the round, when all of it is done if this thread leads."""
    mine = seat()
    team = slot(mine, TEAM)
    unit = slot(mine, NEXT)
    if unit >= slot(mine, END):
        if not slot(mine, SHARED):
            return -1
        if (slot(mine, MEMBER) and turn_is_over(mine)) or not _claim(mine, team):
            # The round ends once all claims are counted: a helper may look at nothing of it after this.
            count_up(team + 8 * DONE, slot(mine, COUNTED))
            if slot(mine, MEMBER) == 0:
                _wait(mine, team)
            return -1
        unit = slot(mine, NEXT)
    put_slot(mine, NEXT, unit + 1)
    return unit


@njit(**OPTIONS)
def _go_on_alone(team):
    """The next rounds are for the leader only, for some time."""
    now, pause = cycles(), slot(team, PAUSE)
    pause = SHORTEST if now - slot(team, ALONE_UNTIL) > max(FORGET, 2 * pause) else min(4 * pause, LONGEST)
    put_slot(team, PAUSE, pause)
    put_slot(team, ALONE_UNTIL, now + pause)


@njit(**OPTIONS)
def _wait(mine, team):
    """Return when all claims of the round are done."""
    if shared(team + 8 * DONE) == slot(team, CLAIMS):
        return
    begun = cycles()
    looks = 0
    while shared(team + 8 * DONE) < slot(team, CLAIMS):
        looks += 1
        if looks % SPINS or cycles() - begun < LATE:
            rest()
        else:  # the helper may wait for this very processor; giving it away earlier would cost more than most waits
            give_way()
    now = cycles()
    a_claim = (begun - slot(mine, BEGAN)) // max(slot(mine, COUNTED), 1)
    if now - begun > max(LATE, 2 * a_claim):
        _was_late(team, begun, now)


@njit(**OPTIONS)
def _was_late(team, begun, now):
    """The leader has waited. Once is nothing, since other programs run now and then, but not again and again."""
    if now - slot(team, LATE_SINCE) > FORGET:
        put_slot(team, LATE_SINCE, begun)
        put_slot(team, WAITED, 0)
    waited = slot(team, WAITED) + now - begun
    put_slot(team, WAITED, waited)
    if waited > max(WAITED_LONG, (now - slot(team, LATE_SINCE)) // MOST_WAITED):
        put_slot(team, LATE_SINCE, 0)
        _go_on_alone(team)


@njit(**OPTIONS)
def help_with_round(mine, team, member):
    """Take part in the round that is announced as a helper with this number and seat; False if it has no units left."""
    queue = team + 8 * (QUEUES + LINE * member)
    claim = shared(queue)
    if not claim & LEFT or not exchange(queue, claim, claim - 1):
        return False
    _units_of(mine, team, member, claim & LEFT)
    put_slot(mine, COUNTED, 1)
    put_slot(mine, MET, 0)
    put_slot(mine, CAME_FOR, slot(team, NUMBER))
    call(slot(team, FUNCTION), slot(team, ARGUMENTS), 0)
    return True


@njit(**OPTIONS)
def is_in_the_way(team):
    """Whether this helper has been given the leader's own core, since the others are busy: then it should sleep."""
    here = processor()
    return here >= 0 and here == slot(team, PROCESSOR)


@njit(**OPTIONS)
def sit_down(mine, team, size, member):
    """Take the seat at `mine`: for the leader (member 0) of a team of so many threads, or for a helper."""
    put_slot(mine, TEAM, team)
    put_slot(mine, SIZE, size)
    put_slot(mine, MEMBER, member)
    put_slot(mine, SHARED, 1)
    begin_turn(mine)
    take_seat(mine)


def _external(name: str, arity: int):
    """A native function of so many int64 that returns one, found by its name when a kernel is loaded: compiled once,
    and not again in each kernel.
    """

    def generate(context, builder, s, v):
        kind = ir.FunctionType(_i64, [_i64] * arity)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), v)

    return types.int64(*[types.int64] * arity), generate


@intrinsic
def _first(typing, n):
    return _external("gpucnn_first_unit", 1)


@intrinsic
def _next(typing):
    return _external("gpucnn_next_unit", 0)


@functools.cache
def _define() -> list[Routine]:
    """Compile or load what kernels call by name."""
    first = Routine(_enter.py_func, "first unit", (types.int64,))
    following = Routine(_following.py_func, "next unit", ())
    binding.add_symbol("gpucnn_first_unit", first.address)
    binding.add_symbol("gpucnn_next_unit", following.address)
    return [first, following]


compiler.needed.append(_define)


@njit(**OPTIONS)
def prange(n):
    """The units of 0 to n - 1 that are for this thread, in a kernel's `for`."""
    u = _first(n)
    while u >= 0:
        yield u
        u = _next()


@njit(**OPTIONS)
def leads():
    """Whether this thread launched the kernel."""
    return slot(seat(), MEMBER) == 0


@njit(**OPTIONS)
def get_thread_id():
    """This thread's number, below the number of threads."""
    return slot(seat(), MEMBER)
