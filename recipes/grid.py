"""Every combination of the values in [vary]; the last key varies fastest."""

from itertools import product


def plan(request):
    axes = {key: as_list(key, value) for key, value in request.vary.items()}
    for values in product(*axes.values()):
        overrides = dict(zip(axes, values))
        name = ",".join(f"{key}={show(value)}" for key, value in overrides.items())
        yield job(overrides, name=name or "job")


def as_list(key, value):
    if value == []:
        raise ValueError(f"[vary] {key} is an empty list: it would leave no job")
    return value if isinstance(value, list) else [value]


def show(value):
    return "+".join(map(show, value)) if isinstance(value, list) else f"{value}"
