"""Where along a line of weights each pixel changes its label: the kernels of the exact search.

Enters: the pixels that a class can win with their best other score (`toptwo`), or a sample's probabilities (M,K,P)
float32 and labels (P,) uint8. Leaves: histograms (B+1,..) of thresholds as u = t / (1 + t), and the events of flagged
bins. Single thread, and written so that the compiler turns the loops over a block of pixels into SIMD code.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.linesearch import GAIN_FALSE, GAIN_HIT, LOSE_FALSE, LOSE_HIT
from analysis.voting import BLOCK, class_scores


@numba.njit(cache=True, nogil=True, error_model="numpy")
def scores_of(q, weights, k, out):  # type: ignore[no-untyped-def] # (M,K,P), (M,K) -> (P,)
    for start in range(0, out.size, BLOCK):
        stop = min(start + BLOCK, out.size)
        class_scores(q, weights, k, start, stop, out[start:stop])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def wins(score, rival, starts, k, out):  # type: ignore[no-untyped-def] # (n,) x2 -> (3K,) int64: pixels of each kind that k wins
    for kind in range(out.size):
        s, r = score[starts[kind] : starts[kind + 1]], rival[starts[kind] : starts[kind + 1]]
        num = 0
        if k < kind // 3:  # the lower class wins a tie
            for i in range(s.size):
                num += s[i] >= r[i]
        else:
            for i in range(s.size):
                num += s[i] > r[i]
        out[kind] = num


@numba.njit(cache=True, nogil=True, error_model="numpy")
def turn(counts, k, sign, hits, union):  # type: ignore[no-untyped-def] # (3K,) pixels go from their best other class to k
    for kind in range(counts.size):
        j, num = kind // 3, sign * counts[kind]
        if kind % 3 == 0:
            hits[j] -= num
        else:
            union[j] -= num
        if kind % 3 == 1:
            hits[k] += num
        else:
            union[k] += num


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weight_bins(values, score, rival, starts, w, end, k, scale, bins, hist):  # type: ignore[no-untyped-def]
    """Thresholds t = (r - a) / q of one weight, whose other members give a = score - w * q, counted in hist
    (B+1,K,4). bins (n,) uint16 keeps each pixel's row: 0 where k wins from the start, B + 1 where it never does."""
    num_rows = hist.shape[0]
    last = np.int32(num_rows - 1)
    row = np.empty(BLOCK, np.int32)
    table, twin = np.zeros(num_rows + 1, np.int32), np.zeros(num_rows + 1, np.int32)
    for kind in range(starts.size - 1):
        if starts[kind] == starts[kind + 1]:
            continue
        table[:] = 0
        twin[:] = 0
        tie = k < kind // 3
        for start in range(starts[kind], starts[kind + 1], BLOCK):
            size = min(BLOCK, starts[kind + 1] - start)
            q_of, s_of, r_of = values[start : start + size], score[start : start + size], rival[start : start + size]
            target = bins[start : start + size]
            for i in range(size):
                q = q_of[i]
                lack = r_of[i] - (s_of[i] - w * q)
                inside = (lack > 0) & (lack < end * q)
                at = lack / (q + lack) if inside else np.float32(0)
                b = min(np.int32(at * scale) + np.int32(1), last)
                now = (lack < 0) | ((lack == 0) & ((q > 0) | tie))
                row[i] = b if inside else (np.int32(0) if now else last + np.int32(1))
            for i in range(size):
                target[i] = row[i]
            for i in range(0, size - 1, 2):  # neighbours often share a row: two tables, so that neither waits
                table[row[i]] += 1
                twin[row[i + 1]] += 1
            if size % 2:
                table[row[size - 1]] += 1
        lose, gain = LOSE_HIT if kind % 3 == 0 else LOSE_FALSE, GAIN_HIT if kind % 3 == 1 else GAIN_FALSE
        for at_row in range(num_rows):
            num = table[at_row] + twin[at_row]
            hist[at_row, kind // 3, lose] += num
            hist[at_row, k, gain] += num


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weight_events(bins, flagged, values, score, rival, starts, w, k, u, old, new, truth):  # type: ignore[no-untyped-def]
    """Writes out the events of the flagged rows; flagged is (B+2,)."""
    num = 0
    for kind in range(starts.size - 1):
        j = kind // 3
        true = j if kind % 3 == 0 else (k if kind % 3 == 1 else 255)
        for i in range(starts[kind], starts[kind + 1]):
            if flagged[bins[i]]:
                lack = rival[i] - (score[i] - w * values[i])
                u[num], old[num], new[num], truth[num] = lack / (values[i] + lack), j, k, true
                num += 1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def member_ends(values, speed, w, end, c, a, b, low, high, first, final):  # type: ignore[no-untyped-def] # (s,) each
    """Class c, whose scores are in a, scores a + x * b when the member has weights x * along; keeps the winners at
    x = 0 and x = end so far."""
    for i in range(values.size):
        rise = speed * values[i]
        start = a[i] - w * rise
        stop = start + end * rise
        a[i], b[i] = start, rise
        better = start > low[i]
        low[i] = start if better else low[i]
        first[i] = np.int32(c) if better else first[i]
        better = stop > high[i]
        high[i] = stop if better else high[i]
        final[i] = np.int32(c) if better else final[i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def member_events(q, weights, m, along, w, end, truths, base):  # type: ignore[no-untyped-def]
    """All events of member m's line: a pixel's label is the upper envelope of K lines, walked crossing by crossing.
    Counts the labels at x = 0 in base (K,4). -> u, old, new, truth, each (E,)."""
    num_classes, num = q.shape[1], 0
    row = BLOCK + 16  # rows a power of two apart would all want the same few lines of the first cache
    a, b = np.empty((num_classes, row), np.float32), np.empty((num_classes, row), np.float32)
    low, high = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    first, final = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    steeper = np.empty(num_classes, np.int64)
    u, moves = np.empty(4096, np.float32), np.empty((4096, 3), np.uint8)
    for start in range(0, truths.size, BLOCK):
        size = min(BLOCK, truths.size - start)
        stop = start + size
        low[:] = -np.inf
        high[:] = -np.inf
        first[:] = 0
        final[:] = 0
        for c in range(num_classes):
            lines = a[c, :size], b[c, :size]
            class_scores(q, weights, c, start, stop, lines[0])
            member_ends(q[m, c, start:stop], along[c], w, end, c, *lines, low, high, first, final)
        if num + size * num_classes > u.size:
            more = u.size + BLOCK * num_classes
            u = np.concatenate((u, np.empty(more, np.float32)))
            moves = np.concatenate((moves, np.empty((more, 3), np.uint8)))
        for i in range(size):
            t = truths[start + i]
            if t == 255:
                continue
            now, x, left = first[i], np.float32(0), 0
            base[now, GAIN_HIT if t == now else GAIN_FALSE] += 1
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
                u[num] = x / (np.float32(1) + x)
                moves[num, 0], moves[num, 1], moves[num, 2] = now, then, t
                num += 1
                now, of, left = then, left, 0
                for n in range(of):
                    c = steeper[n]
                    steeper[left] = c
                    left += b[c, i] > b[now, i]
    return u[:num], moves[:num, 0].copy(), moves[:num, 1].copy(), moves[:num, 2].copy()


@numba.njit(cache=True, nogil=True, error_model="numpy")
def count_events(u, old, new, truth, scale, hist, bins):  # type: ignore[no-untyped-def] # (E,) x4 -> (B+1,K,4), (E,) rows
    last = hist.shape[0] - 1
    for i in range(u.size):
        b = min(np.int64(u[i] * scale) + 1, last)
        bins[i] = b
        hist[b, old[i], LOSE_HIT if truth[i] == old[i] else LOSE_FALSE] += 1
        hist[b, new[i], GAIN_HIT if truth[i] == new[i] else GAIN_FALSE] += 1
