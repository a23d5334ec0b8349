"""Where along a line of weights each pixel changes its label: the kernels of the exact search.

They return histograms (B+1,K,4) of thresholds as u = t / (1 + t), and the events of flagged bins. Single thread, and
written so that the compiler turns the loops over a block of pixels into SIMD code.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.voting.votes import BLOCK, class_scores
from analysis.weight_search.line_search import GAIN_FALSE, GAIN_HIT, LOSE_FALSE, LOSE_HIT, row_of

SPREAD = 8  # rows for what no bin holds: neighbours in one row would each wait for the one before


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def scores_of(columns, weights, out):  # type: ignore[no-untyped-def] # (N,M,1,.) of `contested`, (M,1) -> (n,)
    for start in range(0, out.size, BLOCK):
        stop = min(start + BLOCK, out.size)
        class_scores(columns[start // BLOCK], weights, 0, 0, stop - start, out[start:stop])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def wins(score, rival, kinds, bounds, out):  # type: ignore[no-untyped-def] # (n,) x3, (S+1,) -> (S,3K): pixels of each kind that k wins
    table, twin = np.zeros(out.shape[1], np.int32), np.zeros(out.shape[1], np.int32)
    for stratum in range(out.shape[0]):
        table[:] = 0
        twin[:] = 0
        begin, end = bounds[stratum], bounds[stratum + 1]
        for i in range(begin, end - 1, 2):  # neighbours are often of one kind: two tables, so that neither waits
            table[kinds[i]] += int(score[i] >= rival[i])
            twin[kinds[i + 1]] += int(score[i + 1] >= rival[i + 1])
        if (end - begin) % 2:
            table[kinds[end - 1]] += int(score[end - 1] >= rival[end - 1])
        for kind in range(out.shape[1]):
            out[stratum, kind] = table[kind] + twin[kind]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _rows(values, score, rival, kinds, w, low, end, scale, last, width, row):  # type: ignore[no-untyped-def]
    """Rows of thresholds t = (r - a) / q, (n,) each, where the other members give a = score - w * q, and `width` times
    the kind on top. Two groups of rows after the last: where k never wins, and where it does from the start."""
    for i in range(values.size):
        q = values[i]
        lack = rival[i] - (score[i] - w * q)
        at = lack / (q + lack)
        now = (lack <= 0) | (at <= low)
        inside = at < end  # False for 0 / 0 too
        outside = np.int32(last) + np.int32(1) + np.int32(i % SPREAD) + (np.int32(SPREAD) if now else np.int32(0))
        b = row_of(at if inside else low, low, scale, last)
        row[i] = (outside if now | (not inside) else b) + np.int32(width) * np.int32(kinds[i])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _piece(columns, member, start, end, score, rival, kinds):  # type: ignore[no-untyped-def]
    """-> up to where in its block the pixel `start` is followed; values along the line, scores, rivals, kinds."""
    place = start % BLOCK
    stop = min(start - place + BLOCK, end)
    s = score[start:stop]
    values = columns[start // BLOCK, member, 0, place : place + stop - start] if member >= 0 else s
    return stop, values, s, rival[start:stop], kinds[start:stop]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def weight_histogram(pixels, line, sizes, hist):  # type: ignore[no-untyped-def]
    """Adds the thresholds of one weight, or where `member` is -1 of the whole column, to hist (B+1,K,4)."""
    columns, member, score, rival, kinds, bounds, weighs = pixels
    k, w, low, end, scale = line
    num_rows, num_kinds = hist.shape[0], sizes.shape[1]
    width = num_rows + 2 * SPREAD
    row, table = np.empty(BLOCK, np.int32), np.zeros(num_kinds * width, np.int32)
    for stratum in range(weighs.size):
        start = bounds[stratum]
        while start < bounds[stratum + 1]:
            stop, values, own, other, kind_of = _piece(columns, member, start, bounds[stratum + 1], score, rival, kinds)
            _rows(values, own, other, kind_of, w, low, end, scale, num_rows - 1, width, row)
            for i in range(stop - start):
                table[row[i]] += 1
            start = stop
        for kind in range(num_kinds):
            if sizes[stratum, kind] == 0:
                continue
            counts = table[kind * width : (kind + 1) * width]
            for b in range(num_rows + SPREAD, width):
                counts[0] += counts[b]
            j, side = kind // 3, kind % 3
            lose, gain = LOSE_HIT if side == 0 else LOSE_FALSE, GAIN_HIT if side == 1 else GAIN_FALSE
            for b in range(num_rows):
                num = weighs[stratum] * counts[b]
                hist[b, j, lose] += num
                hist[b, k, gain] += num
            counts[:] = 0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def weight_events(flagged, pixels, line, u, old, new, truth, weight):  # type: ignore[no-untyped-def]
    """Writes out the events of the flagged rows, flagged (B+1,) uint8. -> how many."""
    columns, member, score, rival, kinds, bounds, weighs = pixels
    k, w, low, end, scale = line
    wanted = np.append(flagged, np.zeros(2 * SPREAD, np.uint8))
    row = np.empty(BLOCK, np.int32)
    num = 0
    for stratum in range(weighs.size):
        start = bounds[stratum]
        while start < bounds[stratum + 1]:
            stop, values, own, other, kind_of = _piece(columns, member, start, bounds[stratum + 1], score, rival, kinds)
            _rows(values, own, other, kind_of, w, low, end, scale, flagged.size - 1, 0, row)
            for n in range(stop - start):
                if wanted[row[n]]:
                    kind = int(kind_of[n])
                    lack = other[n] - (own[n] - w * values[n])
                    u[num], old[num], new[num] = lack / (values[n] + lack), kind // 3, k
                    truth[num] = kind // 3 if kind % 3 == 0 else (k if kind % 3 == 1 else 255)
                    weight[num] = weighs[stratum]
                    num += 1
            start = stop
    return num


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _line_ends(c, end, a, b, low, high, first, final):  # type: ignore[no-untyped-def] # (s,) each
    """Class c scores a + x * b; keeps the winners at x = 0 and x = end so far."""
    for i in range(a.size):
        start = a[i]
        stop = start + end * b[i]
        better = start > low[i]
        low[i] = start if better else low[i]
        first[i] = np.int32(c) if better else first[i]
        better = stop > high[i]
        high[i] = stop if better else high[i]
        final[i] = np.int32(c) if better else final[i]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def line_events(q, base, step, end, truths, ends, weighs, scale, flagged, hist, u, old, new, truth, weight):  # type: ignore[no-untyped-def]
    """Events of the line of weights base + x * step (M,K), x in [0, end): a pixel's label is the upper envelope of K
    lines, walked crossing by crossing. Adds all of them to hist (B+1,K,4), the labels at x = 0 in its first row, and
    writes out those of the flagged rows, flagged (B+1,) uint8, as long as there is room. -> how many those are."""
    num_classes, num, stratum = q.shape[1], 0, 0
    pad = BLOCK + 16  # rows a power of two apart would all want the same few lines of the first cache
    a, b = np.empty((num_classes, pad), np.float32), np.empty((num_classes, pad), np.float32)
    low, high = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    first, final = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    steeper = np.empty(num_classes, np.int64)
    for start in range(0, truths.size, BLOCK):
        size = min(BLOCK, truths.size - start)
        stop = start + size
        low[:] = -np.inf
        high[:] = -np.inf
        first[:] = 0
        final[:] = 0
        for c in range(num_classes):
            lines = a[c, :size], b[c, :size]
            class_scores(q, base, c, start, stop, lines[0])
            class_scores(q, step, c, start, stop, lines[1])
            _line_ends(c, end, *lines, low, high, first, final)
        for i in range(size):
            while start + i >= ends[stratum]:
                stratum += 1
            t = truths[start + i]
            if t == 255:
                continue
            now, x, left = first[i], np.float32(0), 0
            hist[0, now, GAIN_HIT if t == now else GAIN_FALSE] += weighs[stratum]
            if now == final[i]:  # a line that is on top at both ends is on top between them
                continue
            for c in range(num_classes):
                steeper[left] = c
                left += b[c, i] > b[now, i]
            while left > 0:
                then, meet = -1, np.float32(np.inf)
                for n in range(left):
                    c = steeper[n]
                    cross = (a[now, i] - a[c, i]) / (b[c, i] - b[now, i])
                    if cross < meet or (cross == meet and b[c, i] > b[then, i]):
                        then, meet = c, cross
                if then < 0 or meet >= end:
                    break
                x = max(x, meet)
                at = x / (np.float32(1) + x)
                row = row_of(at, np.float32(0), scale, hist.shape[0] - 1)
                hist[row, now, LOSE_HIT if t == now else LOSE_FALSE] += weighs[stratum]
                hist[row, then, GAIN_HIT if t == then else GAIN_FALSE] += weighs[stratum]
                if flagged[row]:
                    if num < u.size:
                        u[num], old[num], new[num], truth[num], weight[num] = at, now, then, t, weighs[stratum]
                    num += 1
                now, of, left = then, left, 0
                for n in range(of):
                    c = steeper[n]
                    steeper[left] = c
                    left += b[c, i] > b[now, i]
    return num


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def flagged_events(flagged, scale, events, num, u, old, new, truth, weight):  # type: ignore[no-untyped-def] # -> how many
    """Writes out those of the first `num` events that lie in flagged rows."""
    found = 0
    for i in range(num):
        if flagged[row_of(events[0][i], np.float32(0), scale, flagged.size - 1)]:
            u[found], old[found], new[found] = events[0][i], events[1][i], events[2][i]
            truth[found], weight[found] = events[3][i], events[4][i]
            found += 1
    return found
