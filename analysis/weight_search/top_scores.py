"""The two highest scores of every pixel, kept in step with the weights: all that the exact search stores per pixel.

Per pixel: best, second float32 and their classes who, runner uint8, and third float32, which no other class exceeds;
fourteen bytes, where the scores of all classes would take 4 K. A runner that falls below `third` becomes UNKNOWN, and
`second` a bound as well: it is looked up only where such a pixel's `who` may lose it.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.voting.votes import BLOCK, class_scores

UNKNOWN = 255  # no class: 255 is the label of ignored pixels
SLACK = np.float32(1e-5)  # more than the rounding of a sum over members


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def top_two(q, weights, best, second, third, who, runner):  # type: ignore[no-untyped-def] # (M,K,P), (M,K) -> (P,) x5
    """From scratch. The lower class comes first of equal scores, as in a vote."""
    score, first = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    after, rest = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    lead, follow = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(0, best.size, BLOCK):
        stop = min(start + BLOCK, best.size)
        class_scores(q, weights, 0, start, stop, first)
        after[:] = -1
        rest[:] = -1
        lead[:] = 0
        follow[:] = 0
        for k in range(1, q.shape[1]):
            class_scores(q, weights, k, start, stop, score)
            for i in range(stop - start):
                s, b = score[i], first[i]
                leads, follows = s > b, s > after[i]
                rest[i] = after[i] if leads | follows else max(rest[i], s)
                after[i] = b if leads else (s if follows else after[i])
                follow[i] = lead[i] if leads else (np.int32(k) if follows else follow[i])
                first[i] = s if leads else b
                lead[i] = np.int32(k) if leads else lead[i]
        for i in range(stop - start):
            best[start + i], second[start + i], third[start + i] = first[i], after[i], rest[i]
            who[start + i], runner[start + i] = lead[i], follow[i]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _reachable(q, k, start, stop, low, high, drop, extra, first, after, lead, labels, work, keep, where):  # type: ignore[no-untyped-def] # -> n
    """Writes into where the pixels of a block that class k can win or lose while its weights (M,) stay within
    [low, high] but for one member m, whose weight may fall by drop[m] more or rise by extra[m] more."""
    size = stop - start
    least, most, fall, rise = work[0], work[1], work[2], work[3]
    me, num_members = np.int32(k), q.shape[0]
    down, up = np.float32(1) - SLACK, np.float32(1) + SLACK
    least[:size] = 0
    most[:size] = 0
    for m in range(0, num_members - 1, 2):  # two members a pass: the sums are read and written half as often
        one, two = q[m, k, start:stop], q[m + 1, k, start:stop]
        low_1, low_2, high_1, high_2 = low[m] * down, low[m + 1] * down, high[m] * up, high[m + 1] * up
        for i in range(size):
            least[i] += low_1 * one[i] + low_2 * two[i]
            most[i] += high_1 * one[i] + high_2 * two[i]
    if num_members % 2:
        one, low_1, high_1 = q[num_members - 1, k, start:stop], low[num_members - 1] * down, high[num_members - 1] * up
        for i in range(size):
            least[i] += low_1 * one[i]
            most[i] += high_1 * one[i]
    if drop.any() or extra.any():
        fall[:size] = 0
        rise[:size] = 0
        for m in range(num_members):
            one, down_by, up_by = q[m, k, start:stop], drop[m] * up, extra[m] * up
            for i in range(size):
                fall[i] = max(fall[i], down_by * one[i])
                rise[i] = max(rise[i], up_by * one[i])
        for i in range(size):
            least[i] -= fall[i]
            most[i] += rise[i]
    for i in range(size):
        kept = (least[i] <= after[i]) if np.int32(lead[i]) == me else (most[i] >= first[i])
        keep[i] = np.uint8(kept & (np.int32(labels[i]) != np.int32(255)))
    keep[size:] = 0
    words, num = keep.view(np.uint64), 0
    for n in range((size + 7) // 8):  # mostly, none of eight neighbours stays
        if words[n] != 0:
            for i in range(8 * n, 8 * n + 8):  # without a branch: which of them stay cannot be predicted
                where[num] = start + i
                num += int(keep[i])
    return num


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _settle(q, weights, k, where, second, third, runner, work, whose):  # type: ignore[no-untyped-def] # (n,) pixels of k's own
    """Looks up the two highest scores of other classes."""
    score, most, rest = work[0], work[1], work[2]
    most[: where.size] = -1
    rest[: where.size] = -1
    for j in range(q.shape[1]):
        if j == k:
            continue
        score[: where.size] = 0
        for m in range(q.shape[0]):  # in the order of `class_scores`: the same sum to the last bit
            values, w = q[m, j], weights[m, j]
            if w != 0:
                for n in range(where.size):
                    score[n] += w * values[where[n]]
        for n in range(where.size):
            better = score[n] > most[n]
            rest[n] = most[n] if better else max(rest[n], score[n])
            most[n] = score[n] if better else most[n]
            whose[n] = np.int32(j) if better else whose[n]
    for n in range(where.size):
        second[where[n]], third[where[n]], runner[where[n]] = most[n], rest[n], whose[n]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def _copy(values, where, begin, columns):  # type: ignore[no-untyped-def] # (M,P), (n,) pixels -> from the begin-th place on
    """Columns (N,M,1,BLOCK + 16): pixel n of them lies in block n // BLOCK."""
    done = 0
    while done < where.size:
        block, place = (begin + done) // BLOCK, (begin + done) % BLOCK
        size = min(where.size - done, BLOCK - place)
        for m in range(values.shape[0]):
            source, target = values[m], columns[block, m, 0, place : place + size]
            for n in range(size):
                target[n] = source[where[done + n]]
        done += size


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def contested(q, truth, ends, state, weights, k, reach, begin, columns, rivals, kinds, bounds, sizes, won):  # type: ignore[no-untyped-def]
    """The pixels from `begin` on that class k can win or lose, as many as columns can hold, in their order: its
    probabilities in columns, and what it must reach in rivals: the best other score, or one step more where the other
    class would win a tie. kinds: 3 * best other class + (0: that class is the truth, 1: k is, 2: neither is); sizes and
    won (S,3K): how many there are a stratum and kind, and how many k has; bounds (S + 1,): where each stratum's begin.
    -> how many, and where to go on"""
    low, high, drop, extra = reach
    best, second, third, who, runner = state
    first_bits, after_bits, rival_bits = best.view(np.int32), second.view(np.int32), rivals.view(np.int32)
    where, unknown, whose = np.empty(BLOCK + 8, np.int32), np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    keep = np.empty(BLOCK, np.uint8)
    work = np.empty((4, BLOCK + 16), np.float32)  # rows a power of two apart would want the same lines of the cache
    bounds[:] = 0
    sizes[:] = 0
    won[:] = 0
    num, stratum, stop = 0, 0, begin
    for start in range(begin, truth.size, BLOCK):
        if num + min(BLOCK, truth.size - start) > columns.shape[0] * BLOCK:
            break
        stop = min(start + BLOCK, truth.size)
        block = best[start:stop], second[start:stop], who[start:stop], truth[start:stop]
        found = _reachable(q, k, start, stop, low, high, drop, extra, *block, work, keep, where)
        _copy(q[:, k], where[:found], num, columns)
        lost = 0
        for n in range(found):
            unknown[lost] = where[n]
            lost += int((who[where[n]] == k) & (runner[where[n]] == UNKNOWN))
        if lost:
            _settle(q, weights, k, unknown[:lost], second, third, runner, work, whose)
        for n in range(found):
            i = where[n]
            while i >= ends[stratum]:
                stratum += 1
                bounds[stratum] = num + n
            lead, follow, t, first, after = int(who[i]), int(runner[i]), int(truth[i]), first_bits[i], after_bits[i]
            mine = lead == k  # all is read before, so that no branch is needed: which it is cannot be predicted
            other = follow if mine else lead
            kind = 3 * other + (0 if t == other else (1 if t == k else 2))
            kinds[num + n] = kind
            rival_bits[num + n] = (after if mine else first) + np.int32(other < k)  # the next float, of those above 0
            sizes[stratum, kind] += 1
            won[stratum, kind] += int(mine)
        num += found
    bounds[stratum + 1 :] = num
    return num, stop


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)
def rescore(q, weights, k, best, second, third, who, runner):  # type: ignore[no-untyped-def]
    """After class k's column of weights moved; where k may have lost a pixel, its runner must be known."""
    score, me, unknown = np.empty(BLOCK, np.float32), np.int32(k), np.int32(UNKNOWN)
    leads, follows = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(0, who.size, BLOCK):
        stop = min(start + BLOCK, who.size)
        class_scores(q, weights, k, start, stop, score)
        first, after, rest = best[start:stop], second[start:stop], third[start:stop]
        lead_of, follow_of = who[start:stop], runner[start:stop]
        for i in range(stop - start):
            s, b, a, r, lead, follow = (
                score[i],
                first[i],
                after[i],
                rest[i],
                np.int32(lead_of[i]),
                np.int32(follow_of[i]),
            )
            mine = lead == me
            one_of_two = mine | (follow == me)
            over, whose = (a if mine else b), (follow if mine else lead)  # the best other class
            ahead = (s > over) | ((s == over) & (me < whose))
            holds = s > r
            passes = (s > a) | ((s == a) & (follow != unknown) & (me < follow))
            value = (s if holds else r) if one_of_two else (s if passes else a)
            behind = (me if holds else unknown) if one_of_two else (me if passes else follow)
            first[i] = s if ahead else over
            after[i] = over if ahead else value
            rest[i] = r if one_of_two else (a if ahead | passes else max(r, s))
            leads[i] = me if ahead else whose
            follows[i] = whose if ahead else behind
        for i in range(stop - start):
            lead_of[i], follow_of[i] = leads[i], follows[i]
