"""Running a list of native kernels: a whole network in one call from Python, by one thread or several.

A program is a table of records, one a kernel. Its work is in units, in two queues: the thread that calls claims those
of the first, then what is left of the second, and helpers the other way round. So a claim is seldom disputed, and what
a thread has written is in its own cache when the next record reads it. A record that says so begins when all before it
are done; the others may overlap with what comes before. What takes less time than sharing it, the thread that calls
does alone.

The thread that calls posts a program in a mailbox and takes part itself; threads that watch the mailbox help. It waits
only for units that a helper has claimed, never for a helper that has not been given a core: a run has a number, which
is a part of every claim, so a helper that comes late, or from an earlier run, gets nothing. Such a helper may look at
the mailbox, whose memory is never given back, but not at a program.
"""

from gpucnn.kernels.numba import team
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
    swap,
)
from gpucnn.kernels.numba.channel_images import BAD, SOURCE
from gpucnn.kernels.numba.channel_maps import Y
from gpucnn.kernels.numba.compiler import called, inner
from gpucnn.kernels.numba.native import native
from numba import types

# int64 slots of a record. GRAIN units are claimed at once. IN_PLACE is for a record of a section: how many bytes into a
# thread's place its slots are, 0 if all threads use the same.
FUNCTION, ARGUMENTS, UNITS, AFTER_ALL, ONCE, GRAIN, ALONE, IN_PLACE, SLOTS = range(9)
RECORD = 8 * SLOTS  # bytes

# int64 slots of a program: its records and how many, and how many up to the last that helpers share; the slots of the
# kernels that read the images and write the results; bytes of an image that come before what is read; a table of
# addresses of slots, and offsets, of the other kernels that read the images as they are, and how many; how many looks
# at claimed units are too many.
TABLE, COUNT_ALL, COUNT_SHARED, INPUT, OUTPUT, SHIFT, READERS, READER_COUNT, PATIENCE = range(9)
# And of a section, after TABLE and COUNT_ALL: one place for each thread, PLACE_SIZE bytes each from the address PLACES
# on, with a cache line that says whether it is taken, then slots for each record that has its own; and a table of the
# slots that are moved, see `section`, and how many.
PLACES, PLACE_COUNT, PLACE_SIZE, MOVES, MOVE_COUNT = range(2, 7)
# int64 of a move: the slot's address, where it is in a place, in bytes, and the bytes from one part to the next in the
# kernel's eyes, and from one thread's room to the next.
FROM, TO, A_PART, A_ROOM, MOVE = 0, 1, 2, 3, 32

# The mailbox: a cache line with the number of the run, how many helpers may take part, and the records and how many of
# the program; then a note for each record.
RUN, HELPERS, RECORDS, PROGRAM = 0, 1, 2, 3
LINE, NOTE = 64, 256  # bytes
MOST_RECORDS = 4096
MAILBOX = LINE + MOST_RECORDS * NOTE
# int64 slots of a note, whose four cache lines are: the claims of the first queue, those of the second, units done, and
# what does not change during a run. A claim is run << 32 | units claimed.
SECOND, DONE, COUNT, WAITS, HALF, CALLERS = 8, 16, 24, 25, 26, 27
NOTHING_LEFT = 0xFFFFFFFF
# How often a helper looks for work before it goes to sleep: some 500 microseconds.
LOOKS = 15_000
# And before it sleeps between rounds: longer than most claims take.
LOOKS_AT_ROUNDS = 30_000
# After so many between rounds it lets another thread have its core if one waits for it.
LOOKS_A_TURN = 5_000


