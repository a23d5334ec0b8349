"""Where along a line of weights each pixel changes its label: the kernels of the exact search.

Enters: the pixels that a class can win with their best other score (`toptwo`), or a sample's probabilities (M,K,P)
float32 and labels (P,) uint8. Leaves: histograms (B+1,K,4) of thresholds as u = t / (1 + t), and the events of
flagged bins. Single thread, and written so that the compiler turns the loops over a block of pixels into SIMD code.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.linesearch import GAIN_FALSE, GAIN_HIT, LOSE_FALSE, LOSE_HIT, row_of
from analysis.voting import BLOCK, class_scores

SPREAD = 8  # rows for what no bin holds: neighbours in one row would each wait for the one before


@numba.njit(cache=True, nogil=True, error_model="numpy")
def scores_of(q, weights, k, out):  # type: ignore[no-untyped-def] # (M,K,P), (M,K) -> (P,)
    for start in range(0, out.size, BLOCK):
        stop = min(start + BLOCK, out.size)
        class_scores(q, weights, k, start, stop, out[start:stop])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def wins(score, rival, starts, k, num_classes, out):  # type: ignore[no-untyped-def] # (n,) x2 -> (3KS,): pixels of each kind that k wins
    for kind in range(out.size):
        s, r = score[starts[kind] : starts[kind + 1]], rival[starts[kind] : starts[kind + 1]]
        num = 0
        if k < kind // 3 % num_classes:  # the lower class wins a tie
            for i in range(s.size):
                num += s[i] >= r[i]
        else:
            for i in range(s.size):
                num += s[i] > r[i]
        out[kind] = num


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _rows(values, score, rival, tie, w, low, end, scale, last, row):  # type: ignore[no-untyped-def] # (n,) x3 -> (n,) int32
    """Rows of thresholds t = (r - a) / q, where the other members give a = score - w * q: 0 where k wins from the
    start, more than `last` where it never does. -> how many are 0."""
    num_from_start = np.int32(0)
    for i in range(values.size):
        q = values[i]
        lack = rival[i] - (score[i] - w * q)
        at = lack / (q + lack)
        now = (lack < 0) | ((lack == 0) & tie) | (at <= low)
        inside = at < end  # False for 0 / 0 too
        never = np.int32(last) + np.int32(1) + np.int32(i % SPREAD)
        b = row_of(at if inside else low, low, scale, last)
        row[i] = never if now | (not inside) else b
        num_from_start += now
    return num_from_start


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weight_histogram(values, score, rival, starts, weighs, k, w, low, end, scale, hist):  # type: ignore[no-untyped-def]
    """Adds the thresholds of one weight to hist (B+1,K,4)."""
    num_rows, num_classes = hist.shape[0], hist.shape[1]
    row = np.empty(BLOCK, np.int32)
    table, twin = np.zeros(num_rows + SPREAD, np.int32), np.zeros(num_rows + SPREAD, np.int32)
    for kind in range(starts.size - 1):
        if starts[kind] == starts[kind + 1]:
            continue
        table[:] = 0
        twin[:] = 0
        j, side, weight = kind // 3 % num_classes, kind % 3, weighs[kind // (3 * num_classes)]
        for start in range(starts[kind], starts[kind + 1], BLOCK):
            stop = min(start + BLOCK, starts[kind + 1])
            size = stop - start
            part = values[start:stop], score[start:stop], rival[start:stop]
            table[0] += _rows(*part, k < j, w, low, end, scale, num_rows - 1, row)
            for i in range(0, size - 1, 2):  # neighbours often share a row: two tables, so that neither waits
                table[row[i]] += 1
                twin[row[i + 1]] += 1
            if size % 2:
                table[row[size - 1]] += 1
        lose, gain = LOSE_HIT if side == 0 else LOSE_FALSE, GAIN_HIT if side == 1 else GAIN_FALSE
        for b in range(num_rows):
            num = weight * (table[b] + twin[b])
            hist[b, j, lose] += num
            hist[b, k, gain] += num


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weight_events(flagged, values, score, rival, starts, weighs, k, w, low, end, scale, u, old, new, truth, weight):  # type: ignore[no-untyped-def]
    """Writes out the events of the flagged rows, flagged (B+1,) uint8. -> how many."""
    num_classes, last = (starts.size - 1) // (3 * weighs.size), flagged.size - 1
    wanted = np.append(flagged, np.zeros(SPREAD, np.uint8))
    row = np.empty(BLOCK, np.int32)
    num = 0
    for kind in range(starts.size - 1):
        j, side = kind // 3 % num_classes, kind % 3
        true = j if side == 0 else (k if side == 1 else 255)
        for start in range(starts[kind], starts[kind + 1], BLOCK):
            stop = min(start + BLOCK, starts[kind + 1])
            part = values[start:stop], score[start:stop], rival[start:stop]
            _rows(*part, k < j, w, low, end, scale, last, row)
            for n in range(stop - start):
                if wanted[row[n]]:
                    i = start + n
                    lack = rival[i] - (score[i] - w * values[i])
                    u[num], old[num], new[num], truth[num] = lack / (values[i] + lack), j, k, true
                    weight[num] = weighs[kind // (3 * num_classes)]
                    num += 1
    return num


@numba.njit(cache=True, nogil=True, error_model="numpy")
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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def line_events(q, base, step, end, truths, ends, weighs, counts):  # type: ignore[no-untyped-def]
    """All events of the line of weights base + x * step (M,K), x in [0, end): a pixel's label is the upper envelope of
    K lines, walked crossing by crossing. Counts the labels at x = 0 in counts (K,4). -> u, (old, new, truth), weight,
    each (E,)."""
    num_classes, num, stratum = q.shape[1], 0, 0
    row = BLOCK + 16  # rows a power of two apart would all want the same few lines of the first cache
    a, b = np.empty((num_classes, row), np.float32), np.empty((num_classes, row), np.float32)
    low, high = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    first, final = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    steeper = np.empty(num_classes, np.int64)
    u, moves, weight = np.empty(4096, np.float32), np.empty((4096, 3), np.uint8), np.empty(4096, np.int32)
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
        if num + size * num_classes > u.size:
            more = u.size + BLOCK * num_classes
            u = np.concatenate((u, np.empty(more, np.float32)))
            moves = np.concatenate((moves, np.empty((more, 3), np.uint8)))
            weight = np.concatenate((weight, np.empty(more, np.int32)))
        for i in range(size):
            while start + i >= ends[stratum]:
                stratum += 1
            t = truths[start + i]
            if t == 255:
                continue
            now, x, left = first[i], np.float32(0), 0
            counts[now, GAIN_HIT if t == now else GAIN_FALSE] += weighs[stratum]
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
                u[num], weight[num] = x / (np.float32(1) + x), weighs[stratum]
                moves[num, 0], moves[num, 1], moves[num, 2] = now, then, t
                num += 1
                now, of, left = then, left, 0
                for n in range(of):
                    c = steeper[n]
                    steeper[left] = c
                    left += b[c, i] > b[now, i]
    return u[:num].copy(), moves[:num].T.copy(), weight[:num].copy()


@numba.njit(cache=True, nogil=True, error_model="numpy")
def count_events(u, old, new, truth, weight, scale, hist, rows):  # type: ignore[no-untyped-def] # (E,) x5 -> (B+1,K,4), (E,) rows
    for i in range(u.size):
        b = row_of(u[i], np.float32(0), scale, hist.shape[0] - 1)
        rows[i] = b
        hist[b, old[i], LOSE_HIT if truth[i] == old[i] else LOSE_FALSE] += weight[i]
        hist[b, new[i], GAIN_HIT if truth[i] == new[i] else GAIN_FALSE] += weight[i]
