"""Seeds and test rows -> one estimate of a difference: mean, standard error in two parts, interval and p-values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from equipoise.study import student

Array = np.ndarray[Any, Any]


class Estimate(NamedTuple):
    """A difference (method minus reference) and how well it is known; all but df, p-values and confidence in the metric's units.

    Attributes:
        mean: over seeds. se: sqrt(seed_part^2 + test_part^2 + tuning_part^2).
        seed_part: s / sqrt(S), the standard error that more seeds lower. test_part: sqrt(V_test), the one that they do not.
        larger: "seeds", "test rows" or "tuning", the largest part.
        df: degrees of freedom of the t distribution, math.inf where seeds do not vary.
        interval: (low, high), two-sided at `confidence`.
        p_value: two-sided, of no difference. p_greater: one-sided, small when the mean is clearly above 0.
        num_seeds: S. confidence: of the interval. tuning_part: sqrt(V_tuning), 0 unless given.
    """

    mean: float
    se: float
    seed_part: float
    test_part: float
    larger: str
    df: float
    interval: tuple[float, float]
    p_value: float
    p_greater: float
    num_seeds: int
    confidence: float
    tuning_part: float = 0.0

    def low(self, confidence: float = 0.95) -> float:
        """Return the lower end of the one-sided interval: the difference lies above it with this confidence."""
        return self.mean - student.quantile(confidence, self.df) * self.se if self.se else self.mean


def estimate(
    differences: ArrayLike,
    test_variance: float,
    *,
    confidence: float = 0.95,
    tuning_variance: float = 0.0,
    test_df: float = math.inf,
) -> Estimate:
    """Return the estimate of a mean difference over seeds on one test sample.

    SE^2 = s^2 / S + V_test with s the standard deviation of the per-seed differences (n - 1), and t = mean / SE on

        df = (S - 1) SE^2 / (s^2 / S):   1/df = c / (S - 1) + (1 - c) / infinity, c = (s^2 / S) / SE^2.

    V_test counts as known, which is an infinity of degrees of freedom; the reciprocals are weighted by the shares of variance.
    Welch and Satterthwaite weight by the squares of the shares, which is right for many degrees of freedom; here c itself
    is estimated from S - 1, is too small just when s is, and their interval covers .942 instead of .95 at 5 seeds (and
    rejects 2.2 times too often at alpha .005, which Holm asks for). With c the interval covers .950 to .960 from 5 seeds
    on, and from 10 seeds on the error stays below 1.02 alpha down to alpha = .001 (exact integrals, docs/protocol.md). With
    V_test = 0 it is the one-sample t test, with s = 0 the z test. A V_test of few groups of rows is no better known than s: with
    `test_df` the last term is (1 - c) / test_df.

    With `tuning_variance` 0 the estimate is of the difference between the two settings that were chosen. With that of
    `choice_variance`, added over both sides, it is of the difference between the two searches; it counts as known, too.

    Seeds and rows both hold the interaction of seeds and rows, which is thus counted twice: the interval is a little
    too wide for it.

    Args:
        differences: [S] metric(method) - metric(reference) seed by seed on the same test rows, the same seed list for both.
        test_variance: of the seed-mean difference over test samples (`delong`, `bootstrap_groups`), >= 0.
        confidence: of the two-sided interval. test_df: degrees of freedom of V_test, the number of groups less 1 where rows come in groups.

    Example:
        >>> found = estimate([0.001, 0.003, 0.002], 1e-6)
        >>> round(found.mean, 6), round(found.se, 6), found.larger, round(found.df, 6)
        (0.002, 0.001155, 'test rows', 8.0)

    Raises:
        ValueError: fewer than two seeds, a value that is not finite, a negative variance, or a difference other than 0 of
            which nothing varies.
    """
    d = np.asarray(differences, np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"differences must be [S] of at least 2 seeds, got shape {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError(
            f"differences must be finite, got {d[~np.isfinite(d)]}; leave failed runs' seeds out of both sides"
        )
    if not (math.isfinite(test_variance) and test_variance >= 0):
        raise ValueError(f"test_variance must be finite and >= 0, got {test_variance}")
    if not (math.isfinite(tuning_variance) and tuning_variance >= 0):
        raise ValueError(f"tuning_variance must be finite and >= 0, got {tuning_variance}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    num, mean = len(d), float(d.mean())
    same = bool((d == d[0]).all())  # the rounded mean of equal numbers need not equal them
    seeds = 0.0 if same else float(d.var(ddof=1)) / num
    se = math.sqrt(seeds + test_variance + tuning_variance)
    parts = {"test rows": test_variance, "seeds": seeds, "tuning": tuning_variance}
    if se == 0 and mean != 0:
        raise ValueError(
            f"differences are all {mean:g} and test_variance is 0: nothing tells how sure that is; "
            "give the variance of the test sample"
        )
    if not test_df > 0:
        raise ValueError(f"test_df must be above 0, got {test_df}; one group of rows tells no variance")
    # 1/df times SE^2: each part over its own degrees of freedom
    spread = seeds / (num - 1) + test_variance / test_df
    df = se * se / spread if spread > 0 else math.inf
    t = mean / se if se else 0.0
    half = student.quantile(0.5 + confidence / 2, df) * se if se else 0.0
    return Estimate(
        mean=mean,
        se=se,
        seed_part=math.sqrt(seeds),
        test_part=math.sqrt(test_variance),
        larger=max(parts, key=lambda name: parts[name]),
        df=df,
        interval=(mean - half, mean + half),
        p_value=min(1.0, 2 * student.tail(abs(t), df)),
        p_greater=student.tail(t, df),
        num_seeds=num,
        confidence=confidence,
        tuning_part=math.sqrt(tuning_variance),
    )


def mean_over_tasks(
    differences: ArrayLike,
    test_covariance: ArrayLike,
    *,
    confidence: float = 0.95,
    tuning_variance: float = 0.0,
    test_df: float = math.inf,
) -> Estimate:
    """Return the estimate of the mean over tasks of the difference: the primary contrast.

    Tasks of one run share seed and rows. Seeds: the mean over tasks is taken seed by seed, so that s holds their
    covariance. Test rows: V_test = sum of the covariance matrix / T^2.

    Args:
        differences: [T, S], a row a task. test_covariance: [T, T], of `task_covariance` (DeLong) or `replicate_covariance`
            (common resamples of groups). tuning_variance: of the mean over tasks. test_df: as in `estimate`.

    Raises:
        ValueError: shapes do not fit, or what `estimate` refuses.
    """
    d, covariance = np.asarray(differences, np.float64), np.asarray(test_covariance, np.float64)
    if d.ndim != 2 or not len(d):
        raise ValueError(f"differences must be [T, S], tasks by seeds, got shape {d.shape}")
    if covariance.shape != (len(d), len(d)):
        raise ValueError(f"test_covariance must be [{len(d)}, {len(d)}], got shape {covariance.shape}")
    # opposite errors of the tasks may cancel to a rounding below 0
    variance = max(0.0, float(covariance.sum())) if np.isfinite(covariance).all() else math.nan
    return estimate(
        d.mean(0),
        variance / len(d) ** 2,
        confidence=confidence,
        tuning_variance=tuning_variance,
        test_df=test_df,
    )
