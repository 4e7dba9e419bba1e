"""Running a list of native kernels: a whole network in one call from Python, by one thread or several.

A program is a table of records, one a kernel. Its work is in units, in two queues: the thread that calls claims those
of the first, then what is left of the second, and helpers the other way round. So a claim is seldom disputed, and what
a thread has written is in its own cache when the next record reads it. A record that says so begins when all before it
are done; the others may overlap with what comes before.

The thread that calls posts a program in a mailbox and takes part itself; threads that watch the mailbox help. It waits
only for units that a helper has claimed, never for a helper that has not been given a core: a run has a number, which
is a part of every claim, so a helper that comes late, or from an earlier run, gets nothing. Such a helper may look at
the mailbox, whose memory is never given back, but not at a program.
"""

from gpucnn.kernels.numba.addresses import call, count_up, exchange, publish, put_slot, rest, shared, slot, swap
from gpucnn.kernels.numba.channel_maps import BAD, OWN, SOURCE
from gpucnn.kernels.numba.compiler import inner, kernel
from numba import types

# int64 slots of a record. GRAIN units are claimed at once.
FUNCTION, ARGUMENTS, UNITS, AFTER_ALL, ONCE, GRAIN, SLOTS = 0, 1, 2, 3, 4, 5, 8
RECORD = 8 * SLOTS  # bytes

# The mailbox: a cache line with the number of the run, how many helpers may take part, how many records the program
# has, and the program; then a note for each record.
RUN, HELPERS, RECORDS, PROGRAM = 0, 1, 2, 3
LINE, NOTE = 64, 256  # bytes
MOST_RECORDS = 4096
MAILBOX = LINE + MOST_RECORDS * NOTE
# int64 slots of a note, whose four cache lines are: the claims of the first queue, those of the second, units done, and
# what does not change during a run. A claim is run << 32 | units claimed.
SECOND, DONE, COUNT, WAITS, HALF = 8, 16, 24, 25, 26
NOTHING_LEFT = 0xFFFFFFFF
# So many looks at units that a helper has claimed say that it has lost its core: half a millisecond.
LATE = 15_000
# How often a helper looks at the mailbox before it goes to sleep: some 100 microseconds.
LOOKS = 3000


@inner
def post(mailbox, program, records, again, helpers):
    """Announce a run; returns its number. What is done `ONCE` has no units if it is run again."""
    run = slot(mailbox, RUN) % 0x7FFFFFFE + 1
    for i in range(records):
        note, record = mailbox + LINE + i * NOTE, program + i * RECORD
        # Nothing to claim, for a helper of an earlier run either.
        swap(note, run << 32 | NOTHING_LEFT)
        swap(note + 8 * SECOND, run << 32 | NOTHING_LEFT)
        claims = (slot(record, UNITS) + slot(record, GRAIN) - 1) // slot(record, GRAIN)
        count = 0 if again and slot(record, ONCE) else claims
        put_slot(note, COUNT, count)
        put_slot(note, WAITS, slot(record, AFTER_ALL))
        put_slot(note, HALF, (count + 1) // 2)
        put_slot(note, DONE, 0)
        publish(note, run << 32)
        publish(note + 8 * SECOND, run << 32)
    put_slot(mailbox, HELPERS, helpers)
    put_slot(mailbox, RECORDS, records)
    put_slot(mailbox, PROGRAM, program)
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
def take_part(mailbox, run, helps):
    """Claim units, record by record, until there are none left, or the run is over; returns the longest wait."""
    known, records, longest = 0, slot(mailbox, RECORDS), 0
    for i in range(records):
        note = mailbox + LINE + i * NOTE
        if slot(note, WAITS):
            while known < i:
                looks = finished(mailbox + LINE + known * NOTE, run)
                if looks < 0:
                    return longest
                longest = max(longest, looks)
                known += 1
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
def connect(images, outputs, source, target, shift, readers, count):
    """Tell the kernels that read images and write results where those are; `shift` bytes of an image come first.

    `readers` is a table of `count` addresses of slots, and offsets, of kernels that read the images as they are.
    """
    put_slot(source, SOURCE, images.ctypes.data + shift)
    put_slot(source, BAD, 0)
    put_slot(target, OWN, outputs.ctypes.data)
    for i in range(count):
        put_slot(slot(readers, 2 * i), 0, images.ctypes.data + slot(readers, 2 * i + 1))


@kernel("run program with helpers", parallel=False)
def run_together(images, outputs, source, target, shift, readers, count, program, records, again, mailbox, helpers):
    """All records, by the thread that calls and so many helpers; `source` and `target` are the slots of load_images and
    store_images, for the rest see `connect`. Returns 1 if all images are finite, and 2 more if a helper was late.
    """
    connect(images, outputs, source, target, shift, readers, count)
    run = post(mailbox, program, records, again, helpers)
    longest = take_part(mailbox, run, False)
    for i in range(records):
        longest = max(longest, finished(mailbox + LINE + i * NOTE, run))
    return (slot(source, BAD) == 0) + 2 * (longest > LATE)


@kernel("help with programs", parallel=False)
def help_out(mailbox, number):
    """What helper `number` does until there has been nothing to do for a while."""
    last, looks = types.int64(0), 0
    while looks < LOOKS:
        run = shared(mailbox)
        if run != last and number < slot(mailbox, HELPERS):
            take_part(mailbox, run, True)
            last, looks = run, 0
        else:
            rest()
            looks += 1


@kernel("run program alone", parallel=False)
def run_alone(images, outputs, source, target, shift, readers, count, program, records, again):
    """The same as run_together without any helper."""
    connect(images, outputs, source, target, shift, readers, count)
    for i in range(records):
        record = program + i * RECORD
        if not (again and slot(record, ONCE)):
            for unit in range(slot(record, UNITS)):
                call(slot(record, FUNCTION), slot(record, ARGUMENTS), unit)
    return (slot(source, BAD) == 0) + 0
