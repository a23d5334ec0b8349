"""The two highest scores of every pixel, kept in step with the weights: all that the exact search remembers of a
pixel.

Enters: a sample's probabilities (M,K,P) float32, weights (M,K), labels (P,) uint8. Leaves: best, second (P,) float32
and their classes who, runner (P,) uint8; ten bytes a pixel, where the scores of all classes would take 4 K. A runner
of UNKNOWN says that several classes may come second and that `second` is no less than any of their scores: it is
looked up only where such a pixel's `who` may lose it.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.voting import BLOCK, class_scores

UNKNOWN = 255  # no class: 255 is the label of ignored pixels
SLACK = np.float32(1e-5)  # more than the rounding of a sum over members


@numba.njit(cache=True, nogil=True, error_model="numpy")
def top_two(q, weights, best, second, who, runner):  # type: ignore[no-untyped-def] # (M,K,P), (M,K) -> (P,) x4
    """From scratch. The lower class comes first of equal scores, as in a vote."""
    score, first, after = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    lead, follow = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(0, best.size, BLOCK):
        stop = min(start + BLOCK, best.size)
        class_scores(q, weights, 0, start, stop, first)
        after[:] = -1
        lead[:] = 0
        follow[:] = 0
        for k in range(1, q.shape[1]):
            class_scores(q, weights, k, start, stop, score)
            for i in range(stop - start):
                s, b = score[i], first[i]
                leads, follows = s > b, s > after[i]
                after[i] = b if leads else (s if follows else after[i])
                follow[i] = lead[i] if leads else (np.int32(k) if follows else follow[i])
                first[i] = s if leads else b
                lead[i] = np.int32(k) if leads else lead[i]
        for i in range(stop - start):
            best[start + i], second[start + i] = first[i], after[i]
            who[start + i], runner[start + i] = lead[i], follow[i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def reachable(q, truth, state, k, low, high, drop, extra, index):  # type: ignore[no-untyped-def] # (M,K,P), (P,), .., (M,) x4 -> n
    """Writes into index the pixels that class k can win or lose while its weights stay within [low, high] but for one
    member m, whose weight may fall by drop[m] more or rise by extra[m] more."""
    best, second, who, _ = state
    least, most = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    fall, rise = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    keep = np.empty(BLOCK, np.int32)
    me, alone = np.int32(k), drop.any() or extra.any()
    down, up = np.float32(1) - SLACK, np.float32(1) + SLACK
    num = 0
    for start in range(0, truth.size, BLOCK):
        stop = min(start + BLOCK, truth.size)
        size = stop - start
        least[:] = 0
        most[:] = 0
        fall[:] = 0
        rise[:] = 0
        for m in range(q.shape[0]):
            values, lo, hi = q[m, k, start:stop], low[m], high[m]
            for i in range(size):
                least[i] += lo * values[i]
                most[i] += hi * values[i]
            if alone:
                d, e = drop[m], extra[m]
                for i in range(size):
                    fall[i] = max(fall[i], d * values[i])
                    rise[i] = max(rise[i], e * values[i])
        first, after, lead, labels = best[start:stop], second[start:stop], who[start:stop], truth[start:stop]
        for i in range(size):
            loses = least[i] * down - fall[i] <= after[i]
            wins = (most[i] + rise[i]) * up >= first[i]
            keep[i] = (loses if np.int32(lead[i]) == me else wins) & (np.int32(labels[i]) != np.int32(255))
        for i in range(size):  # without a branch: which pixels stay cannot be predicted
            index[num] = start + i
            num += keep[i]
    return num


@numba.njit(cache=True, nogil=True, error_model="numpy")
def settle(q, weights, k, index, second, who, runner):  # type: ignore[no-untyped-def] # looks up the unknown runners of k's own pixels
    where, whose = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int32)
    score, most = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, index.size, BLOCK):
        num = 0
        for n in range(start, min(start + BLOCK, index.size)):
            i = index[n]
            where[num] = i
            num += (who[i] == k) & (runner[i] == UNKNOWN)
        if num == 0:
            continue
        most[:num] = -1
        for j in range(q.shape[1]):
            if j == k:
                continue
            score[:num] = 0
            for m in range(q.shape[0]):  # in the order of `class_scores`: the same sum to the last bit
                values, w = q[m, j], weights[m, j]
                if w != 0:
                    for n in range(num):
                        score[n] += w * values[where[n]]
            for n in range(num):
                better = score[n] > most[n]
                most[n] = score[n] if better else most[n]
                whose[n] = np.int32(j) if better else whose[n]
        for n in range(num):
            second[where[n]], runner[where[n]] = most[n], whose[n]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def arrange(truth, ends, state, k, num_classes, index, kinds, starts, order, rivals, won):  # type: ignore[no-untyped-def]
    """Puts the pixels of index (n,) side by side by kind, so that every later loop is free of branches: pixel order[i]
    has the best other score rivals[i]. A kind is 3 K * stratum + 3 * best other class + (0: that class is the truth,
    1: k is, 2: neither is); starts (3 K S + 1,) says where each begins, won (3 K S,) how many k has."""
    best, second, who, runner = state
    starts[:] = 0
    won[:] = 0
    stratum = 0
    for n in range(index.size):
        i = index[n]
        while i >= ends[stratum]:
            stratum += 1
        mine, t = who[i] == k, truth[i]
        other = runner[i] if mine else who[i]
        side = 0 if t == other else (1 if t == k else 2)
        kind = 3 * (num_classes * stratum + other) + side
        kinds[n] = kind
        starts[kind + 1] += 1
        won[kind] += mine
    for kind in range(won.size):
        starts[kind + 1] += starts[kind]
    free = starts[:-1].copy()
    for n in range(index.size):
        i, kind = index[n], kinds[n]
        to = free[kind]
        free[kind] = to + 1
        order[to] = i
        rivals[to] = second[i] if who[i] == k else best[i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def gather(q, k, order, columns):  # type: ignore[no-untyped-def] # class k's probabilities of n pixels -> (M,1,n)
    for m in range(q.shape[0]):
        values, target = q[m, k], columns[m, 0]
        for n in range(order.size):
            target[n] = values[order[n]]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def rescore(q, weights, k, best, second, who, runner):  # type: ignore[no-untyped-def]
    """After class k's column of weights moved; where k may have lost a pixel, its runner must be known."""
    score, me, unknown = np.empty(BLOCK, np.float32), np.int32(k), np.int32(UNKNOWN)
    leads, follows = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(0, who.size, BLOCK):
        stop = min(start + BLOCK, who.size)
        class_scores(q, weights, k, start, stop, score)
        first, after, lead_of, follow_of = best[start:stop], second[start:stop], who[start:stop], runner[start:stop]
        for i in range(stop - start):
            s, b, a, lead, follow = score[i], first[i], after[i], np.int32(lead_of[i]), np.int32(follow_of[i])
            mine = lead == me
            over, whose = (a if mine else b), (follow if mine else lead)  # the best other class
            ahead = (s > over) | ((s == over) & (me < whose))
            up = (s > a) | ((s == a) & ((follow == me) | ((follow != unknown) & (me < follow))))
            behind = me if up else (unknown if follow == me else follow)
            first[i] = s if ahead else over
            after[i] = over if ahead | mine else (s if up else a)
            leads[i] = me if ahead else whose
            follows[i] = whose if ahead else (unknown if mine else behind)
        for i in range(stop - start):
            lead_of[i], follow_of[i] = leads[i], follows[i]
