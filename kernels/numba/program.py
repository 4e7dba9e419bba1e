"""Running a list of native kernels: a whole network in one call from Python.

A program is a table of records, one a kernel. Its work is in units, and threads claim the next unit of the record at
hand from a counter, so none waits for one that has not been given a core. A record that says so begins when all before
it are done; the others may overlap with what comes before.
"""

from gpucnn.kernels.numba.addresses import call, claim, put_slot, shared, slot
from gpucnn.kernels.numba.channel_maps import BAD, OWN, SOURCE
from gpucnn.kernels.numba.compiler import inner, kernel
from numba import prange

# int64 slots of a record. The counters have cache lines of their own.
FUNCTION, ARGUMENTS, UNITS, AFTER_ALL, ONCE, CLAIMED, DONE, SLOTS = 0, 1, 2, 3, 4, 16, 24, 32
RECORD = 8 * SLOTS  # bytes


@inner
def wait_for(record):
    """Return when all units of a record are done."""
    while shared(record + 8 * DONE) < slot(record, UNITS):
        pass


@inner
def take_part(program, records):
    """Claim units, record by record, until there are none; returns when all are done."""
    known = 0
    for i in range(records):
        record = program + i * RECORD
        if slot(record, AFTER_ALL):
            while known < i:
                wait_for(program + known * RECORD)
                known += 1
        units = slot(record, UNITS)
        while True:
            unit = claim(record + 8 * CLAIMED)
            if unit >= units:
                break
            call(slot(record, FUNCTION), slot(record, ARGUMENTS), unit)
            claim(record + 8 * DONE)
    while known < records:
        wait_for(program + known * RECORD)
        known += 1


@inner
def rewind(program, records, again):
    """Set the counters to the start; what is done `ONCE` counts as done if it is run again."""
    for i in range(records):
        record = program + i * RECORD
        done = slot(record, UNITS) if again and slot(record, ONCE) else 0
        put_slot(record, CLAIMED, done)
        put_slot(record, DONE, done)


@inner
def connect(images, outputs, source, target, shift):
    """Tell the kernels that read images and write results where those are; `shift` bytes of an image come first."""
    put_slot(source, SOURCE, images.ctypes.data + shift)
    put_slot(source, BAD, 0)
    put_slot(target, OWN, outputs.ctypes.data)


@kernel("run program", parallel=True)
def run_together(images, outputs, source, target, shift, program, records, again, threads):
    """All records, by so many threads; `source` and `target` are the slots of load_images and store_images.

    Returns whether all images are finite.
    """
    connect(images, outputs, source, target, shift)
    rewind(program, records, again)
    for _ in prange(threads):
        take_part(program, records)
    return slot(source, BAD) == 0


@kernel("run program alone", parallel=False)
def run_alone(images, outputs, source, target, shift, program, records, again):
    """The same by the thread that calls."""
    connect(images, outputs, source, target, shift)
    for i in range(records):
        record = program + i * RECORD
        if not (again and slot(record, ONCE)):
            for unit in range(slot(record, UNITS)):
                call(slot(record, FUNCTION), slot(record, ARGUMENTS), unit)
    return slot(source, BAD) == 0
