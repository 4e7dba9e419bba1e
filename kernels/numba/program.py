"""Running a list of native kernels: a whole network in one call from Python, by one thread or several.

A program is a table of records, one a kernel. Its work is in units, and threads claim the next unit of the record at
hand: the thread that calls the first of those that are left, helpers the last, so that what a thread has written is in
its own cache when the next record reads it. A record that says so begins when all before it are done; the others may
overlap with what comes before.

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

# The mailbox: a cache line with the number of the run, how many helpers may take part, and how many records the program
# has; then two lines a record.
RUN, HELPERS, RECORDS = 0, 1, 2
LINE, NOTE = 64, 128  # bytes
MOST_RECORDS = 4096
MAILBOX = LINE + MOST_RECORDS * NOTE
# int64 slots of a record's lines: the claim, made of the run's number and how many units were taken from the front and
# from the back; units; whether it begins after all before. Then units done.
CLAIM, COUNT, WAITS, DONE = 0, 1, 2, 8
TAKEN_BITS = 18
MOST_UNITS = (1 << TAKEN_BITS) - 1
RUN_SHIFT = 2 * TAKEN_BITS
MOST_RUNS = (1 << (63 - RUN_SHIFT)) - 1
# How often a helper looks at the mailbox before it goes to sleep: some 100 microseconds.
LOOKS = 3000


@inner
def post(mailbox, program, records, again, helpers):
    """Announce a run; returns its number. What is done `ONCE` has no units if it is run again."""
    run = slot(mailbox, RUN) % MOST_RUNS + 1
    for i in range(records):
        note, record = mailbox + LINE + i * NOTE, program + i * RECORD
        swap(note, run << RUN_SHIFT | MOST_UNITS)  # nothing to claim, for a helper of an earlier run either
        claims = (slot(record, UNITS) + slot(record, GRAIN) - 1) // slot(record, GRAIN)
        put_slot(note, COUNT, 0 if again and slot(record, ONCE) else claims)
        put_slot(note, WAITS, slot(record, AFTER_ALL))
        put_slot(note, DONE, 0)
        publish(note, run << RUN_SHIFT)
    put_slot(mailbox, HELPERS, helpers)
    put_slot(mailbox, RECORDS, records)
    put_slot(mailbox, RECORDS + 1, program)
    publish(mailbox, run)
    return run


@inner
def finished(note, run):
    """Return whether this is still the run, when all units of a record are done."""
    while shared(note + 8 * DONE) < slot(note, COUNT):
        rest()
        if shared(note) >> RUN_SHIFT != run:
            return False
    return True


@inner
def take_part(mailbox, run, helps):
    """Claim units, record by record, until there are none left, or the run is over."""
    known, records = 0, slot(mailbox, RECORDS)
    for i in range(records):
        note = mailbox + LINE + i * NOTE
        if slot(note, WAITS):
            while known < i:
                if not finished(mailbox + LINE + known * NOTE, run):
                    return
                known += 1
        while True:
            claim = shared(note)
            if claim >> RUN_SHIFT != run:
                return
            units, back, front = slot(note, COUNT), claim >> TAKEN_BITS & MOST_UNITS, claim & MOST_UNITS
            if front + back >= units:
                break
            unit = units - 1 - back if helps else front
            if exchange(note, claim, claim + (1 << TAKEN_BITS if helps else 1)):
                record = slot(mailbox, RECORDS + 1) + i * RECORD
                grain = slot(record, GRAIN)
                for k in range(unit * grain, min((unit + 1) * grain, slot(record, UNITS))):
                    call(slot(record, FUNCTION), slot(record, ARGUMENTS), k)
                count_up(note + 8 * DONE)


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
    store_images, for the rest see `connect`. Returns whether all images are finite.
    """
    connect(images, outputs, source, target, shift, readers, count)
    run = post(mailbox, program, records, again, helpers)
    take_part(mailbox, run, False)
    for i in range(records):
        finished(mailbox + LINE + i * NOTE, run)
    return slot(source, BAD) == 0


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
    return slot(source, BAD) == 0