@inner
def post(mailbox, program, again, helpers):
    """Announce a run; returns its number. What is done `ONCE` has no units if it is run again."""
    run, records = slot(mailbox, RUN) % 0x7FFFFFFE + 1, slot(program, TABLE)
    for i in range(slot(program, COUNT_SHARED)):
        note, record = mailbox + LINE + i * NOTE, records + i * RECORD
        # Nothing to claim, for a helper of an earlier run either.
        swap(note, run << 32 | NOTHING_LEFT)
        swap(note + 8 * SECOND, run << 32 | NOTHING_LEFT)
        claims = (slot(record, UNITS) + slot(record, GRAIN) - 1) // slot(record, GRAIN)
        count = 0 if again and slot(record, ONCE) else claims
        put_slot(note, COUNT, count)
        put_slot(note, WAITS, slot(record, AFTER_ALL))
        put_slot(note, HALF, (count + 1) // 2)
        put_slot(note, CALLERS, slot(record, ALONE))
        put_slot(note, DONE, 0)
        if not slot(record, ALONE):
            publish(note, run << 32)
            publish(note + 8 * SECOND, run << 32)
    put_slot(mailbox, HELPERS, helpers)
    put_slot(mailbox, RECORDS, slot(program, COUNT_SHARED))
    put_slot(mailbox, PROGRAM, records)
    publish(mailbox, run)
    return run


@inner
def finished(note, run):
    """Return when all units of a record are done: after how many looks, or -1 if the run is over."""
    looks = 0
    while shared(note + 8 * DONE) < slot(note, COUNT):
        rest()
        looks += 1
        if shared(note) >> 32 != run:
            return -1
    return looks


@inner
def all_units(record, again):
    """Do all that a record has to do."""
    if not (again and slot(record, ONCE)):
        for unit in range(slot(record, UNITS)):
            call(slot(record, FUNCTION), slot(record, ARGUMENTS), unit)


@inner
def drain(mailbox, note, i, run, second):
    """Do what is left in a queue of record i; returns how many units that was, or -1 if the run is over."""
    first = slot(note, HALF) if second else 0
    room = slot(note, COUNT) - first if second else slot(note, HALF)
    queue, done = note + 8 * SECOND if second else note, 0
    while True:
        claim = shared(queue)
        if claim >> 32 != run:
            return -1
        unit = claim & NOTHING_LEFT
        if unit >= room:
            return done
        if exchange(queue, claim, claim + 1):
            record = slot(mailbox, PROGRAM) + i * RECORD
            grain, unit = slot(record, GRAIN), first + unit
            for k in range(unit * grain, min((unit + 1) * grain, slot(record, UNITS))):
                call(slot(record, FUNCTION), slot(record, ARGUMENTS), k)
            done += 1


@inner
def take_part(mailbox, run, helps, again):
    """Claim units, record by record, until there are none left, or the run is over; returns the longest wait."""
    known, before, records, longest = 0, 0, slot(mailbox, RECORDS), 0
    for i in range(records):
        note = mailbox + LINE + i * NOTE
        if slot(note, WAITS):
            before = i  # what overlaps with this record waits too, if it is the caller's alone
        if helps and slot(note, CALLERS):
            continue
        while known < before:
            looks = finished(mailbox + LINE + known * NOTE, run)
            if looks < 0:
                return longest
            longest = max(longest, looks)
            known += 1
        if slot(note, CALLERS):
            all_units(slot(mailbox, PROGRAM) + i * RECORD, again)
            publish(note + 8 * DONE, slot(note, COUNT))
            continue
        own = drain(mailbox, note, i, run, helps)
        if own < 0:
            return longest
        others = drain(mailbox, note, i, run, not helps)
        if own + max(others, 0):
            count_up(note + 8 * DONE, own + max(others, 0))
        if others < 0:
            return longest
    return longest


@inner
def take_place(a):
    """The number of a place that no other thread has. There is one for each."""
    number = 0
    while not exchange(slot(a, PLACES) + number * slot(a, PLACE_SIZE), 0, 1):
        number += 1
        if number == slot(a, PLACE_COUNT):
            number = 0
    return number


@native("part of several records")
def section(a, unit):
    """Part `unit` of the COUNT_ALL records in TABLE, one after the other; their UNITS are those of a part.

    Maps that nobody reads after the section are not kept for all images: a thread has room for those of one part, where
    its next part finds the cache warm. So the kernels get slots of their own, whose addresses are moved from where part
    `unit` would be to the thread's place.
    """
    number = take_place(a)
    place = slot(a, PLACES) + number * slot(a, PLACE_SIZE)
    for i in range(slot(a, MOVE_COUNT)):
        move = slot(a, MOVES) + MOVE * i
        by = number * slot(move, A_ROOM) - unit * slot(move, A_PART)
        put_slot(place + slot(move, TO), 0, slot(slot(move, FROM), 0) + by)
    for i in range(slot(a, COUNT_ALL)):
        record = slot(a, TABLE) + i * RECORD
        arguments = place + slot(record, IN_PLACE) if slot(record, IN_PLACE) else slot(record, ARGUMENTS)
        for k in range(unit * slot(record, UNITS), (unit + 1) * slot(record, UNITS)):
            call(slot(record, FUNCTION), arguments, k)
    publish(place, 0)


@inner
def connect(images, outputs, program):
    """Tell the kernels that read images and write results where those are."""
    first = images.ctypes.data
    put_slot(slot(program, INPUT), SOURCE, first + slot(program, SHIFT))
    put_slot(slot(program, INPUT), BAD, 0)
    put_slot(slot(program, OUTPUT), Y, outputs.ctypes.data)
    for i in range(slot(program, READER_COUNT)):
        reader = slot(program, READERS) + 16 * i
        put_slot(slot(reader, 0), 0, first + slot(reader, 1))


@called("run program with helpers")
def run_together(images, outputs, program, again, mailbox, helpers):
    """All records, by the thread that calls and so many helpers; returns 1 if all images are finite, and 2 more if a
    helper was late.
    """
    connect(images, outputs, program)
    run = post(mailbox, program, again, helpers)
    longest = take_part(mailbox, run, False, again)
    for i in range(slot(program, COUNT_SHARED)):
        longest = max(longest, finished(mailbox + LINE + i * NOTE, run))
    for i in range(slot(program, COUNT_SHARED), slot(program, COUNT_ALL)):
        all_units(slot(program, TABLE) + i * RECORD, again)
    return (slot(slot(program, INPUT), BAD) == 0) + 2 * (longest > slot(program, PATIENCE))


@called("help out")
def help_out(mailbox, together, number):
    """What helper `number` does until there has been nothing to do for a while: programs, and rounds of the team."""
    last, looks = types.int64(0), 0
    mine = team.new_seat()
    team.sit_down(mine, together, 0, number + 1)
    while True:
        if team.turn_is_over(mine):
            team.give_turn_away(mine)
        run, leads = shared(mailbox), shared(together + 8 * team.LEADS)
        most = LOOKS_AT_ROUNDS if leads else LOOKS
        if run != last and number < slot(mailbox, HELPERS):
            take_part(mailbox, run, True, False)
            last, looks = run, 0
        elif team.help_with_round(mine, together, number + 1):
            looks = 0
        elif looks < most and not (looks % 64 == 0 and team.is_in_the_way(together)):
            looks += 1
            if leads and looks % LOOKS_A_TURN == 0:  # the leader may have lost its own core, and others need this one
                team.give_turn_away(mine)
            else:
                rest()
        elif leads:
            team.doze()
            team.begin_turn(mine)
            looks = most
        else:
            break


@called("run calls")
def run_calls(calls, count, together, threads):
    """Kernels one after the other, by a team of so many threads, this one leading; `calls` holds the address of each
    one's code and of its arguments. Returns whether the team's helpers are left alone at present.
    """
    mine = team.new_seat()
    team.sit_down(mine, together, threads, 0)
    if threads > 1:
        put_slot(together, team.PROCESSOR, team.processor())
        publish(together + 8 * team.LEADS, 1)
    for i in range(count):
        function, arguments = slot(calls, 2 * i), slot(calls, 2 * i + 1)
        if threads > 1:
            put_slot(together, team.FUNCTION, function)
            put_slot(together, team.ARGUMENTS, arguments)
        put_slot(mine, team.MET, 0)
        call(function, arguments, 0)
    if threads == 1:
        return False
    put_slot(together, team.PROCESSOR, -1)
    publish(together + 8 * team.LEADS, 0)
    return cycles() < slot(together, team.ALONE_UNTIL)


@called("run program alone")
def run_alone(images, outputs, program, again):
    """The same as run_together without any helper."""
    connect(images, outputs, program)
    for i in range(slot(program, COUNT_ALL)):
        all_units(slot(program, TABLE) + i * RECORD, again)
    return (slot(slot(program, INPUT), BAD) == 0) + 0
