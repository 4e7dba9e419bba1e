"""Register tiles: tuples of accumulators, and the steps that add products to all of them. Nothing here knows
convolutions.

Plain Numba loops reach a third of the machine's speed at best, because the accumulators do not stay in registers. A
tile's step is LLVM code in which each accumulator is a value of its own; loops that carry a whole tile are made here
too.
"""

import functools

from gpucnn.kernels.numba.simd import (
    LANES,
    _address,
    _fma,
    _half,
    _i32,
    _i64,
    _index,
    _lane_tree,
    _load,
    _pair_tree,
    _splat,
    _splat_pair,
    _vec,
    half,
    vec,
)
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _unpack(builder, acc):
    """The accumulators of a tile."""
    return [builder.extract_value(acc, k) for k in range(acc.type.count)]


def _pack(builder, acc, values):
    """The tile `acc` with these accumulators."""
    for k, value in enumerate(values):
        acc = builder.insert_value(acc, value, k)
    return acc


@functools.cache
def zeros_of(count: int, halves: bool = False):
    """zeros() -> a tuple of `count` vectors of +0, or of halves of vectors."""
    kind, zero = (half, _half) if halves else (vec, _vec)

    @intrinsic
    def zeros(typing):
        return types.UniTuple(kind, count)(), lambda c, b, s, v: ir.Constant(ir.ArrayType(zero, count), None)

    return zeros


@functools.cache
def joined_of(count: int):
    """joined(first, last): a tuple of `count` vectors from tuples of their halves."""
    halves, whole = types.UniTuple(half, count), types.UniTuple(vec, count)

    @intrinsic
    def joined(typing, first, last):
        def generate(context, builder, s, v):
            result, lanes = ir.Constant(ir.ArrayType(_vec, count), ir.Undefined), list(range(LANES))
            for k in range(count):
                parts = (builder.extract_value(value, k) for value in v)
                value = builder.shuffle_vector(*parts, ir.Constant(ir.VectorType(_i32, LANES), lanes))
                result = builder.insert_value(result, value, k)
            return result

        return whole(halves, halves), generate

    return joined


@functools.cache
def keep_first_of(count: int):
    """keep_first(acc, n): a tuple of `count` vectors with their lanes from n on set to +0."""
    lanes_type = ir.VectorType(_i32, LANES)
    accumulators = types.UniTuple(vec, count)

    @intrinsic
    def keep_first(typing, acc, n):
        def generate(context, builder, s, v):
            acc, n = v
            limit = builder.insert_element(ir.Constant(lanes_type, ir.Undefined), builder.trunc(n, _i32), _i32(0))
            limit = builder.shuffle_vector(limit, limit, ir.Constant(lanes_type, [0] * LANES))
            present = builder.icmp_signed("<", ir.Constant(lanes_type, list(range(LANES))), limit)
            for t in range(count):
                value = builder.select(present, builder.extract_value(acc, t), ir.Constant(_vec, None))
                acc = builder.insert_value(acc, value, t)
            return acc

        return accumulators(accumulators, _index), generate

    return keep_first


