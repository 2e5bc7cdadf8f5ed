"""The frontier of L0 against FVU, in rounds: coarse in k and width, then closer where it is steep.

    [vary]
    k = [8, 128]                      # the smallest and the largest
    expansion_factor = [8, 32]        # the widths
    rounds = 3                        # closer looks after the first
    jobs_per_round = 2

The first round trains the smallest, the middle and the largest k of each width. Every further round
looks for the two neighbours on the frontier between which the logarithm of the FVU falls the most, and
trains the k in the middle of them (geometrically). Lists of other settings are refused: there is one
frontier.
"""

import math
from collections import defaultdict
from statistics import fmean

SETTINGS = {
    "k": (..., "[smallest, largest] number of active latents"),
    "expansion_factor": (..., "list of widths, in latents per input dimension"),
    "rounds": (3, "rounds after the first"),
    "jobs_per_round": (2, "jobs in each of them, at most"),
}

# A k between two that are nearer to each other would tell nothing new.
LEAST_RATIO = 1.2


def plan(request):
    vary = {name: request.vary.get(name, default) for name, (default, _) in SETTINGS.items()}
    others = {key: value for key, value in request.vary.items() if key not in SETTINGS}
    low, high, widths = check(vary, others)
    if request.round == 0:
        more()
        for width in widths:
            for k in sorted({low, middle(low, high), high}):
                yield point(width, k, others)
        return
    # Rounded, so that noise in the last digit decides nothing.
    rank = lambda gap: (-round(gap["fall"], 6), gap["width"], gap["k"])
    gaps = sorted(steepest(request.results), key=rank)[: vary["jobs_per_round"]]
    if gaps and request.round < vary["rounds"]:
        more()
    for gap in gaps:
        yield point(gap["width"], gap["k"], others)


def check(vary, others):
    match vary:
        case {"k": [int(low), int(high)], "expansion_factor": [_, *_] as widths} if 0 < low < high:
            pass
        case _:
            raise ValueError("[vary] needs k = [smallest, largest] and expansion_factor = [widths]")
    for key, value in others.items():
        if isinstance(value, list) and key not in ("hookpoints", "layers", "init_seeds"):
            raise ValueError(f"[vary] {key} is a list: `pareto` varies k and expansion_factor alone")
    return low, high, widths


def point(width, k, others):
    overrides = {**others, "expansion_factor": width, "k": k}
    return job(overrides, name=f"expansion_factor={width},k={k}")


def middle(low, high):
    return round(math.sqrt(low * high))


def steepest(results):
    """The gaps between neighbours on the frontier of each width, with the fall of log FVU in them."""
    fvus = defaultdict(list)
    for result in results:
        key = result.overrides["expansion_factor"], result.overrides["k"]
        fvus[key].append(max(result.fvu, 1e-9))
    tried = set(fvus)
    for width in sorted({width for width, _ in tried}):
        curve = sorted((k, fmean(map(math.log, fvus[width, k]))) for w, k in tried if w == width)
        for (low, before), (high, after) in zip(curve, curve[1:]):
            k = middle(low, high)
            if high / low >= LEAST_RATIO**2 and (width, k) not in tried:
                yield {"width": width, "k": k, "fall": before - after}
