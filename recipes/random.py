"""Jobs at random: each key of [vary] is a list to choose from, or a distribution.

    [vary]
    n = 8                                         # jobs
    k = [16, 32, 64]                              # one of these
    expansion_factor = { log_uniform_int = [4, 64] }
    lr = { log_uniform = [1e-4, 1e-2] }           # or { uniform = [a, b] }, { uniform_int = [a, b] }

The sweep's `seed` decides: the same seed gives the same jobs on every machine.
"""

import math
import random

SETTINGS = {"n": (..., "number of jobs, all of them different")}

# Draws in vain after which no more different jobs are expected.
MOST_DRAWS_IN_VAIN = 1000


def plan(request):
    vary = dict(request.vary)
    n = vary.pop("n", None)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"[vary] n must be the number of jobs, got {n!r}")
    if not vary:
        raise ValueError("[vary] has nothing to draw: give a setting a list or a distribution")
    seen, in_vain = set(), 0
    while len(seen) < n:
        overrides = {key: draw(key, how) for key, how in vary.items()}
        name = ",".join(f"{key}={show(value)}" for key, value in overrides.items())
        in_vain = in_vain + 1 if name in seen else 0
        if in_vain > MOST_DRAWS_IN_VAIN:
            raise ValueError(f"[vary] n = {n}, and only {len(seen)} different jobs were found")
        if in_vain == 0:
            seen.add(name)
            yield job(overrides, name=name)


def draw(key, how):
    if isinstance(how, list):
        if not how:
            raise ValueError(f"[vary] {key} is an empty list")
        return random.choice(how)
    if not isinstance(how, dict):
        return how
    match list(how.items()):
        case [(kind, [low, high])] if kind in DISTRIBUTIONS and is_range(kind, low, high):
            return DISTRIBUTIONS[kind](low, high)
    known = ", ".join(DISTRIBUTIONS)
    raise ValueError(f"[vary] {key} must be one of {known}, with [low, high], got {how}")


def is_range(kind, low, high):
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (low, high))
    return numbers and low <= high and (low > 0 or not kind.startswith("log"))


def log_uniform(low, high):
    # Four digits are enough for a setting, and can be read.
    return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.4g}")


DISTRIBUTIONS = {
    "uniform": lambda low, high: float(f"{random.uniform(low, high):.4g}"),
    "log_uniform": log_uniform,
    "uniform_int": lambda low, high: random.randint(math.ceil(low), math.floor(high)),
    "log_uniform_int": lambda low, high: min(max(round(log_uniform(low, high)), math.ceil(low)), math.floor(high)),
}


def show(value):
    return "+".join(map(show, value)) if isinstance(value, list) else f"{value}"