@functools.cache
def broadcast_tile(
    rows: int,
    columns: int,
    lines: int = 1,
    w_row: int | None = None,
    x_column: int | None = None,
    pairs: bool = False,
):
    """Steps of a tile acc[i * pixels + j] = fma(x_j, w_i, acc[i * pixels + j]), w_i one float for all lanes; with
    `pairs` two, for the even and the odd lanes, and x_j the first 8 lanes of what is read, each twice.

    The tile's pixels are `lines` image lines of `columns` each, j = line * columns + column.
    `step(acc, w, wi, w_row, x, xi, x_line, x_column)`: w_i = w.base[wi + i * w_row] and
    x_j = x.base[xi + line * x_line + column * x_column].
    `run(acc, count, w, wi, w_row, w_next, x, xi, x_column, x_next)` does `count` steps of a single line, each w_next
    and x_next further on.
    `edge_step(..., top, line_stride, height, left, stride, width)`: x_j is zero, and its address never read, unless
    0 <= top + line * line_stride < height and 0 <= left + column * stride < width.
    A stride given here is a constant of the machine code and the argument is ignored: addresses then cost no registers.
    """
    pixels = lines * columns
    accumulators = types.UniTuple(vec, rows * pixels)
    twice = ir.Constant(ir.VectorType(_i32, LANES), [lane // 2 for lane in range(LANES)])

    def products(builder, values, weights, row, first, x_line, column, read):
        """The accumulators `values` after a step; weights and first are addresses."""
        row = row if w_row is None else _i64(w_row)
        column = column if x_column is None else _i64(x_column)
        fma_of, values = _fma(builder), list(values)
        xs = []
        for line in range(lines):
            start = builder.gep(first, [builder.mul(x_line, _i64(line))])
            for j in range(columns):
                xs.append(read(builder, builder.gep(start, [builder.mul(column, _i64(j))]), line, j))
        if pairs:
            xs = [builder.shuffle_vector(v, v, twice) for v in xs]
        for i in range(rows):
            place = builder.gep(weights, [builder.mul(row, _i64(i))])
            weight = _splat_pair(builder, place) if pairs else _splat(builder, builder.load(place))
            for j, xj in enumerate(xs):
                values[i * pixels + j] = builder.call(fma_of, [xj, weight, values[i * pixels + j]])
        return values

    def tile(context, builder, s, v, read):
        acc, w, wi, row, x, xi, x_line, column = v[:8]
        weights = _address(context, builder, s.args[1], w, wi)
        first = _address(context, builder, s.args[4], x, xi)
        return _pack(builder, acc, products(builder, _unpack(builder, acc), weights, row, first, x_line, column, read))

    def inside(builder, pointer, line, j):
        return _load(builder, pointer)

    @intrinsic
    def run(typing, acc, count, w, wi, w_row, w_next, x, xi, x_column, x_next):
        def generate(context, builder, s, v):
            acc, count, w, wi, row, w_next, x, xi, column, x_next = v
            weights = _address(context, builder, s.args[2], w, wi)
            first = _address(context, builder, s.args[6], x, xi)

            def body(b, q, values):
                ws, xs = b.gep(weights, [b.mul(q, w_next)]), b.gep(first, [b.mul(q, x_next)])
                return products(b, values, ws, row, xs, _i64(0), column, inside)

            return _pack(builder, acc, _loop(builder, count, _unpack(builder, acc), body))

        return accumulators(accumulators, _index, w, *[_index] * 3, x, *[_index] * 3), generate

    @intrinsic
    def step(typing, acc, w, wi, w_row, x, xi, x_line, x_column):
        def generate(context, builder, s, v):
            return tile(context, builder, s, v, inside)

        return accumulators(accumulators, w, _index, _index, x, _index, _index, _index), generate

    @intrinsic
    def edge_step(typing, acc, w, wi, w_row, x, xi, x_line, x_column, top, line_stride, height, left, stride, width):
        def generate(context, b, s, v):
            origin = _address(context, b, s.args[4], v[4], _i64(0))
            top, line_stride, height, left, stride, width = v[8:]

            def read(b, pointer, line, j):
                inside = b.icmp_unsigned("<", b.add(left, b.mul(stride, _i64(j))), width)
                if lines > 1:
                    y = b.add(top, b.mul(line_stride, _i64(line)))
                    inside = b.and_(inside, b.icmp_unsigned("<", y, height))
                value = _load(b, b.select(inside, pointer, origin))
                return b.select(inside, value, ir.Constant(_vec, None))

            return tile(context, b, s, v, read)

        kind = accumulators(accumulators, w, _index, _index, x, *[_index] * 9)
        return kind, generate

    return step, run, edge_step


def _loop(builder, count, carried, body):
    """A counted loop that LLVM must not unroll: `carried = body(builder, i, carried)` for i < count; the last
    `carried`.

    Unrolling a tile that fills the register file only makes the compiler move its accumulators about.
    """
    before, inside = builder.block, builder.append_basic_block("tile")
    after = builder.append_basic_block("tile.end")
    builder.cbranch(builder.icmp_signed(">", count, _i64(0)), inside, after)
    builder.position_at_end(inside)
    i = builder.phi(_i64)
    values = [builder.phi(value.type) for value in carried]
    results = body(builder, i, values)
    following = builder.add(i, _i64(1))
    last = builder.block
    branch = builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
    no_unroll = builder.module.add_metadata([ir.MetaDataString(builder.module, "llvm.loop.unroll.disable")])
    loop = builder.module.add_metadata([ir.MetaDataString(builder.module, f"tile {id(branch)}"), no_unroll])
    loop.operands = (loop, no_unroll)  # a loop is named by metadata whose first operand is itself
    branch.set_metadata("llvm.loop", loop)
    i.add_incoming(_i64(0), before)
    i.add_incoming(following, last)
    builder.position_at_end(after)
    ends = []
    for value, start, result in zip(values, carried, results, strict=True):
        value.add_incoming(start, before)
        value.add_incoming(result, last)
        end = builder.phi(value.type)
        end.add_incoming(start, before)
        end.add_incoming(result, last)
        ends.append(end)
    return ends


@functools.cache
def product_tile(
    rows: int, channels: int, taps: int, x_tap: int | None = None, pairs: bool = False, halves: bool = False
):
    """Steps of a tile acc[(i * channels + c) * taps + t] = fma(d_i, x_ct, acc[...]), all of them vectors.

    `run(acc, count, d, di, d_row, d_next, x, xi, x_channel, x_tap, x_next)` does `count` steps: in step q,
    d_i = d.base[di + q * d_next + i * d_row] and x_ct = x.base[xi + q * x_next + c * x_channel + t * x_tap].
    `edge_step(acc, d, di, d_row, x, xi, x_channel, x_tap, column, dilation, width)` does one in which x_ct is zero, and
    its address never read, unless 0 <= column + t * dilation < width. An x_tap given here is a constant of the machine
    code and the argument is ignored. With `pairs` d_i are the first 8 lanes of rows 2i and 2i + 1 in turn, and x_ct the
    first 8 of what is read, each twice. With `halves` all vectors have 8 lanes.
    """
    kind, lanes = (half, _half) if halves else (vec, _vec)
    accumulators = types.UniTuple(kind, rows * channels * taps)
    twice, in_turn = (
        ir.Constant(ir.VectorType(_i32, LANES), [lane // 2 + second * (lane % 2) for lane in range(LANES)])
        for second in (0, LANES)
    )

    def tile(builder, acc, gradients, d_row, pixels, x_channel, tap, read):
        """acc as a list; gradients and pixels are addresses."""
        fma_of = _fma(builder, lanes)
        tap = tap if x_tap is None else _i64(x_tap)
        xs = []
        for c in range(channels):
            base = builder.gep(pixels, [builder.mul(x_channel, _i64(c))])
            for t in range(taps):
                xs.append(read(builder, builder.gep(base, [builder.mul(tap, _i64(t))]), t))
        if pairs:
            xs = [builder.shuffle_vector(v, v, twice) for v in xs]
        results, every = [], range(2 * rows if pairs else rows)
        ds = [_load(builder, builder.gep(gradients, [builder.mul(d_row, _i64(i))]), lanes) for i in every]
        if pairs:
            ds = [builder.shuffle_vector(*two, in_turn) for two in zip(ds[::2], ds[1::2], strict=True)]
        for i, gradient in enumerate(ds):
            for j, xj in enumerate(xs):
                results.append(builder.call(fma_of, [gradient, xj, acc[i * len(xs) + j]]))
        return results

    @intrinsic
    def run(typing, acc, count, d, di, d_row, d_next, x, xi, x_channel, x_tap, x_next):
        def generate(context, builder, s, v):
            acc, count, d, di, d_row, d_next, x, xi, x_channel, tap, x_next = v
            gradients = _address(context, builder, s.args[2], d, di)
            pixels = _address(context, builder, s.args[6], x, xi)

            def body(b, q, values):
                g, p = b.gep(gradients, [b.mul(q, d_next)]), b.gep(pixels, [b.mul(q, x_next)])
                return tile(b, values, g, d_row, p, x_channel, tap, lambda b, pointer, t: _load(b, pointer, lanes))

            return _pack(builder, acc, _loop(builder, count, _unpack(builder, acc), body))

        kind = accumulators(accumulators, _index, d, _index, _index, _index, x, _index, _index, _index, _index)
        return kind, generate

    @intrinsic
    def edge_step(typing, acc, d, di, d_row, x, xi, x_channel, x_tap, column, dilation, width):
        def generate(context, builder, s, v):
            acc, d, di, d_row, x, xi, x_channel, tap, column, dilation, width = v
            gradients = _address(context, builder, s.args[1], d, di)
            pixels = _address(context, builder, s.args[4], x, xi)
            origin = _address(context, builder, s.args[4], x, _i64(0))

            def read(b, pointer, t):
                inside = b.icmp_unsigned("<", b.add(column, b.mul(dilation, _i64(t))), width)
                value = _load(b, b.select(inside, pointer, origin), lanes)
                return b.select(inside, value, ir.Constant(lanes, None))

            values = tile(builder, _unpack(builder, acc), gradients, d_row, pixels, x_channel, tap, read)
            return _pack(builder, acc, values)

        kind = accumulators(accumulators, d, _index, _index, x, _index, _index, _index, _index, _index, _index)
        return kind, generate

    return run, edge_step


@functools.cache
def lane_trees_of(count: int, pairs: bool = False):
    """Functions of a tuple of `count` vectors. Lane j of what number k gives is vector 16 * k + j, its lanes summed by
    adjacent pairs; with `pairs` lanes 2j and 2j + 1 are vector 8 * k + j, those of either parity summed so.
    """
    width, tree = (LANES // 2, _pair_tree) if pairs else (LANES, _lane_tree)

    def tree_of(k):
        @intrinsic
        def lane_tree(typing, acc):
            def generate(context, builder, s, v):
                last = min(count, (k + 1) * width)
                return tree(builder, [builder.extract_value(v[0], t) for t in range(k * width, last)])

            return vec(acc), generate

        return lane_tree

    return tuple(tree_of(k) for k in range(-(-count // width)))


@functools.cache
def row_tile(rows: int, columns: int, taps: int, left: int, right: int, stride: int = 1, pairs: bool = False):
    """Steps of a tile acc[i * columns + j] = fma(x_{j*stride+t}, w_ti, acc[...]) for the taps t in order: one kernel
    row each.

    `run(acc, channels, lines, w, wi, w_channel, w_line, x, xi, x_channel, x_line)` does one step for each channel and
    line: w_ti = w.base[wi + channel * w_channel + line * w_line + t * rows + i] and x_j = x.base[xi + channel *
    x_channel + line * x_line + j * 16]. A step of stride 1 loads each x_j once for all taps. The first `left` and the
    last `right` of the vectors x_j are outside the image: they are not read, and their products, zeros, left out. With
    `pairs` w_ti is two floats, for the even and the odd lanes.
    """
    width = 2 if pairs else 1
    accumulators = types.UniTuple(vec, rows * columns)
    there = range(left, (columns - 1) * stride + taps - right)

    @intrinsic
    def run(typing, acc, channels, lines, w, wi, w_channel, w_line, x, xi, x_channel, x_line):
        def generate(context, builder, s, v):
            acc, channels, lines, w, wi, w_channel, w_line, x, xi, x_channel, x_line = v
            weights = _address(context, builder, s.args[3], w, wi)
            pixels = _address(context, builder, s.args[7], x, xi)

            def over_channels(b, c, values):
                ws, xs = b.gep(weights, [b.mul(c, w_channel)]), b.gep(pixels, [b.mul(c, x_channel)])

                def over_lines(b, r, values):
                    w_r, x_r = b.gep(ws, [b.mul(r, w_line)]), b.gep(xs, [b.mul(r, x_line)])
                    fma_of, values = _fma(b), list(values)
                    x_j = {}
                    for t in range(taps):
                        # More pixels than one tap sees fit in registers only where taps share them.
                        for j in there if stride == 1 else range(t, t + columns * stride, stride):
                            if j in there and (j not in x_j or stride > 1):
                                x_j[j] = _load(b, b.gep(x_r, [_i64(j * LANES)]))
                        for i in range(rows):
                            place = b.gep(w_r, [_i64((t * rows + i) * width)])
                            weight = _splat_pair(b, place) if pairs else _splat(b, b.load(place))
                            for j in range(columns):
                                if j * stride + t in there:
                                    k = i * columns + j
                                    values[k] = b.call(fma_of, [x_j[j * stride + t], weight, values[k]])
                    return values

                return _loop(b, lines, values, over_lines)

            values = _unpack(builder, acc)
            return _pack(builder, acc, _loop(builder, channels, values, over_channels))

        return accumulators(accumulators, _index, _index, w, *[_index] * 3, x, *[_index] * 3), generate

    return run


@functools.cache
def sliding_tile(rows: int, channels: int, taps: int, left: int, right: int, stride: int = 1, halves: bool = False):
    """A line of steps of a tile acc[(i * channels + c) * taps + t] = fma(d_i, x_{c,q*stride+t}, acc[...]), q running
    along the line.

    `run(acc, pixels, d, di, d_row, x, xi, x_channel)` does `pixels` steps: in step q, d_i = d.base[di + i * d_row +
    q * 16] and x_{c,p} = x.base[xi + c * x_channel + p * 16], each loaded once, or by each step anew. The first `left`
    and the last `right` of the (pixels - 1) * stride + taps vectors x are outside the image: they are not read, and
    their products, zeros, left out. No step sees both ends. With `halves` all vectors have 8 lanes, those from di and
    xi on.
    """
    kind, lanes = (half, _half) if halves else (vec, _vec)
    accumulators = types.UniTuple(kind, rows * channels * taps)
    # Of a step's vectors those that the next step sees too. Halves are for 16 registers, which cannot hold more.
    kept = 0 if halves and taps > 3 else max(taps - stride, 0)
    firsts, lasts = -(-left // stride), -(-right // stride)  # the steps that see an end

    @intrinsic
    def run(typing, acc, pixels, d, di, d_row, x, xi, x_channel):
        def generate(context, builder, s, v):
            acc, pixels, d, di, d_row, x, xi, x_channel = v
            gradients = _address(context, builder, s.args[2], d, di)
            first = _address(context, builder, s.args[5], x, xi)

            def x_at(b, c, place):
                """Vector number `place` of the line of channel c."""
                return _load(b, b.gep(first, [b.add(b.mul(x_channel, _i64(c)), b.mul(place, _i64(LANES)))]), lanes)

            def step(b, q, values, windows):
                """The products of step q with the windows, [c][t], None where outside."""
                fma_of, values = _fma(b, lanes), list(values)
                for i in range(rows):
                    place = b.add(b.mul(d_row, _i64(i)), b.mul(q, _i64(LANES)))
                    gradient = _load(b, b.gep(gradients, [place]), lanes)
                    for c in range(channels):
                        for t in range(taps):
                            if windows[c][t] is not None:
                                k = (i * channels + c) * taps + t
                                values[k] = b.call(fma_of, [gradient, windows[c][t], values[k]])
                return values

            def moved(b, q, windows, inside=lambda t: True):
                """The windows of step q: what the step before keeps of its own, and new vectors where inside."""
                start = b.mul(q, _i64(stride))
                return [
                    [*window, *(x_at(b, c, b.add(start, _i64(t))) if inside(t) else None for t in range(kept, taps))]
                    for c, window in enumerate(windows)
                ]

            values = _unpack(builder, acc)
            windows = [[None if t < left else x_at(builder, c, _i64(t)) for t in range(kept)] for c in range(channels)]
            for q in range(firsts):
                windows = moved(builder, _i64(q), windows, lambda t, q=q: q * stride + t >= left)
                values = step(builder, _i64(q), values, windows)
                windows = [window[taps - kept :] for window in windows]

            def middle(b, n, carried):
                q, values = b.add(n, _i64(firsts)), carried[: accumulators.count]
                held = carried[accumulators.count :]
                ws = moved(b, q, [held[c * kept : (c + 1) * kept] for c in range(channels)])
                return [*step(b, q, values, ws), *(x for window in ws for x in window[taps - kept :])]

            carried = values + [x for window in windows for x in window]
            carried = _loop(builder, builder.sub(pixels, _i64(firsts + lasts)), carried, middle)
            values, held = carried[: accumulators.count], carried[accumulators.count :]
            windows = [held[c * kept : (c + 1) * kept] for c in range(channels)]
            for n in range(lasts - 1, -1, -1):  # so many steps follow
                q = builder.sub(pixels, _i64(n + 1))
                windows = moved(builder, q, windows, lambda t, n=n: n * stride + taps - 1 - t >= right)
                values = step(builder, q, values, windows)
                windows = [window[taps - kept :] for window in windows]
            return _pack(builder, acc, values)

        return accumulators(accumulators, _index, d, _index, _index, x, _index, _index), generate

    return run
