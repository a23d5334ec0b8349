"""The two highest scores of every pixel, kept in step with the weights: all that the exact search remembers of a
pixel.

Enters: a sample's probabilities (M,K,P) float32, weights (M,K), labels (P,) uint8. Leaves: best, second (P,) float32
and their classes who, runner (P,) uint8; ten bytes a pixel, where the scores of all classes would take 4 K. A runner
of UNKNOWN says that another class may have overtaken it; it is looked up when it is needed: where `who` itself moves.
"""

from __future__ import annotations

import numba
import numpy as np

from analysis.voting import BLOCK, class_scores

UNKNOWN = 255  # no class: 255 is the label of ignored pixels


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
def settle(q, weights, k, second, who, runner):  # type: ignore[no-untyped-def] # looks up the unknown runners of k's own pixels
    where, whose = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int32)
    score, most = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, who.size, BLOCK):
        num = 0
        for i in range(start, min(start + BLOCK, who.size)):
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
                for n in range(num):
                    score[n] += w * values[where[n]]
            for n in range(num):
                better = score[n] > most[n]
                most[n] = score[n] if better else most[n]
                whose[n] = np.int32(j) if better else whose[n]
        for n in range(num):
            second[where[n]], runner[where[n]] = most[n], whose[n]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def rescore(q, weights, k, best, second, who, runner):  # type: ignore[no-untyped-def]
    """After class k's column of weights moved; the runners of its own pixels must be known."""
    score = np.empty(BLOCK, np.float32)
    for start in range(0, who.size, BLOCK):
        stop = min(start + BLOCK, who.size)
        class_scores(q, weights, k, start, stop, score)
        for i in range(start, stop):
            s, lead, follow = score[i - start], who[i], runner[i]
            if lead == k:
                if s > second[i] or (s == second[i] and k < follow):
                    best[i] = s
                else:
                    best[i], who[i], runner[i] = second[i], follow, UNKNOWN
            elif s > best[i] or (s == best[i] and k < lead):
                second[i], runner[i] = best[i], lead
                best[i], who[i] = s, k
            elif follow == k:
                if s < second[i]:
                    runner[i] = UNKNOWN
                else:
                    second[i] = s
            elif follow != UNKNOWN and (s > second[i] or (s == second[i] and k < follow)):
                second[i], runner[i] = s, k


@numba.njit(cache=True, nogil=True, error_model="numpy")
def contested(q, truth, state, k, cap, index, kinds, starts):  # type: ignore[no-untyped-def]
    """The pixels that class k can win with weights up to `cap`, in index and, as 3 * best other class + (0: that
    class is the truth, 1: k is, 2: neither is), in kinds; starts (3K+1,) is filled with where each kind begins."""
    best, second, who, runner = state
    reach, rival, kind = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    me = np.int32(k)
    num = 0
    starts[:] = 0
    for start in range(0, truth.size, BLOCK):
        stop = min(start + BLOCK, truth.size)
        size = stop - start
        labels = truth[start:stop]
        first, after, lead, follow = best[start:stop], second[start:stop], who[start:stop], runner[start:stop]
        reach[:] = 0
        for m in range(q.shape[0]):
            values = q[m, k, start:stop]
            for i in range(size):
                reach[i] += cap * values[i]
        for i in range(size):  # 32 bits throughout: the wider the numbers, the fewer at once
            j, t = np.int32(lead[i]), np.int32(labels[i])
            other = np.int32(follow[i]) if j == me else j
            rival[i] = after[i] if j == me else first[i]
            side = np.int32(0) if t == other else (np.int32(1) if t == me else np.int32(2))
            kind[i] = np.int32(-1) if t == np.int32(255) else np.int32(3) * other + side
        for i in range(size):  # without a branch: which pixels stay cannot be predicted
            index[num] = start + i
            kinds[num] = kind[i]
            num += (reach[i] >= rival[i]) & (kind[i] >= 0)
    for n in range(num):
        starts[kinds[n] + 1] += 1
    for n in range(1, starts.size):
        starts[n] += starts[n - 1]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def gather(q, state, k, index, kinds, starts, rivals, columns):  # type: ignore[no-untyped-def]
    """Pixels of one kind side by side, so that every later loop is free of branches: the best other score in
    rivals (n,), class k's probabilities in columns (M,1,n)."""
    best, second, who, _ = state
    free = starts[:-1].copy()
    to = np.empty(BLOCK, np.int64)
    for start in range(0, rivals.size, BLOCK):
        here = index[start : min(start + BLOCK, rivals.size)]
        for n in range(here.size):
            i, kind = here[n], kinds[start + n]
            to[n] = free[kind]
            free[kind] += 1
            rivals[to[n]] = second[i] if who[i] == k else best[i]
        for m in range(q.shape[0]):
            values, target = q[m, k], columns[m, 0]
            for n in range(here.size):
                target[to[n]] = values[here[n]]
